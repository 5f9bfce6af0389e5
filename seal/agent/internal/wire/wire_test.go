package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A vector is one file of testdata: `key: value` lines.
type vector struct {
	name  string
	frame []byte
	keys  map[string]string
}

func vectors(t testing.TB) []vector {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 20, "the vectors are gone")
	var all []vector
	for _, name := range files {
		f, err := os.Open(name)
		require.NoError(t, err)
		v := vector{name: filepath.Base(name), keys: map[string]string{}}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if key, value, ok := strings.Cut(lines.Text(), ":"); ok && !strings.HasPrefix(key, "#") {
				v.keys[key] += strings.TrimSpace(value)
			}
		}
		require.NoError(t, f.Close())
		v.frame, err = hex.DecodeString(strings.ReplaceAll(v.keys["frame"], " ", ""))
		require.NoError(t, err, name)
		all = append(all, v)
	}
	return all
}

// parse parses a frame as whoever receives it would, and makes it again.
func parse(b []byte) (again []byte, err error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	body := b[HeaderSize:]
	if len(body) != h.Length {
		return nil, ErrMalformed
	}
	if h.Reply {
		return parseReply(h, body)
	}
	switch h.Op {
	case Reserve:
		r, err := ParseReserve(body)
		if err != nil {
			return nil, err
		}
		return r.Marshal()
	case Open, TakeBack:
		r, err := ParseOpen(h.Op, body)
		if err != nil {
			return nil, err
		}
		return r.Marshal(h.Op)
	case Cancel:
		start, err := ParseCancel(body)
		if err != nil {
			return nil, err
		}
		return MarshalCancel(start)
	case Inspect:
		token, err := ParseInspect(body)
		if err != nil {
			return nil, err
		}
		return MarshalInspect(token)
	case Stat:
		if len(body) != 0 {
			return nil, ErrMalformed
		}
		return MarshalStat()
	case Rotate:
		suite, err := ParseRotate(body)
		if err != nil {
			return nil, err
		}
		return MarshalRotate(suite)
	case Retire:
		epoch, err := ParseRetire(body)
		if err != nil {
			return nil, err
		}
		return MarshalRetire(epoch)
	case Prepare:
		r, err := ParsePrepare(body)
		if err != nil {
			return nil, err
		}
		return r.Marshal()
	case Seal:
		start, plain, err := ParseSeal(body)
		if err != nil {
			return nil, err
		}
		prefix, err := SealPrefix(start, len(plain))
		return append(prefix, plain...), err
	case OpenAny:
		r, err := ParseOpenAny(body)
		if err != nil {
			return nil, err
		}
		return r.Marshal()
	}
	return nil, ErrMalformed
}

func parseReply(h Header, body []byte) ([]byte, error) {
	if h.Status != OK {
		major, text, err := ParseFailure(body)
		if err != nil {
			return nil, err
		}
		again := Failure(h.Op, h.Status, string(text))
		if major != h.Status.Major() {
			return nil, ErrMalformed
		}
		return again, nil
	}
	switch h.Op {
	case Reserve:
		const key = 32
		if len(body) < 2+key {
			return nil, ErrMalformed
		}
		prefix := append(make([]byte, HeaderSize), body[:2]...)
		start, err := ParseReserved(h, prefix, key, body[2+key:])
		if err != nil {
			return nil, err
		}
		return bytes.Join([][]byte{KeyPrefix(key, len(start)), body[2 : 2+key], KeySuffix(start)}, nil), nil
	case Prepare:
		starts, err := ParsePrepared(body)
		if err != nil {
			return nil, err
		}
		return MarshalPrepared(starts), nil
	case Seal:
		token, err := ParseSealed(body)
		if err != nil {
			return nil, err
		}
		return MarshalSealed(token), nil
	case Open, TakeBack, OpenAny:
		if len(body) < 4 {
			return nil, ErrMalformed
		}
		n, err := PlainLength(h, append(make([]byte, HeaderSize), body[:4]...))
		if err != nil {
			return nil, err
		}
		return append(PlainPrefix(h.Op, n), body[4:4+n]...), nil
	case Stat:
		st, err := ParseStatus(body)
		if err != nil {
			return nil, err
		}
		return st.Marshal()
	}
	return Frame(h, body), nil
}

