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
		ready:      {"READY", nil},
		token:      {"TOKEN", []byte("sealed")},
		imported:   {"IMPORTED", nil},
		refused:    {"REFUSED", []byte{9}},
		connection: {"CONNECTION", []byte("GET /")},
		withdrawn:  {"WITHDRAWN", nil},
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
	require.Equal(t, []byte{'S', 'H', 1, 2, 0, 0, 0, 3, 'a', 'b', 'c'}, frame(token, []byte("a"), []byte("bc")))
}

func TestHeaderRefused(t *testing.T) {
	good := []byte{'S', 'H', 1, 2, 0, 0, 0, 3}
	_, _, err := parseHeader(good)
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"empty":               {},
		"short":               good[:7],
		"long":                append(good[:8:8], 0),
		"magic":               {'S', 'I', 1, 2, 0, 0, 0, 3},
		"version":             {'S', 'H', 2, 2, 0, 0, 0, 3},
		"kind 0":              {'S', 'H', 1, 0, 0, 0, 0, 0},
		"kind 7":              {'S', 'H', 1, 7, 0, 0, 0, 0},
		"READY with a body":   {'S', 'H', 1, 1, 0, 0, 0, 1},
		"TOKEN without":       {'S', 'H', 1, 2, 0, 0, 0, 0},
		"TOKEN too long":      frame(token, make([]byte, seal.MaxToken+1))[:8],
		"REFUSED without":     {'S', 'H', 1, 4, 0, 0, 0, 0},
		"CONNECTION too long": frame(connection, make([]byte, MaxRead+1))[:8],
		"4 GiB":               {'S', 'H', 1, 5, 255, 255, 255, 255},
	} {
		_, _, err := parseHeader(b)
		require.ErrorIs(t, err, ErrProtocol, name)
	}
}

func TestReasons(t *testing.T) {
	for _, r := range reasons {
		require.Equal(t, r.number, reasonOf(errors.Join(errors.New("why"), r.err)))
		require.ErrorContains(t, refusal(r.number), r.name)
		require.ErrorIs(t, refusal(r.number), ErrRefused)
	}
	require.EqualValues(t, 13, reasonOf(gssapi.ErrBadMic))
	require.ErrorContains(t, refusal(200), "200")
	require.Contains(t, kind(9).String(), "9")
}

// TestControl: what the kernel would not write is refused as well.
func TestControl(t *testing.T) {
	for name, oob := range map[string][]byte{
		"short credentials":  control1(unix.SCM_CREDENTIALS, make([]byte, 4)),
		"another message":    control1(unix.SO_TIMESTAMP, make([]byte, 16)),
		"two sorts of these": append(control1(unix.SO_TIMESTAMP, make([]byte, 16)), unix.UnixRights()...),
	} {
		_, err := parseControl(oob, 0)
		require.ErrorIs(t, err, ErrProtocol, name)
	}
	ctl, err := parseControl(unix.UnixCredentials(&unix.Ucred{Pid: 1, Uid: 2, Gid: 3}), 0)
	require.NoError(t, err)
	require.Equal(t, control{Peer{1, 2, 3}, -1}, ctl)
	require.Equal(t, "process 1 of user 2", ctl.peer.String())
}

// control1 is a control message of a type.
func control1(kind int32, data []byte) []byte {
	b := unix.UnixCredentials(new(unix.Ucred))[:unix.CmsgLen(0)]
	m, _ := unix.ParseSocketControlMessage(unix.UnixCredentials(new(unix.Ucred)))
	h := m[0].Header
	h.Type = kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b, headerBytes(h))
	return append(b, append(data, make([]byte, unix.CmsgSpace(len(data))-unix.CmsgLen(len(data)))...)...)
}

// FuzzHeader: what is taken encodes to the same bytes, within the bounds.
func FuzzHeader(f *testing.F) {
	for k := ready; k <= withdrawn; k++ {
		least, _ := k.bounds()
		f.Add(frame(k, make([]byte, least))[:headerSize])
	}
	f.Add([]byte{'S', 'H', 1, 5, 255, 255, 255, 255})
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
	f.Add(frame(token, []byte("sealed")), uint8(3))
	f.Add(frame(withdrawn), uint8(0))
	f.Add(append(frame(withdrawn), 1), uint8(8))
	f.Add(frame(connection, make([]byte, 5000)), uint8(200))
	f.Add([]byte("SH"), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		if len(b) > 2*MaxRead { // more than the socket holds
			return
		}
		a, c := unixPair(t, unix.SOCK_STREAM)
		n := min(int(cut), len(b)) // in two pieces
		for _, piece := range [][]byte{b[:n], b[n:]} {
			if len(piece) > 0 {
				require.NoError(t, send(a, piece, nil))
			}
		}
		require.NoError(t, a.Close())
		k, body, ctl, err := readFrame(c)
		require.Equal(t, -1, ctl.fd)
		if err != nil {
			return
		}
		require.NotEqual(t, connection, k, "it has no descriptor")
		require.Equal(t, frame(k, body), b[:headerSize+len(body)])
	})
}
