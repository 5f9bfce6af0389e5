package foreign

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/foreign/linger"
)

// returns reports whether f comes to its end soon.
func returns(f func()) bool {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// Sockets that linger keep nobody waiting who closes them here, or what they came
// in. The controls close them as everybody does.
func TestLingering(t *testing.T) {
	fd := linger.Socket(t)
	require.True(t, returns(func() { Close(-1, fd) }))
	control := linger.Socket(t)
	require.False(t, returns(func() { _ = unix.Close(control) }), "the control")

	sent := func() (receiver int) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		require.NoError(t, unix.SetsockoptInt(pair[1], unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
		for range 2 {
			fds := []int{linger.Socket(t), linger.Socket(t)}
			_, err = unix.Write(pair[0], []byte("something before"))
			require.NoError(t, err)
			require.NoError(t, unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fds...), nil, 0))
			for _, fd := range fds {
				require.NoError(t, unix.Close(fd))
			}
		}
		require.NoError(t, unix.Close(pair[0]))
		return pair[1]
	}
	f := os.NewFile(uintptr(sent()), "receiver")
	c, err := net.FileConn(f)
	require.NoError(t, err)
	require.NoError(t, f.Close()) // of which the connection has a copy
	require.True(t, returns(func() { HangUp(c.(*net.UnixConn)) }))
	receiver := sent()
	require.False(t, returns(func() { _ = unix.Close(receiver) }), "the control")
}