// What the specification gives as good parses, and is made again byte for byte;
// what it gives as bad does not.
func TestVectors(t *testing.T) {
	seen := map[string]int{}
	for _, v := range vectors(t) {
		again, err := parse(v.frame)
		seen[v.keys["expect"]]++
		switch v.keys["expect"] {
		case "ok":
			require.NoError(t, err, v.name)
			require.Equal(t, v.frame, again, v.name)
		case "malformed":
			require.ErrorIs(t, err, ErrMalformed, v.name)
		default:
			require.Fail(t, "no expect line", v.name)
		}
	}
	require.NotZero(t, seen["ok"])
	require.NotZero(t, seen["malformed"])
}

// Every good frame is refused when it is cut or gets a byte more.
func TestTruncated(t *testing.T) {
	for _, v := range vectors(t) {
		if v.keys["expect"] != "ok" {
			continue
		}
		for n := range v.frame {
			_, err := parse(v.frame[:n])
			require.ErrorIs(t, err, ErrMalformed, "%s cut to %d", v.name, n)
		}
		longer := append(bytes.Clone(v.frame), 0)
		longer[11]++ // the header agrees that there is one more
		_, err := parse(longer)
		if h, _ := ParseHeader(longer); h.Reply && h.Status == OK && h.Op != Stat && h.Op != Reserve && h.Op != Open && h.Op != TakeBack && h.Op != OpenAny && h.Op != Prepare && h.Op != Seal {
			continue // answers of one byte or none, which the client measures
		}
		require.ErrorIs(t, err, ErrMalformed, "%s with a byte more", v.name)
	}
}

func TestTooLong(t *testing.T) {
	for name, make := range map[string]func() ([]byte, error){
		"token":     func() ([]byte, error) { return (&OpenRequest{Token: make([]byte, MaxBody)}).Marshal(Open) },
		"format":    func() ([]byte, error) { return (&OpenRequest{Format: make([]byte, 1<<16)}).Marshal(Open) },
		"suites":    func() ([]byte, error) { return (&ReserveRequest{Suites: make([]byte, 256)}).Marshal() },
		"mechanism": func() ([]byte, error) { return (&ReserveRequest{Mechanism: make([]byte, 1<<16)}).Marshal() },
		"start":     func() ([]byte, error) { return MarshalCancel(make([]byte, 1<<16)) },
		"seal":      func() ([]byte, error) { return SealPrefix(make([]byte, 300), MaxBody) },
		"exporters": func() ([]byte, error) {
			return (&OpenRequest{Exporters: make([][]byte, MaxExporters+1)}).Marshal(Open)
		},
		"take back": func() ([]byte, error) { return (&OpenRequest{Exporters: make([][]byte, 1)}).Marshal(TakeBack) },
		"formats":   func() ([]byte, error) { return (&OpenAnyRequest{Formats: make([][]byte, MaxFormats+1)}).Marshal() },
		"prepare":   func() ([]byte, error) { return (&PrepareRequest{Count: MaxPrepared + 1}).Marshal() },
		"inspect":   func() ([]byte, error) { return MarshalInspect(make([]byte, MaxBody)) },
		"status":    func() ([]byte, error) { return (&Status{Epochs: make([]Epoch, 2000)}).Marshal() },
	} {
		_, err := make()
		require.ErrorIs(t, err, ErrMalformed, name)
	}
	frame, err := (&OpenRequest{Token: make([]byte, MaxBody-6)}).Marshal(Open)
	require.NoError(t, err)
	require.Len(t, frame, MaxFrame)
}

