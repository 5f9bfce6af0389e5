package handoff

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestServe serves contexts until the acceptor closes, past one that it cannot
// import.
func TestServe(t *testing.T) {
	h, stranger := newHouse(t), newHouse(t)
	a, b := unixPair(t, unix.SOCK_STREAM)
	var kept []gssapi.SecContext
	ended := make(chan error)
	go func() {
		ended <- Serve(within(t, ample), b, h.p, func(sc gssapi.SecContext, conn net.Conn) {
			kept = append(kept, sc)
			serve(sc, conn)
		})
	}()
	other := stranger.session(stranger.p)
	other.returned(Send(within(t, ample), a, other.sc, other.conn, nil))
	for range 2 {
		s := h.session(h.p)
		require.NoError(t, Send(within(t, ample), a, s.sc, s.conn, nil))
		require.NoError(t, s.ask("there?"))
		_ = s.client.Close()
	}
	_ = a.Close()
	require.NoError(t, <-ended)
	require.Len(t, kept, 2)
	for _, sc := range kept {
		_, _, err := sc.Wrap([]byte("x"), true, 0)
		require.ErrorIs(t, err, gssapi.ErrNoContext)
	}
	c, d := unixPair(t, unix.SOCK_STREAM)
	go func() { _, _ = c.Write([]byte("garbage.")) }()
	require.ErrorIs(t, Serve(context.Background(), d, h.p, nil), ErrProtocol)
}

// TestIsolate: a worker without network serves a connection all the same.
func TestIsolate(t *testing.T) {
	probe := exec.Command("/proc/self/exe", "-test.run", "^$")
	if Isolate(probe, os.Getuid(), os.Getgid()); probe.Run() != nil {
		t.Skip("the kernel lets this user make no network namespace")
	}
	h := newHouse(t)
	w := h.spawn("serve", "", func(cmd *exec.Cmd) { Isolate(cmd, os.Getuid(), os.Getgid()) })
	s := h.session(h.p)
	require.NoError(t, Send(within(t, ample), w.conn, s.sc, s.conn, nil))
	require.NoError(t, s.ask("there?"))
	ours, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	proc := "/proc/" + strconv.Itoa(w.cmd.Process.Pid)
	theirs, err := os.Readlink(proc + "/ns/net")
	require.NoError(t, err)
	require.NotEqual(t, ours, theirs)
	devices, err := os.ReadFile(proc + "/net/dev")
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(devices), ":"), "no device but lo: %s", devices)
}
