package agent

import (
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// A rawConn speaks to an agent without the client's manners.
type rawConn struct {
	t testing.TB
	*net.UnixConn
	cred []byte // to be sent with each message; nil: the kernel's
}

func (in *instance) raw(t testing.TB) *rawConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: in.path, Net: "unix"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return &rawConn{t, c, nil}
}

// answer reads one frame, if it comes soon.
func (c *rawConn) answer() (wire.Header, []byte, error) {
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	head := make([]byte, wire.HeaderSize)
	if _, err := io.ReadFull(c, head); err != nil {
		return wire.Header{}, nil, err
	}
	h, err := wire.ParseHeader(head)
	require.NoError(c.t, err)
	body := make([]byte, h.Length)
	_, err = io.ReadFull(c, body)
	return h, body, err
}

// as is raw for another user, which takes root.
func (in *instance) as(t testing.TB, uid int) *rawConn {
	t.Helper()
	var c *rawConn
	onThread(func() {
		const keep = ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), keep); errno == 0 {
			c = in.raw(t)
		}
	})
	require.NotNil(t, c)
	c.cred = unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(uid)})
	return c
}

// onThread runs f on a thread that ends with it. It is not the main one, which would
// stay, and whose user counts as the process's.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onThread(f) // the main thread is taken meanwhile
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// expect sends bytes and expects an answer with that code.
func (c *rawConn) expect(code wire.Code, b []byte, fds ...int) {
	c.t.Helper()
	oob := c.cred
	if len(fds) > 0 {
		oob = append(oob[:len(oob):len(oob)], unix.UnixRights(fds...)...)
	}
	_, _, err := c.WriteMsgUnix(b, oob, nil)
	require.NoError(c.t, err)
	h, body, err := c.answer()
	require.NoError(c.t, err)
	require.Equal(c.t, code, h.Status, "%s", body)
}

// expectEnd expects that the agent has closed the connection.
func (c *rawConn) expectEnd() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := c.Read(make([]byte, 1))
	require.Zero(c.t, n)
	require.Error(c.t, err)
	require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded)
}

func statFrame(t testing.TB) []byte {
	t.Helper()
	b, err := wire.MarshalStat()
	require.NoError(t, err)
	return b
}

func reserveFrame(t testing.TB, audience ...byte) []byte {
	t.Helper()
	b, err := (&wire.ReserveRequest{Suites: []byte{1, 2}, Format: []byte(testFormat), Audience: audience}).Marshal()
	require.NoError(t, err)
	return b
}

// descriptors counts this process's.
func descriptors(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(names)
}

// settles waits until a count is what it was, and fails if it does not become so.
func settles(t testing.TB, want int, count func() int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); count() > want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			require.Fail(t, "not given back", "there were %d, now there are %d\n%s", want, count(), stacks[:runtime.Stack(stacks, true)])
		}
	}
}
