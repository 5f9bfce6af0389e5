package unixsock

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/unixsock/linger"
)

// returns reports whether f comes to its end.
func returns(f func()) bool { return within(2*time.Second, f) }

// waits reports that it does not, where no signal reaches it, as one of the runtime's
// may by chance: what does not wait takes microseconds.
func waits(f func()) bool {
	return !within(200*time.Millisecond, func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var urgent unix.Sigset_t
		urgent.Val[0] = 1 << (unix.SIGURG - 1)
		_ = unix.PthreadSigmask(unix.SIG_BLOCK, &urgent, nil)
		f()
	})
}

func within(d time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

// Whatever lingers in a descriptor keeps nobody waiting who closes it here. The
// controls close it as everybody does.
func TestClose(t *testing.T) {
	for name, made := range linger.Kinds {
		t.Run(name, func(t *testing.T) {
			var c Closer
			require.True(t, returns(func() { c.Close(-1, made(t), made(t)) }))
			require.False(t, c.Busy())
			require.True(t, returns(func() { Close(made(t)) }))
			control := made(t)
			require.True(t, waits(func() { _ = unix.Close(control) }), "the control")
		})
	}
}

// connection is one in which n messages have brought descriptors.
func connection(t *testing.T, n int, made func(testing.TB) int, send func(t testing.TB, through, fd int)) *net.UnixConn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	for range n {
		_, err = unix.Write(pair[0], []byte("something before"))
		require.NoError(t, err)
		send(t, pair[0], made(t))
	}
	require.NoError(t, unix.Close(pair[0]))
	f := os.NewFile(uintptr(pair[1]), "receiver")
	c, err := net.FileConn(f)
	require.NoError(t, err)
	require.NoError(t, f.Close()) // of which the connection has a copy
	return c.(*net.UnixConn)
}

// Nor what lies unread in a connection that is hung up.
func TestHangUp(t *testing.T) {
	for name, made := range linger.Kinds {
		for band, send := range map[string]func(testing.TB, int, int){"": linger.InBand, ", out of band": linger.OutOfBand} {
			t.Run(name+band, func(t *testing.T) {
				c := connection(t, 2, made, send)
				require.True(t, returns(func() { new(Closer).HangUp(c) }))
				require.ErrorIs(t, c.Close(), net.ErrClosed)
				control := connection(t, 2, made, send)
				require.True(t, waits(func() { _ = control.Close() }), "the control")
			})
		}
	}
	c := connection(t, 0, nil, nil)
	HangUp(c)
	require.ErrorIs(t, c.Close(), net.ErrClosed)
}

// A byte out of band is read as any other, and brings its descriptor. Else it is
// dropped while others wait to be read.
func TestInline(t *testing.T) {
	oob := make([]byte, unix.CmsgSpace(4))
	read := func(c *net.UnixConn) (n int) {
		raw, err := c.SyscallConn()
		require.NoError(t, err)
		_ = raw.Control(func(fd uintptr) {
			_, n, _, _, _ = unix.Recvmsg(int(fd), make([]byte, 100), oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		})
		return n
	}
	c := connection(t, 1, linger.Socket, linger.OutOfBand)
	require.NoError(t, Inline(c))
	n := 0
	require.True(t, returns(func() {
		for range 3 {
			n += read(c)
		}
	}))
	require.Equal(t, len(oob), n, "the descriptor came")
	fds, err := unix.ParseSocketControlMessage(oob)
	require.NoError(t, err)
	rights, err := unix.ParseUnixRights(&fds[0])
	require.NoError(t, err)
	Close(rights...)

	control := connection(t, 1, linger.Socket, linger.OutOfBand)
	require.True(t, waits(func() {
		for range 3 {
			read(control)
		}
	}), "the control")
}

// A listener is closed with what waits in connections that nobody accepted.
func TestCloseListener(t *testing.T) {
	listener := func() *net.UnixListener {
		f := os.NewFile(uintptr(linger.Unaccepted(t, linger.Socket(t))), "listener")
		l, err := net.FileListener(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		return l.(*net.UnixListener)
	}
	l := listener()
	require.True(t, returns(func() { CloseListener(l) }))
	require.ErrorIs(t, l.Close(), net.ErrClosed)
	control := listener()
	require.True(t, waits(func() { _ = control.Close() }), "the control")
}

// What does not heed signals holds its own Closer, and one thread, and no other. The
// functions without one do not wait for it.
func TestUnanswered(t *testing.T) {
	file := linger.Unanswered(t)
	var stuck Closer
	for range 3 {
		go stuck.Close(file(), file())
	}
	require.Eventually(t, func() bool { return stuck.Held() == 6 && len(threads) == 1 }, time.Second, time.Millisecond)
	require.True(t, waits(func() { stuck.Close(file()) }), "the control")
	require.Len(t, threads, 1)
	require.True(t, returns(func() { new(Closer).Close(linger.Socket(t)) }))
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	require.NoError(t, err)
	require.True(t, returns(func() { stuck.Close(pidfd) }), "a process's descriptor is closed at once")
	require.True(t, returns(func() { Close(file()) }))
	require.Len(t, threads, 2, "the control: it is still being closed")
	c := connection(t, 1, func(testing.TB) int { return file() }, func(t testing.TB, through, fd int) {
		require.NoError(t, unix.Sendmsg(through, []byte("x"), unix.UnixRights(fd), nil, 0))
	})
	require.True(t, returns(func() { new(Closer).HangUp(c) }), "what was never received has no flush")
}

// A byte out of band is seen, with its descriptor, also if it is all that there is. The
// control: without a descriptor it is harmless.
func TestEndedOutOfBand(t *testing.T) {
	for _, brings := range []bool{true, false} {
		for _, before := range []string{"", "x"} {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			require.NoError(t, err)
			if before != "" {
				_, err = unix.Write(pair[0], []byte(before))
				require.NoError(t, err)
			}
			if brings {
				linger.OutOfBand(t, pair[0], linger.Socket(t))
			} else {
				require.NoError(t, unix.Sendto(pair[0], []byte("x"), unix.MSG_OOB, nil))
			}
			f := os.NewFile(uintptr(pair[1]), "receiver")
			c, err := net.FileConn(f)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			require.Equal(t, !brings, Ended(c.(*net.UnixConn)), "after %q", before)
			<-HangUp(c.(*net.UnixConn))
			require.NoError(t, unix.Close(pair[0]))
		}
	}
}
