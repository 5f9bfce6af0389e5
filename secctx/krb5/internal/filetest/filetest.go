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

// Damage requires that a parser refuses, with its error for that, a good file
// that was cut anywhere but behind a whole record, and those that are bad.
func Damage(t *testing.T, parse func([]byte) error, malformed error, good []byte, whole map[int]bool, bad map[string][]byte) {
	t.Helper()
	for n := range good {
		err := parse(good[:n])
		require.Equal(t, whole[n], err == nil, "cut to %d", n)
		if err != nil {
			require.ErrorIs(t, err, malformed)
		}
	}
	for name, b := range bad {
		require.ErrorIs(t, parse(b), malformed, name)
	}
}
