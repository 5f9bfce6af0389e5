package wire

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	for n := range uint64(100) {
		require.NoError(t, Write(&b, KindOf(n), Message(FromInitiator, n)))
	}
	require.ErrorIs(t, Write(&b, Sealed, make([]byte, MaxFrame+1)), ErrFrame)
	r := bufio.NewReader(&b)
	for n := range uint64(100) {
		k, body, err := Read(r)
		require.NoError(t, err)
		require.Equal(t, KindOf(n), k)
		require.Equal(t, Message(FromInitiator, n), body)
		require.NotEqual(t, Message(FromAcceptor, n), body, "the directions differ")
		got, err := Number(body)
		require.NoError(t, err)
		require.Equal(t, n, got)
	}
}

func TestBadFrames(t *testing.T) {
	for name, raw := range map[string]string{
		"unknown kind": "X\x00\x00\x00\x00",
		"too long":     "W\xff\xff\xff\xff",
		"cut short":    "W\x00\x00\x00\x05abc",
		"half a head":  "W\x00",
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Read(bufio.NewReader(bytes.NewReader([]byte(raw))))
			require.Error(t, err)
		})
	}
}

func TestMIC(t *testing.T) {
	msg, mic, err := SplitMIC(JoinMIC([]byte("message"), []byte("mic")))
	require.NoError(t, err)
	require.Equal(t, "message", string(msg))
	require.Equal(t, "mic", string(mic))
	for _, bad := range []string{"", "\x00\x00\x00", "\x00\x00\x00\x02a", "\xff\xff\xff\xffab"} {
		_, _, err := SplitMIC([]byte(bad))
		require.ErrorIs(t, err, ErrFrame)
	}
}
