package agent

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/internal/unixsock"
	"github.com/sealctx/sealctx/internal/unixsock/linger"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// A server that ends answers what is under way, and nothing more; connections
// without a request do not keep it.
func TestDrain(t *testing.T) {
	in := serveHere(t, nil)
	idle, busy := in.raw(t), in.raw(t)
	idle.expect(wire.OK, statFrame(t))
	settles(t, 0, in.underWay) // it counts until its answer is away
	frame := statFrame(t)
	_, err := busy.Write(frame[:7])
	require.NoError(t, err)
	require.Eventually(t, func() bool { return in.underWay() == 1 }, time.Second, time.Millisecond)

	done := make(chan struct{})
	go func() { in.stop(); close(done) }()
	idle.expectEnd()
	select {
	case <-done:
		require.Fail(t, "it did not wait for the request under way")
	case <-time.After(50 * time.Millisecond):
	}
	busy.expect(wire.OK, frame[7:])
	busy.expectEnd()
	select {
	case <-done:
	case <-time.After(time.Second):
		require.Fail(t, "it does not end")
	}
}

// underWay counts the requests that are.
func (in *instance) underWay() (n int) {
	for _, a := range in.users.all() {
		a.mu.Lock()
		n += a.requests
		a.mu.Unlock()
	}
	return n
}

// A request that does not end is not waited for for ever.
func TestDrainTimeout(t *testing.T) {
	s, err := NewServer(nil)
	require.NoError(t, err)
	s.times.drain = 100 * time.Millisecond
	in := serveAs(t, s)
	c := in.raw(t)
	_, err = c.Write(statFrame(t)[:7])
	require.NoError(t, err)
	require.Eventually(t, func() bool { return in.underWay() == 1 }, time.Second, time.Millisecond)
	start := time.Now()
	in.stop()
	require.Less(t, time.Since(start), time.Second)
	c.expectEnd()
}

// SIGTERM ends the agent's process in order; its tokens are worthless then, and
// a client that asks again finds the next one by itself.
func TestTerminate(t *testing.T) {
	path := filepath.Join(publicDir(t), "agent.sock")
	agent := agentProcess(t, path)
	c, err := Dial(path)
	require.NoError(t, err)
	defer c.Close()
	b := reserve(t, c, seal.Party{})
	require.NoError(t, agent.Process.Signal(syscall.SIGTERM))
	require.NoError(t, agent.Wait())
	_, err = c.Account()
	require.ErrorIs(t, err, ErrAway)
	next := agentProcess(t, path)
	_, err = c.Open(b, testFormat)
	require.ErrorIs(t, err, seal.ErrDefective)
	require.ErrorContains(t, err, "(agent at "+path+")")
	reserve(t, c, seal.Party{})
	next.kill()
}

// A service manager hands the socket over and is told when the agent serves. What
// came in before is served too.
func TestActivation(t *testing.T) {
	dir := publicDir(t)
	path := filepath.Join(dir, "agent.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	defer l.Close()
	notices, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	require.NoError(t, err)
	defer notices.Close()
	f, err := l.File()
	require.NoError(t, err)
	defer f.Close()
	early := (&instance{path: path}).raw(t)
	_, err = early.Write(statFrame(t))
	require.NoError(t, err)

	p := spawn(t, "activated", "", func(cmd *exec.Cmd) {
		cmd.ExtraFiles = []*os.File{f}
		cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	})
	require.Equal(t, "READY=1\nSTATUS=serving", notice(t, notices))
	h, _, err := early.answer()
	require.NoError(t, err)
	require.Equal(t, wire.OK, h.Status)
	c, err := Dial(path)
	require.NoError(t, err)
	reserve(t, c, seal.Party{})
	require.NoError(t, c.Close())
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	require.Equal(t, "STOPPING=1\nSTATUS=draining", notice(t, notices))
	require.NoError(t, p.Wait())
}

func notice(t *testing.T, l *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 200)
	require.NoError(t, l.SetReadDeadline(time.Now().Add(5*time.Second)))
	n, err := l.Read(b)
	require.NoError(t, err)
	return string(b[:n])
}

