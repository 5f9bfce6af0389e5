// Package linger makes descriptors that are bad to close, for tests.
package linger

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Socket returns a connection whose last close waits for days: data is on its way
// that the other end does not read. The end of the test frees whoever waits.
func Socket(t testing.TB) (fd int) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Connect(fd, &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}))
	far, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = far.(*net.TCPConn).SetLinger(0) // a reset, which ends the waiting
		_ = far.Close()
	})
	require.NoError(t, unix.SetNonblock(fd, true))
	b := make([]byte, 64<<10)
	for full := 0; full < 3; { // until the other end takes no more
		if _, err := unix.Write(fd, b); err != nil {
			full++
			time.Sleep(5 * time.Millisecond)
		}
	}
	const days = 100_000 // seconds
	require.NoError(t, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: days}))
	return fd
}
