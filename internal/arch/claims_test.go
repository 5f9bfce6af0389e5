package arch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	testName = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark|Example)[A-Z]\w*`)
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark|Example)[A-Z]\w*)\(`)
)

// walk calls f for each file of the working tree with this suffix.
func walk(t *testing.T, suffix string, f func(path, text string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, suffix) {
			return nil
		}
		b, err := os.ReadFile(path)
		f(path, string(b))
		return err
	})
	require.NoError(t, err)
}

// tests are the names of all tests, those of interop/ too.
func tests(t *testing.T) map[string]bool {
	names := map[string]bool{}
	walk(t, "_test.go", func(_, text string) {
		for _, m := range testFunc.FindAllStringSubmatch(text, -1) {
			names[m[1]] = true
		}
	})
	require.Greater(t, len(names), 50)
	return names
}

// unknownTests are the tests that a text names and that are not there.
func unknownTests(text string, known map[string]bool) (unknown []string) {
	for _, name := range testName.FindAllString(text, -1) {
		if !known[name] {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// A claim that names a test names one that exists.
func TestClaimsNameTests(t *testing.T) {
	known := tests(t)
	documents := 0
	walk(t, ".md", func(path, text string) {
		documents++
		for _, name := range unknownTests(text, known) {
			t.Errorf("%s names %s, which is no test", path, name)
		}
	})
	require.Greater(t, documents, 3)
	require.Equal(t, []string{"TestOfNothing"}, unknownTests("holds (TestOfNothing, TestArrows/x)", known))
}

// untested are the rows of the claims' table that name no test.
func untested(security string) (rows []string, claims int) {
	for line := range strings.Lines(security) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) < 2 || strings.HasPrefix(strings.TrimSpace(cells[0]), "---") || strings.TrimSpace(cells[0]) == "claim" {
			continue
		}
		claims++
		if !testName.MatchString(cells[len(cells)-1]) {
			rows = append(rows, strings.TrimSpace(cells[0]))
		}
	}
	return rows, claims
}

// Each claim of SECURITY.md has a test.
func TestEveryClaimHasTest(t *testing.T) {
	b, err := os.ReadFile(root + "/SECURITY.md")
	require.NoError(t, err)
	rows, claims := untested(string(b))
	require.Empty(t, rows, "no test is named for these")
	require.NotZero(t, claims)
	rows, claims = untested("| claim | test |\n|---|---|\n| a | TestArrows |\n| b | somewhere |\n")
	require.Equal(t, []string{"b"}, rows)
	require.Equal(t, 2, claims)
}