// Without a service manager there is no socket of its and nobody to tell.
func TestNoActivation(t *testing.T) {
	for _, env := range [][2]string{{"", ""}, {"1", "1"}, {"", "1"}} {
		t.Setenv("LISTEN_PID", env[0])
		t.Setenv("LISTEN_FDS", env[1])
		l, err := Inherited()
		require.NoError(t, err)
		require.Nil(t, l)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	n, err := NewNotifier()
	require.NoError(t, err)
	require.Nil(t, n)
	require.NoError(t, n.Ready())
	require.NoError(t, n.Stopping())
	require.NoError(t, n.Close())
	t.Setenv("NOTIFY_SOCKET", "/nonexistent/socket")
	_, err = NewNotifier()
	require.Error(t, err)
}

// A service manager is found by a path or an abstract name. One that cannot be told, or
// that reads nothing, is an error and no more.
func TestNotifier(t *testing.T) {
	dir := publicDir(t)
	stream, err := net.Listen("unix", filepath.Join(dir, "stream"))
	require.NoError(t, err)
	defer stream.Close()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o666))
	for _, name := range []string{
		"7", "vsock:2:9999", "relative/socket", "/nonexistent/socket", dir, filepath.Join(dir, "file"), filepath.Join(dir, "stream"),
		"@nobody-listens-here", "@", "/" + strings.Repeat("x", 108), "@" + strings.Repeat("x", 108),
	} {
		t.Setenv("NOTIFY_SOCKET", name)
		n, err := NewNotifier()
		require.Error(t, err, name)
		require.Nil(t, n, name)
		require.Empty(t, os.Getenv("NOTIFY_SOCKET"))
		require.NoError(t, n.Ready(), "nil tells nobody")
	}
	for _, name := range []string{filepath.Join(dir, "notify"), "@sealctx-test-" + filepath.Base(dir)} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		require.NoError(t, err)
		t.Setenv("NOTIFY_SOCKET", name)
		n, err := NewNotifier()
		require.NoError(t, err)
		require.NoError(t, n.Ready())
		require.Equal(t, "READY=1\nSTATUS=serving", notice(t, l))
		for err == nil { // until its queue is full
			err = n.Ready()
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, l.Close())
		require.Error(t, n.Stopping(), "it has gone")
		require.NoError(t, n.Close())
	}
}

// Listening replaces a socket that nobody serves, and no other; nothing but a
// socket is removed.
func TestListen(t *testing.T) {
	dir := publicDir(t)
	path := filepath.Join(dir, "agent.sock")
	first, err := Listen(path)
	require.NoError(t, err)
	_, err = Listen(path)
	require.Error(t, err)
	first.SetUnlinkOnClose(false)
	require.NoError(t, first.Close())
	second, err := Listen(path)
	require.NoError(t, err)
	require.NoError(t, second.Close())
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	_, err = Listen(path)
	require.Error(t, err)
	require.FileExists(t, path)
}

// Serve ends when its listener does, and says so.
func TestServeListenerClosed(t *testing.T) {
	s, err := NewServer(nil)
	require.NoError(t, err)
	l, err := Listen(filepath.Join(publicDir(t), "agent.sock"))
	require.NoError(t, err)
	done := make(chan error)
	go func() { done <- s.Serve(context.Background(), l) }()
	time.Sleep(20 * time.Millisecond)
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-done, net.ErrClosed)
	require.NoError(t, s.Close())
}

// Descriptors that are bad to close, read by the agent or not, keep it neither
// from the next request nor from ending. It can serve again then.
func TestLingeringDescriptors(t *testing.T) {
	s, err := NewServer(nil)
	require.NoError(t, err)
	path := filepath.Join(publicDir(t), "agent.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	in := &instance{Server: s, path: path, l: l}
	for range 2 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- s.Serve(ctx, l) }()
		for name, made := range linger.Kinds {
			for _, flags := range []int{0, unix.MSG_OOB} {
				c := in.raw(t)
				for range 3 {
					bring(c, made(t), flags)
				}
				require.NoError(t, c.Close())
			}
			require.Eventually(t, func() bool { return in.serves(t) }, 5*time.Second, time.Millisecond, name)
		}
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(2 * drainTimeout):
			t.Fatal("the agent does not end")
		}
	}
	unixsock.CloseListener(l)
	require.NoError(t, s.Close())
}