func TestCodes(t *testing.T) {
	names := map[string]bool{}
	for c := OK; c <= lastCode; c++ {
		require.True(t, c.Known())
		require.NotEmpty(t, c.String())
		require.False(t, names[c.String()])
		names[c.String()] = true
		require.Equal(t, c == OK, c.Major() == MajorComplete)
		require.Zero(t, c.Major()&^0xff0000)
	}
	unknown := lastCode + 1
	require.False(t, unknown.Known())
	require.EqualValues(t, MajorFailure, unknown.Major())
	require.Equal(t, "code 16", unknown.String())
	require.Equal(t, "operation 99", Op(99).String())
	require.Equal(t, "take back", TakeBack.String())
	long := Failure(Open, Refused, strings.Repeat("x", 5000))
	_, text, err := ParseFailure(long[HeaderSize:])
	require.NoError(t, err)
	require.Len(t, text, MaxText)
}

// What parses is made again byte for byte: there is one way to write a frame.
func FuzzFrame(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.frame)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := parse(b)
		if err == nil && !bytes.Equal(b, again) {
			t.Fatalf("%x was made again as %x", b, again)
		}
	})
}

// The vectors are what this version writes; -run TestWriteVectors with the
// variable set writes them anew.
func TestWriteVectors(t *testing.T) {
	token := bytes.Repeat([]byte{0x5a}, 8)
	start := bytes.Repeat([]byte{0xa5}, 4)
	status := &Status{Admin: true, Outstanding: 3, Limit: 1024, Suites: []byte{1, 2},
		Epochs: []Epoch{{ID: [16]byte{1, 2, 3}, Suite: 1, Seals: true, Age: time.Second, Outstanding: 2, Limit: 16384, MaxLifetime: time.Hour}}}
	must := func(b []byte, err error) []byte { require.NoError(t, err); return b }
	reserve := ReserveRequest{Lifetime: time.Minute, Suites: []byte{1, 2}, Mechanism: []byte{42, 134, 72}, Format: []byte("mit/2/amd64")}
	forUser, forService, forProcess := reserve, reserve, reserve
	forUser.Audience = []byte{1, 0, 0, 0x03, 0xe8}
	forService.Audience = append([]byte{3}, "mail"...)
	forProcess.Audience = []byte{4}
	prepare := PrepareRequest{Lifetime: time.Minute, Count: 2, Mechanism: []byte{42, 134, 72}, Format: []byte("mit/2/amd64")}
	prepareService := prepare
	prepareService.Audience = append([]byte{3}, "mail"...)
	openAny := &OpenAnyRequest{Formats: [][]byte{[]byte("mit/2/amd64"), []byte("mit/1")}, Token: token}
	open := &OpenRequest{Format: []byte("mit/2/amd64"), Token: token}
	exporters := [][]byte{{1, 0, 0, 0x03, 0xe8}, append([]byte{3}, "front"...)}
	good := map[string][]byte{
		"reserve-self":    must(reserve.Marshal()),
		"reserve-user":    must(forUser.Marshal()),
		"reserve-service": must(forService.Marshal()),
		"reserve-process": must(forProcess.Marshal()),
		"reserve-reply":   bytes.Join([][]byte{KeyPrefix(32, len(start)), bytes.Repeat([]byte{0x4b}, 32), KeySuffix(start)}, nil),
		"open":            must(open.Marshal(Open)),
		"open-reply":      append(PlainPrefix(Open, 5), "plain"...),
		"open-empty":      PlainPrefix(Open, 0),
		"open-defective":  Failure(Open, Defective, ""),
		"open-spent":      Failure(Open, Spent, "seal: token already imported"),
		"open-lost":       Failure(Open, Lost, "seal: token claimed too late: seal: token expired"),
		"takeback":        must(open.Marshal(TakeBack)),
		"cancel":          must(MarshalCancel(start)),
		"cancel-reply":    Frame(Header{Op: Cancel, Reply: true}, nil),
		"inspect":         must(MarshalInspect(token)),
		"inspect-reply":   Frame(Header{Op: Inspect, Reply: true}, []byte{1}),
		"status":          must(MarshalStat()),
		"status-reply":    must(status.Marshal()),
		"rotate":          must(MarshalRotate(0)),
		"retire":          must(MarshalRetire([16]byte{1, 2, 3})),
		"prepare":         must(prepare.Marshal()),
		"prepare-service": must(prepareService.Marshal()),
		"prepare-reply":   MarshalPrepared([][]byte{start, start}),
		"seal":            append(must(SealPrefix(start, 5)), "plain"...),
		"seal-empty":      must(SealPrefix(start, 0)),
		"seal-reply":      MarshalSealed(token),
		"open-any":        must(openAny.Marshal()),
		"open-any-reply":  append(PlainPrefix(OpenAny, 5), "plain"...),
		"open-from":       must((&OpenRequest{Format: open.Format, Token: token, Exporters: exporters}).Marshal(Open)),
		"open-any-from":   must((&OpenAnyRequest{Formats: openAny.Formats, Token: token, Exporters: exporters}).Marshal()),
		"quota":           Failure(Reserve, Quota, "too many tokens outstanding"),
	}
	change := func(name string, at int, to byte) []byte {
		b := bytes.Clone(good[name])
		b[at] = to
		return b
	}
	bad := map[string][]byte{
		"bad-magic":          change("status", 0, 'X'),
		"bad-version":        change("status", 4, 2),
		"bad-operation":      change("status", 5, 99),
		"bad-flags":          change("status", 6, 2),
		"bad-request-status": change("status", 7, 1),
		"bad-length-4gib":    append(good["status"][:8:8], 0xff, 0xff, 0xff, 0xff),
		"bad-length-over":    append(good["status"][:8:8], 0, 0, 0xff, 0xf5),
		"bad-trailing":       append(good["rotate"][:11:11], 2, 0, 0),
		"bad-token-length":   change("open", HeaderSize+2+11, 0xff),
		"bad-lifetime":       change("reserve-self", HeaderSize, 0x80),
		"bad-plain-length":   change("open-reply", HeaderSize+3, 6),
		"bad-key-length":     change("reserve-reply", HeaderSize+1, 31),
		"bad-status-flag":    change("status-reply", HeaderSize, 2),
		"bad-prepare-none":   change("prepare", HeaderSize+8, 0),
		"bad-prepare-many":   change("prepare", HeaderSize+8, MaxPrepared+1),
		"bad-prepare-reply":  change("prepare-reply", HeaderSize, 3),
		"bad-seal-length":    change("seal", HeaderSize+2+4+3, 6),
		"bad-sealed-length":  change("seal-reply", HeaderSize+3, 9),
		"bad-open-any-none":  change("open-any", HeaderSize, 0),
		"bad-open-any-count": change("open-any", HeaderSize, 3),
		"bad-exporter-empty": append(change("open", 11, good["open"][11]+1), 0),
		"bad-exporter-cut":   append(change("open", 11, good["open"][11]+2), 5, 1),
		"bad-exporter-long":  append(append(change("open", 11, good["open"][11]+67), 66), make([]byte, 66)...),
		"bad-exporter-back":  change("open-from", 5, byte(TakeBack)),
		"bad-major":          change("open-spent", HeaderSize+1, 9),
	}
	check := func(name, expect string, frame []byte) {
		text := "# " + name + "\nexpect: " + expect + "\n"
		for i := 0; i < len(frame); i += 16 {
			text += "frame: " + hex.EncodeToString(frame[i:min(i+16, len(frame))]) + "\n"
		}
		path := filepath.Join("testdata", name+".txt")
		if os.Getenv("WRITE_VECTORS") != "" {
			require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		}
		is, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, text, string(is))
	}
	for name, frame := range good {
		check(name, "ok", frame)
	}
	for name, frame := range bad {
		check(name, "malformed", frame)
	}
	require.Len(t, vectors(t), len(good)+len(bad))
}
