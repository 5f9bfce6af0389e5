package handoff

import (
	"errors"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/seal"
)

func TestFrames(t *testing.T) {
	for k, want := range map[kind]struct {
		name string
		body []byte
	}{
		ready:     {"READY", nil},
		offer:     {"OFFER", []byte("\x00\x00\x00\x05GET /sealed")},
		imported:  {"IMPORTED", nil},
		refused:   {"REFUSED", []byte{9}},
		withdrawn: {"WITHDRAWN", nil},
	} {
		b := frame(k, want.body)
		got, size, err := parseHeader(b[:headerSize])
		require.NoError(t, err)
		require.Equal(t, k, got)
		require.Equal(t, want.name, k.String())
		require.Equal(t, len(want.body), size)
		require.Equal(t, want.body, append([]byte(nil), b[headerSize:]...))
	}
}

// TestFrameBytes holds the package to its description.
func TestFrameBytes(t *testing.T) {
	require.Equal(t, []byte{'S', 'H', 2, 1, 0, 0, 0, 0}, frame(ready))
	require.Equal(t, []byte{'S', 'H', 2, 2, 0, 0, 0, 7, 0, 0, 0, 1, 'a', 'b', 'c'}, offering([]byte("a"), []byte("bc")))
	require.Equal(t, []byte{'S', 'H', 2, 3, 0, 0, 0, 0}, frame(imported))
	require.Equal(t, []byte{'S', 'H', 2, 4, 0, 0, 0, 1, 255}, frame(refused, []byte{noDescriptor}))
	require.Equal(t, []byte{'S', 'H', 2, 5, 0, 0, 0, 0}, frame(withdrawn))
}

func TestHeaderRefused(t *testing.T) {
	good := []byte{'S', 'H', 2, 2, 0, 0, 0, 5}
	_, _, err := parseHeader(good)
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"empty":             {},
		"short":             good[:7],
		"long":              append(good[:8:8], 0),
		"magic":             {'S', 'I', 2, 2, 0, 0, 0, 5},
		"version before":    {'S', 'H', 1, 2, 0, 0, 0, 5},
		"version to come":   {'S', 'H', 3, 2, 0, 0, 0, 5},
		"kind 0":            {'S', 'H', 2, 0, 0, 0, 0, 0},
		"kind 6":            {'S', 'H', 2, 6, 0, 0, 0, 0},
		"READY with a body": {'S', 'H', 2, 1, 0, 0, 0, 1},
		"OFFER without":     {'S', 'H', 2, 2, 0, 0, 0, 4},
		"OFFER too long":    offering(make([]byte, MaxRead), make([]byte, seal.MaxToken+1))[:8],
		"REFUSED without":   {'S', 'H', 2, 4, 0, 0, 0, 0},
		"4 GiB":             {'S', 'H', 2, 2, 255, 255, 255, 255},
	} {
		_, _, err := parseHeader(b)
		require.ErrorIs(t, err, ErrProtocol, name)
	}
}

// TestOffer: both parts are bounded by themselves, and there is a token.
func TestOffer(t *testing.T) {
	for name, c := range map[string]struct {
		body []byte
		read int // -1: refused
	}{
		"usual":             {offering([]byte("GET /"), []byte("sealed"))[headerSize:], 5},
		"nothing read":      {offering(nil, []byte("sealed"))[headerSize:], 0},
		"most of both":      {offering(make([]byte, MaxRead), make([]byte, seal.MaxToken))[headerSize:], MaxRead},
		"no token":          {offering([]byte("GET /"), nil)[headerSize:], -1},
		"too much read":     {offering(make([]byte, MaxRead+1), []byte("sealed"))[headerSize:], -1},
		"token too long":    {offering(nil, make([]byte, seal.MaxToken+1))[headerSize:], -1},
		"longer than it is": {[]byte{0, 0, 0, 9, 'a', 'b'}, -1},
		"4 GiB":             {[]byte{255, 255, 255, 255, 'a', 'b'}, -1},
		"no length":         {[]byte{0, 0, 0}, -1},
	} {
		read, tok, err := parseOffer(c.body)
		if c.read < 0 {
			require.ErrorIs(t, err, ErrProtocol, name)
			continue
		}
		require.NoError(t, err, name)
		require.Len(t, read, c.read, name)
		require.NotEmpty(t, tok, name)
	}
	// A peer of another version learns which.
	_, _, err := parseHeader([]byte{'S', 'H', 1, 1, 0, 0, 0, 0})
	require.ErrorContains(t, err, "version 1")
}

func TestReasons(t *testing.T) {
	for _, r := range reasons {
		require.Equal(t, r.number, reasonOf(errors.Join(errors.New("why"), r.err)))
		require.ErrorContains(t, refusal(r.number), r.name)
		require.ErrorIs(t, refusal(r.number), ErrRefused)
	}
	require.EqualValues(t, 13, reasonOf(gssapi.ErrBadMic))
	for _, lack := range []error{unix.EMFILE, unix.ENFILE, &shortage{errDropped}} {
		require.EqualValues(t, noDescriptor, reasonOf(errors.Join(gssapi.ErrFailure, lack)))
	}
	require.EqualValues(t, 13, reasonOf(&shortage{unix.ENOSPC}))
	require.ErrorContains(t, refusal(noDescriptor), "RLIMIT_NOFILE")
	require.ErrorIs(t, refusal(noDescriptor), ErrRefused)
	require.ErrorContains(t, refusal(200), "200")
	require.Contains(t, kind(9).String(), "9")
}

// FuzzHeader: what is taken encodes to the same bytes, within the bounds.
func FuzzHeader(f *testing.F) {
	for k := ready; k <= withdrawn; k++ {
		least, _ := k.bounds()
		f.Add(frame(k, make([]byte, least))[:headerSize])
	}
	f.Add([]byte{'S', 'H', 2, 2, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, size, err := parseHeader(b)
		if err != nil {
			require.ErrorIs(t, err, ErrProtocol)
			return
		}
		least, most := k.bounds()
		require.True(t, least <= size && size <= most)
		require.Equal(t, b, frame(k, make([]byte, size))[:headerSize])
	})
}

// FuzzReadFrame: whatever an acceptor sends, a worker gets a whole frame of a
// known kind that encodes to what was sent, or an error.
func FuzzReadFrame(f *testing.F) {
	f.Add(offering(nil, []byte("sealed")), uint8(3))
	f.Add(frame(withdrawn), uint8(0))
	f.Add(append(frame(withdrawn), 1), uint8(8))
	f.Add(offering(make([]byte, 5000), []byte("sealed")), uint8(200))
	f.Add([]byte("SH"), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		if len(b) > 2*MaxRead { // more than the socket holds
			return
		}
		a, c := unixPair(t, unix.SOCK_STREAM)
		n := min(int(cut), len(b)) // in two pieces
		for _, piece := range [][]byte{b[:n], b[n:]} {
			if len(piece) > 0 {
				require.NoError(t, tell(a, piece, nil))
			}
		}
		require.NoError(t, a.Close())
		k, body, fd, err := readFrame(c)
		require.Equal(t, -1, fd)
		if err != nil {
			return
		}
		require.NotEqual(t, offer, k, "it has no descriptor")
		require.Equal(t, frame(k, body), b[:headerSize+len(body)])
	})
}
