package arch

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// step is how the code and the models name a step, in a comment.
var step = regexp.MustCompile(`step: ([a-z]+(?: [a-z]+)*)`)

// stepsOf are the steps that texts name.
func stepsOf(texts ...string) []string {
	names := map[string]bool{}
	for _, text := range texts {
		for _, m := range step.FindAllStringSubmatch(text, -1) {
			names[m[1]] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// read returns the text of the files that match a pattern, tests aside.
func read(t *testing.T, pattern string) (texts []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, pattern))
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		texts = append(texts, string(b))
	}
	require.NotEmpty(t, texts, pattern)
	return texts
}

// The models of doc/model and the code of keyring name the same steps, and the models
// have the variants that their table and their runner name.
func TestModelSteps(t *testing.T) {
	code, models := stepsOf(read(t, "keyring/*.go")...), stepsOf(read(t, "doc/model/*.pml")...)
	require.Equal(t, code, models)
	require.Greater(t, len(code), 15)

	variant := regexp.MustCompile(`(?m)^#ifn?def ([A-Z]+)$`)
	var variants []string
	for _, text := range read(t, "doc/model/*.pml") {
		for _, m := range variant.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(text, "#define "+m[1]+" ") { // else a size
				variants = append(variants, m[1])
			}
		}
	}
	slices.Sort(variants)
	variants = slices.DeleteFunc(slices.Compact(variants), func(v string) bool { return v == "AGENT" }) // which holds
	runner, table := read(t, "doc/model/run.sh")[0], read(t, "doc/model/README.md")[0]
	for _, v := range variants {
		require.Regexp(t, `\b`+v+`\b`, runner)
		require.Contains(t, table, "| "+v+" |")
	}
	require.Len(t, regexp.MustCompile(`(?m)^\| [A-Z]+ \|`).FindAllString(table, -1), len(variants))

	require.Equal(t, []string{"a", "look again"}, stepsOf("x() // step: look again", "/* step: a */ /* step: a. Why */"), "the control")
}
