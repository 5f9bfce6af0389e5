package agent

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/unixsock"
	"github.com/sealctx/sealctx/seal"
)

const testFormat = "test/1/any"

var testRequest = seal.Request{Format: testFormat, Mechanism: []byte{42, 134, 72}}

// An instance is a server that runs in this process.
type instance struct {
	*Server
	path string
	l    *net.UnixListener
	stop func()
}

// serveHere starts a server and ends it with the test.
func serveHere(t testing.TB, o *Options) *instance {
	t.Helper()
	s, err := NewServer(o)
	require.NoError(t, err)
	return serveAs(t, s)
}

func serveAs(t testing.TB, s *Server) *instance {
	t.Helper()
	var err error
	in := &instance{Server: s, path: filepath.Join(publicDir(t), "agent.sock")}
	in.l, err = Listen(in.path)
	require.NoError(t, err)
	in.serve(t)
	return in
}

// serve serves at the listener until the end of the test.
func (in *instance) serve(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in.Serve(ctx, in.l) }()
	var once bool
	in.stop = func() {
		if once {
			return
		}
		once = true
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(2 * drainTimeout):
			require.Fail(t, "the server does not end")
		}
		unixsock.CloseListener(in.l)
		require.NoError(t, in.Close())
	}
	t.Cleanup(in.stop)
}

func (in *instance) dial(t testing.TB) *Client {
	t.Helper()
	c, err := Dial(in.path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func reserve(t testing.TB, s seal.Sealer, to seal.Party) []byte {
	t.Helper()
	req := testRequest
	req.Audience = to
	r, err := s.Reserve(req)
	require.NoError(t, err)
	b, err := r.Seal([]byte("plain"))
	require.NoError(t, err)
	return b
}

// publicDir is a directory that other users can go through; those of t.TempDir
// are not.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
