package memsafe

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"text/template"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const content = "hush-hush-hush-hush-hush-hush-!!"

// leaks reports whether text holds content in any shape that a printer gives it.
func leaks(text string) bool {
	lower := strings.ToLower(text)
	list := strings.Trim(fmt.Sprint([]byte(content[:4])), "[]")
	for _, shape := range []string{
		content[:8], hex.EncodeToString([]byte(content[:8])), fmt.Sprintf("% x", content[:8]),
		strings.ToLower(base64.StdEncoding.EncodeToString([]byte(content[:9]))),
		list, strings.ReplaceAll(list, " ", ","), strings.ReplaceAll(list, " ", ", "),
		"0x68, 0x75, 0x73, 0x68", "0x68 0x75 0x73 0x68", // hush
		fmt.Sprintf("%b", []byte(content[:4])), fmt.Sprintf("%o", []byte(content[:4])), fmt.Sprintf("%U", []byte(content[:4])),
	} {
		if strings.Contains(lower, strings.ToLower(strings.Trim(shape, "[]"))) {
			return true
		}
	}
	return false
}

// holder has a secret in every place that a struct offers.
type holder struct {
	Public  *Secret
	private *Secret
	Value   Secret
	value   Secret
	Any     any
	List    []*Secret
	Map     map[string]*Secret
	pool    *Pool
}

// prints is what every way of printing makes of v.
func prints(t *testing.T, v any) map[string]string {
	out := map[string]string{}
	for _, verb := range "vsqxXdobOcUeEfFgGtTpw" {
		for _, flags := range []string{"", "+", "#", " ", "-20", "020", "#+", ".3", "10.3"} {
			format := "%" + flags + string(verb)
			out[format] = fmt.Sprintf(format, v)
		}
	}
	out["print"] = fmt.Sprint(v) + fmt.Sprintln(v)
	out["error"] = fmt.Errorf("wrapped: %v", v).Error()
	var buf bytes.Buffer
	log.New(&buf, "", 0).Println(v)
	slog.New(slog.NewTextHandler(&buf, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	slog.New(slog.NewJSONHandler(&buf, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	require.NoError(t, template.Must(template.New("").Parse("{{.}} {{printf \"%x\" .}}")).Execute(&buf, v))
	out["log"] = buf.String()
	if b, err := json.Marshal(v); err == nil {
		out["json"] = string(b)
	}
	var diff recorder // a printer that follows every pointer
	assert.Equal(&diff, v, nil)
	out["testify"] = string(diff)
	require.NotEmpty(t, out["testify"])
	return out
}

type recorder string

func (r *recorder) Errorf(format string, args ...any) { *r += recorder(fmt.Sprintf(format, args...)) }

func TestRedacted(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		p := poolOf(t, take, 4096)
		s, err := p.Alloc(len(content))
		require.NoError(t, err)
		copy(s.Bytes(), content)

		forms := map[string]any{
			"pointer": s, "value": *s, "pool": p, "slice": []*Secret{s}, "array": [1]Secret{*s}, "map": map[string]any{"k": s},
			"struct":   holder{s, s, *s, *s, s, []*Secret{s}, map[string]*Secret{"k": s}, p},
			"*struct":  &holder{s, s, *s, *s, s, []*Secret{s}, map[string]*Secret{"k": s}, p},
			"embedded": struct{ *Secret }{s},
		}
		for name, form := range forms {
			for how, text := range prints(t, form) {
				require.False(t, leaks(text), "%s by %s: %s", name, how, text)
			}
		}
		for how, text := range prints(t, s) {
			if how[0] == '%' && !strings.ContainsAny(how, "Tpw") { // those never ask the value
				require.Equal(t, redacted, text, how)
			}
		}
		b, err := json.Marshal(map[string]any{"pointer": s, "value": *s})
		require.NoError(t, err)
		require.JSONEq(t, `{"pointer":"[redacted]","value":"[redacted]"}`, string(b))
		require.Equal(t, redacted, s.String())
		require.Equal(t, redacted, s.GoString())

		// The control: plain bytes are found in nearly all of that.
		caught := map[string]bool{}
		for _, form := range []any{s.Bytes(), struct{ B []byte }{s.Bytes()}, struct{ b []byte }{s.Bytes()}} {
			for how, text := range prints(t, form) {
				caught[how] = caught[how] || leaks(text)
			}
		}
		for _, how := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%b", "%o", "%U", "print", "log", "json", "testify"} {
			require.True(t, caught[how], "%s would not be noticed", how)
		}
	})
}

// Two secrets cannot be compared with ==, which would not be constant-time and
// would compare places instead of contents.
func TestNotComparable(t *testing.T) {
	require.False(t, reflect.TypeFor[Secret]().Comparable())
	require.False(t, reflect.TypeFor[Pool]().Comparable())
	require.True(t, reflect.TypeOf(Status{}).Comparable(), "the control")
}
