package suite

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each suite has all of its entry, a name and a number of its own, and the sizes of
// doc/SPEC.md section 2. What is not in the table is refused everywhere.
func TestTable(t *testing.T) {
	names := map[string]bool{}
	key := bytes.Repeat([]byte{7}, 32)
	for _, s := range All() {
		require.True(t, s.Known())
		e := table[s]
		require.NotNil(t, e.new)
		require.NotNil(t, e.suits)
		require.NotEmpty(t, e.name)
		require.False(t, names[s.String()])
		names[s.String()] = true
		again, ok := ByName(s.String())
		require.True(t, ok)
		require.Equal(t, s, again)
		again, ok = ByShort(e.short)
		require.True(t, ok)
		require.Equal(t, s, again)
		require.Contains(t, Shorts(), e.short)

		a, err := s.New(key)
		require.NoError(t, err)
		plain, extra := []byte("plain"), []byte("extra")
		if s.DrawsNonce() {
			require.Zero(t, a.NonceSize())
			require.Equal(t, 12+16, a.Overhead())
			sealed := a.Seal(nil, nil, plain, extra)
			opened, err := a.Open(nil, nil, sealed, extra)
			require.NoError(t, err)
			require.Equal(t, plain, opened)
		} else {
			require.Equal(t, 12, a.NonceSize())
			require.Equal(t, 16, a.Overhead())
			nonce := make([]byte, 12)
			opened, err := a.Open(nil, nonce, a.Seal(nil, nonce, plain, extra), extra)
			require.NoError(t, err)
			require.Equal(t, plain, opened)
		}
		_, err = s.New(key[1:])
		require.Error(t, err)
		a.Wipe()
	}
	require.Len(t, names, len(table)-1) // zero is no suite
	require.Contains(t, All(), Default())
	for _, s := range []Suite{0, Suite(len(table)), 255} {
		require.False(t, s.Known())
		require.False(t, s.DrawsNonce())
		require.Regexp(t, `^suite \d+$`, s.String())
		_, err := s.New(key)
		require.Error(t, err)
	}
	for _, name := range []string{"", "suite 0", "aes"} {
		_, ok := ByName(name)
		require.False(t, ok, name)
	}
	for _, name := range []string{"", "AES-256-GCM"} {
		_, ok := ByShort(name)
		require.False(t, ok, name)
	}
}
