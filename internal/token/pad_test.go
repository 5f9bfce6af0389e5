package token

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// specSizes is the table of doc/SPEC.md section 4.
var specSizes = []int{512, 768, 1024, 1536, 2048, 2864, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152}

func TestPaddedSizes(t *testing.T) {
	for n := range MaxToken + 70000 {
		require.Equal(t, slices.Contains(specSizes, n), isPadded(n), n)
	}
	require.False(t, isPadded(-1))
	next := 0
	for n := range MaxPlain + 1 {
		if n >= specSizes[next] {
			next++
		}
		require.Equal(t, specSizes[next], paddedSize(n), n)
	}
	require.Equal(t, len(specSizes)-1, next)
	require.Equal(t, specSizes[len(specSizes)-1], maxBody)
}

// TestUnpad: every length comes back, whatever the plain token ends with.
func TestUnpad(t *testing.T) {
	for _, last := range []byte{0x00, 0x80, 0x01} {
		for n := range 2049 {
			body := make([]byte, paddedSize(n))
			for i := range body {
				body[i] = 0xee // what was in the buffer before
			}
			if n > 0 {
				body[n-1] = last
			}
			pad(body, n)
			got, ok := unpad(body)
			require.True(t, ok, n)
			require.Equal(t, n, got)
		}
	}
}

func TestUnpadRefuses(t *testing.T) {
	body := func(size int, set map[int]byte) []byte {
		b := make([]byte, size)
		for i, v := range set {
			b[i] = v
		}
		return b
	}
	for name, b := range map[string][]byte{
		"empty":              nil,
		"zeros":              body(512, nil),
		"no mark":            body(512, map[int]byte{100: 0x81}),
		"behind the mark":    body(512, map[int]byte{100: 0x80, 511: 1}),
		"too much of it":     body(1024, map[int]byte{100: 0x80}),
		"one byte too much":  body(768, map[int]byte{511: 0x80}),
		"mark at the start":  body(768, map[int]byte{0: 0x80}),
		"not a body's size":  body(640, map[int]byte{600: 0x80}),
		"one byte, the mark": {0x80},
	} {
		_, ok := unpad(b)
		require.False(t, ok, name)
	}
	n, ok := unpad(body(768, map[int]byte{512: 0x80}))
	require.True(t, ok, "control: the smallest that needs 768")
	require.Equal(t, 512, n)
}
