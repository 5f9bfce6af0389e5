package stream

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// TestReader reads one text by every way, whatever pieces the source gives.
func TestReader(t *testing.T) {
	text := make([]byte, 5000)
	for i := range text {
		text[i] = byte(i * 7)
	}
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader,
		"end with data": iotest.DataErrReader,
	} {
		t.Run(name, func(t *testing.T) {
			s := NewReader(wrap(bytes.NewReader(text)), int64(len(text)), make([]byte, MinBuffer))
			var a uint8
			var b uint16
			var c uint32
			require.True(t, s.Uint8(&a) && s.Uint16(&b) && s.Uint32(&c))
			require.Equal(t, []any{text[0], uint16(text[1])<<8 | uint16(text[2]), uint32(text[3])<<24 | uint32(text[4])<<16 | uint32(text[5])<<8 | uint32(text[6])},
				[]any{a, b, c})
			p := make([]byte, 1000)
			require.True(t, s.Full(p))
			require.Equal(t, text[7:1007], p)
			require.True(t, s.Skip(2001))
			peeked, ok := s.Peek(MinBuffer)
			require.True(t, ok)
			require.Equal(t, text[3008:3008+MinBuffer], peeked)
			rest := make([]byte, s.Left())
			require.True(t, s.Full(rest))
			require.Equal(t, text[3008:], rest)
			require.True(t, s.Skip(0))
			require.False(t, s.Uint8(&a))
			require.NoError(t, s.Err())
		})
	}
}

// TestReaderEnds: what ends early, or is not to be read further, ends the reader
// for good, and only a failing source is an error.
func TestReaderEnds(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		src  io.Reader
		size int64
		err  error
	}{
		"cut":                {bytes.NewReader(make([]byte, 10)), 20, nil},
		"longer than stated": {bytes.NewReader(make([]byte, 30)), 15, nil},
		"failing":            {io.MultiReader(bytes.NewReader(make([]byte, 10)), iotest.ErrReader(broken)), 20, broken},
	} {
		for how, read := range map[string]func(*Reader) bool{
			"full": func(s *Reader) bool { return s.Full(make([]byte, 16)) },
			"skip": func(s *Reader) bool { return s.Skip(16) },
			"peek": func(s *Reader) bool { _, ok := s.Peek(16); return ok },
		} {
			s := NewReader(c.src, c.size, make([]byte, MinBuffer))
			require.False(t, read(s), name, how)
			require.Zero(t, s.Left())
			var v uint8
			require.False(t, s.Uint8(&v))
			if how == "full" && name == "failing" {
				require.ErrorIs(t, s.Err(), c.err)
			}
			if c.err == nil {
				require.NoError(t, s.Err())
			}
		}
	}
	s := NewReader(bytes.NewReader(make([]byte, 9)), 9, make([]byte, MinBuffer))
	require.False(t, s.Skip(-1))
}
