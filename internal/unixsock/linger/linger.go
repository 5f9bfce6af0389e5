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

// Kinds are the ways in which Socket makes what is closed after it wait too.
var Kinds = map[string]func(testing.TB) int{
	"socket":          Socket,
	"in a queue":      func(t testing.TB) int { return Queued(t, Socket(t)) },
	"in two queues":   func(t testing.TB) int { return Queued(t, Queued(t, Socket(t))) },
	"in a datagram":   func(t testing.TB) int { return queued(t, unix.SOCK_DGRAM, Socket(t)) },
	"not accepted":    func(t testing.TB) int { return Unaccepted(t, Socket(t)) },
	"in such a queue": func(t testing.TB) int { return Queued(t, Unaccepted(t, Socket(t))) },
}

// Queued returns a Unix socket in whose queue fd lies, which it takes over.
func Queued(t testing.TB, fd int) int { return queued(t, unix.SOCK_STREAM, fd) }

func queued(t testing.TB, kind, fd int) int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	InBand(t, pair[0], fd)
	require.NoError(t, unix.Close(pair[0]))
	return pair[1]
}

// Unaccepted returns a listening Unix socket, at which a connection that has brought
// fd waits. It takes fd over.
func Unaccepted(t testing.TB, fd int) int {
	t.Helper()
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Bind(l, &unix.SockaddrUnix{})) // an abstract name that is free
	require.NoError(t, unix.Listen(l, 1))
	name, err := unix.Getsockname(l)
	require.NoError(t, err)
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Connect(c, name))
	InBand(t, c, fd)
	require.NoError(t, unix.Close(c))
	return l
}

// InBand sends a byte, and fd with it, which it takes over.
func InBand(t testing.TB, through, fd int) {
	t.Helper()
	pass(t, through, fd, 0)
}

// OutOfBand does so out of band.
func OutOfBand(t testing.TB, through, fd int) {
	t.Helper()
	pass(t, through, fd, unix.MSG_OOB)
}

func pass(t testing.TB, through, fd, flags int) {
	t.Helper()
	require.NoError(t, unix.Sendmsg(through, []byte("x"), unix.UnixRights(fd), nil, flags))
	require.NoError(t, unix.Close(fd)) // not the last of it, so that this does not wait
}