// bring sends the first bytes of a request and a descriptor beside them.
func bring(c *rawConn, fd, flags int) {
	raw, err := c.SyscallConn()
	require.NoError(c.t, err)
	frame := statFrame(c.t)
	_ = raw.Control(func(k uintptr) { // the agent may have closed it
		_, _ = unix.Write(int(k), frame[:len(frame)-1])
		_ = unix.Sendmsg(int(k), frame[len(frame)-1:], unix.UnixRights(fd), nil, flags|unix.MSG_NOSIGNAL)
	})
	go unix.Close(fd) //nolint:errcheck // it waits where the agent was quicker
}

// serves reports whether a request of this user is answered, as it is not while
// descriptors of this user are being closed.
func (in *instance) serves(t *testing.T) bool {
	c := in.raw(t)
	defer c.Close()
	_, err := c.Write(statFrame(t))
	if err != nil {
		return false
	}
	h, _, err := c.answer()
	return err == nil && h.Status == wire.OK
}

// closing reports whether descriptors of peers wait to be closed.
func (in *instance) closing() bool {
	for _, a := range in.users.all() {
		if a.closer.Held() > 0 {
			return true
		}
	}
	return false
}

// A message of many descriptors of which one is bad to close takes none from others.
func TestDescriptorsOfOneUser(t *testing.T) {
	in := serveHere(t, nil)
	in.raw(t).expect(wire.OK, statFrame(t))
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(null)
	var bad []int
	for range 4 {
		bad = append(bad, linger.Queued(t, linger.Socket(t)))
	}
	before := descriptors(t)
	for _, fd := range bad {
		c := in.raw(t)
		fds := []int{fd}
		for len(fds) < unixsock.MaxDescriptors {
			fds = append(fds, null)
		}
		_, _, _ = c.WriteMsgUnix(statFrame(t), unix.UnixRights(fds...), nil) // the agent may have closed
		go unix.Close(fd)                                                    //nolint:errcheck // it waits where the agent was quicker
		require.NoError(t, c.Close())
	}
	settles(t, before, func() int { return descriptors(t) })
}

// Descriptors whose closing nobody can end hold one thread for their user, and no
// time of others; nothing more is taken of that user meanwhile; and the agent ends.
func TestUnansweredClose(t *testing.T) {
	file := linger.Unanswered(t)
	s, err := NewServer(nil)
	require.NoError(t, err)
	s.times.drain = time.Second
	path := filepath.Join(publicDir(t), "agent.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	in := &instance{Server: s, path: path, l: l}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	other := in.as(t, apart.Nobody-1)
	other.expect(wire.OK, statFrame(t))
	idle := in.raw(t)
	idle.expect(wire.OK, statFrame(t))
	before := threads(t)

	for range 50 {
		c := in.raw(t)
		fd := file()
		_, _, _ = c.WriteMsgUnix(statFrame(t), unix.UnixRights(fd, fd), nil) // the agent may have closed
		go unix.Close(fd)                                                    //nolint:errcheck // it waits
	}
	require.Eventually(t, in.closing, 5*time.Second, time.Millisecond)
	idle.expect(wire.Protocol, statFrame(t))
	idle.expectEnd()
	for range 100 {
		other.expect(wire.OK, statFrame(t))
	}
	require.Less(t, threads(t)-before, 50+20, "50 wait in this test, beside which the agent has one")
	cancel()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(s.times.drain + 5*closeTimeout):
		t.Fatal("the agent does not end")
	}
	unixsock.CloseListener(l)
	require.NoError(t, s.Close())
}

func threads(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	return len(list)
}
