// Package filetest is what the tests of the two kinds of files, keytabs and
// credential caches, have in common. It is for tests only.
package filetest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Captured reads the files that other programs wrote, by their names. That
// there are none is a failure.
func Captured(t testing.TB, pattern string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.NotEmpty(t, names)
	all := map[string][]byte{}
	for _, name := range names {
		all[name], err = os.ReadFile(name)
		require.NoError(t, err)
	}
	return all
}

// Damage requires that a parser finds in a good file that was cut to n bytes as
// many entries as kept says, and refuses it with its error where kept is
// negative. It requires the error for those that are bad, too.
func Damage(t *testing.T, parse func([]byte) (entries int, err error), malformed error, good []byte, kept func(n int) int, bad map[string][]byte) {
	t.Helper()
	for n := range good {
		entries, err := parse(good[:n])
		if kept(n) < 0 {
			require.ErrorIs(t, err, malformed, "cut to %d", n)
			continue
		}
		require.NoError(t, err, "cut to %d", n)
		require.Equal(t, kept(n), entries, "cut to %d", n)
	}
	for name, b := range bad {
		_, err := parse(b)
		require.ErrorIs(t, err, malformed, name)
	}
}
