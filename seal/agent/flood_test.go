package agent

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
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

// floodVar says what a flooding process or a victim does.
const floodVar = "AGENT_TEST_FLOOD"

// roleFlood takes all connections of its user and makes so many more, or more without
// end, of which each brings a byte, or a byte and a descriptor, and is closed at once.
func roleFlood(path string) error {
	var n int
	var kind string
	if _, err := fmt.Sscan(os.Getenv(floodVar), &n, &kind); err != nil {
		return err
	}
	var most unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most)
	if err == nil {
		err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most.Max, Max: most.Max})
	}
	if err != nil {
		return err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	awaitStart()
	var held []int // until the process ends
	one := func(oob []byte) error {
		c, err := waitingConnect(path)
		if err != nil {
			return err
		}
		// The agent may have refused it by now, or the kernel the descriptor: the listener
		// passes none, or the user has too many on their way, in another test of this host too.
		_ = unix.Sendmsg(c, []byte("x"), oob, nil, unix.MSG_NOSIGNAL)
		return unix.Close(c)
	}
	for range 200 { // as many as it may have, and more
		c, err := waitingConnect(path)
		if err != nil {
			return err
		}
		held = append(held, c)
	}
	var oob []byte
	if kind == "descriptor" {
		oob = unix.UnixRights(null)
	}
	var made atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, 2)
	first := sync.OnceFunc(func() { fmt.Println("flooding") })
	for range 2 {
		wg.Go(func() {
			for i := made.Add(1); n == 0 || i <= int64(n); i = made.Add(1) {
				if err := one(oob); err != nil {
					failed <- err
					return
				}
				if n == 0 {
					first()
				}
			}
		})
	}
	wg.Wait()
	if len(failed) > 0 {
		return <-failed
	}
	fmt.Println("flooded", len(held))
	select {}
}

// waitingConnect connects and waits for its turn as long as it takes.
func waitingConnect(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, connect(fd, path, time.Now().Add(time.Minute))
}

// roleVictim uses the agent as programs do, with a new client each time, and prints how
// often it could and why it once could not.
func roleVictim(path string) error {
	var rounds int
	var wait string
	if _, err := fmt.Sscan(os.Getenv(floodVar), &rounds, &wait); err != nil {
		return err
	}
	timeout, err := time.ParseDuration(wait)
	if err != nil {
		return err
	}
	awaitStart()
	served := 0
	var last error
	for range rounds {
		if err := useOnce(path, timeout); err != nil {
			last = err
			continue
		}
		served++
	}
	fmt.Println(served, "served; last error:", last)
	return nil
}

// useOnce opens one token and takes another back.
func useOnce(path string, timeout time.Duration) error {
	c, err := (&Dialer{Timeout: timeout}).Dial(path)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, open := range []func([]byte, string) error{
		func(b []byte, f string) error { _, err := c.Open(b, f); return err },
		func(b []byte, f string) error { _, err := c.TakeBack(b, f); return err },
	} {
		r, err := c.Reserve(testRequest)
		if err != nil {
			return err
		}
		b, err := r.Seal([]byte("plain"))
		if err == nil {
			err = open(b, testFormat)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitStart waits for start: a process that is started while this one has files that are
// slow to close would wait for them as it executes.
func awaitStart() { _, _ = bufio.NewReader(os.Stdin).ReadString('\n') }

func (p *process) start(t *testing.T) {
	t.Helper()
	_, err := fmt.Fprintln(p.in)
	require.NoError(t, err)
}

// flood is a flooding process of another user.
func flood(t *testing.T, path string, n int, kind string) *process {
	t.Helper()
	return spawn(t, "flood", path, as(otherUID), with(floodVar, fmt.Sprint(n, " ", kind)))
}

// victim is a victim of a third user.
func victim(t *testing.T, path string, rounds int, timeout time.Duration) *process {
	t.Helper()
	return spawn(t, "victim", path, as(thirdUID), with(floodVar, fmt.Sprint(rounds, " ", timeout)))
}

// says starts the victim and returns what it says in the end.
func (p *process) says(t *testing.T) string {
	t.Helper()
	p.start(t)
	return p.line(t)
}

func with(name, value string) func(*exec.Cmd) {
	return func(c *exec.Cmd) { c.Env = append(c.Env, name+"="+value) }
}

// A user whose connections are refused takes no more than its share of the agent's
// descriptors, however it has them closed, and others are served. The control has no
// bound on what waits to be closed. Root.
func TestRefusedConnections(t *testing.T) {
	needRoot(t)
	const limit, many = 400, 1500 // descriptors; connections
	for _, tt := range []struct {
		name, kind string
		stuck      bool // descriptors of one message, and of one refused connection, do not close
		control    bool
	}{
		{"bytes", "plain", false, false},
		{"bytes, behind descriptors that do not close", "plain", true, false},
		{"descriptors", "descriptor", false, false},
		{"descriptors that do not close", "descriptor", true, false},
		{"descriptors that do not close, without a bound", "descriptor", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.stuck && tt.kind == "descriptor" && !tt.control {
				needPassRights(t)
			}
			if !apart.Run(t, nil) {
				return
			}
			var before unix.Rlimit
			require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
			// Of this process alone: what another has on its way to a socket has the same limit.
			require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: before.Max}))
			var seen counts
			o := withPolicy(t, "quota user %d connections 20", otherUID)
			o.Observer = &seen
			s, err := NewServer(o)
			require.NoError(t, err)
			if tt.control {
				b := s.users.bounds
				b.closing, b.closingUser = 1<<20, 1<<20
				s.bound(b)
			}
			in := serveAs(t, s)
			flood := flood(t, in.path, many, tt.kind)
			first, last := victim(t, in.path, 1, 2*time.Second), victim(t, in.path, 5, time.Minute)
			if tt.stuck {
				slow := linger.Unanswered(t)
				acct := s.users.of(otherUID)
				go acct.hangups.Close(slow())
				c, fd := in.as(t, otherUID), slow()
				_, _, err := c.WriteMsgUnix([]byte("x"), append(unix.UnixRights(fd, fd), c.cred...), nil)
				require.NoError(t, err)
				go unix.Close(fd) //nolint:errcheck // it waits
				require.Eventually(t, func() bool { return acct.closer.Held() == 2 }, time.Minute, time.Millisecond)
			}
			flood.start(t)
			if tt.control {
				require.Eventually(t, func() bool { return seen.of("accept unavailable") > 0 }, time.Minute, 10*time.Millisecond)
				require.Contains(t, first.says(t), "0 served", "without the defence")
				flood.kill()
				return
			}
			require.Contains(t, flood.line(t), "flooded")
			require.Contains(t, last.says(t), "5 served")
			require.LessOrEqual(t, len(s.closing), s.users.bounds.closing)
			require.Less(t, descriptors(t), limit*3/4)
		})
	}
}

// needPassRights skips a test that takes a kernel which refuses descriptors at their sender.
func needPassRights(t *testing.T) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	require.NoError(t, err)
	defer l.Close()
	if err := unixsock.PassRights(l, true); errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("Linux before 6.16 has no SO_PASSRIGHTS")
	}
}

// A user that connects as fast as it can keeps nobody else from being served. Root.
func TestConnectFlood(t *testing.T) {
	needRoot(t)
	in := serveHere(t, withPolicy(t, "quota user %d connections 20", otherUID))
	flood := flood(t, in.path, 0, "plain")
	flood.start(t)
	require.Equal(t, "flooding", flood.line(t))
	require.Contains(t, victim(t, in.path, 20, time.Minute).says(t), "20 served")
}

// A client waits for its turn while as many connections wait as may, and until its
// deadline. The control is told at once to try again.
func TestFullBacklog(t *testing.T) {
	s, err := NewServer(nil)
	require.NoError(t, err)
	path := filepath.Join(publicDir(t), "agent.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	for {
		c, err := net.Dial("unix", path)
		if err != nil {
			require.ErrorIs(t, err, unix.EAGAIN, "the control")
			break
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	start := time.Now()
	_, err = (&Dialer{Timeout: 300 * time.Millisecond}).Dial(path)
	require.ErrorIs(t, err, ErrAway)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.GreaterOrEqual(t, time.Since(start), 300*time.Millisecond)

	served := make(chan error)
	go func() { served <- useOnce(path, time.Minute) }()
	select {
	case err := <-served:
		require.Fail(t, "it did not wait", "%v", err)
	case <-time.After(300 * time.Millisecond):
	}
	(&instance{Server: s, path: path, l: l}).serve(t)
	require.NoError(t, <-served)
}

// A message with a descriptor that comes before its connection is accepted waits while
// the kernel refuses it, for an agent that is being flooded.
func TestDescriptorBeforeAccept(t *testing.T) {
	needPassRights(t)
	s, err := NewServer(nil)
	require.NoError(t, err)
	path := filepath.Join(publicDir(t), "agent.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	require.NoError(t, unixsock.PassRights(l, false))
	self, err := seal.Process(os.Getpid())
	require.NoError(t, err)
	c, err := (&Dialer{Timeout: time.Minute}).Dial(path)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.idle[0].raw.Control(func(fd uintptr) {
		err = unix.Sendmsg(int(fd), []byte("x"), unix.UnixRights(0), nil, unix.MSG_NOSIGNAL)
	}))
	require.ErrorIs(t, err, unix.EPERM, "the control")

	reserved := make(chan error)
	go func() {
		req := testRequest
		req.Audience = self
		_, err := c.Reserve(req)
		reserved <- err
	}()
	select {
	case err := <-reserved:
		require.Fail(t, "it did not wait", "%v", err)
	case <-time.After(100 * time.Millisecond):
	}
	(&instance{Server: s, path: path, l: l}).serve(t)
	require.NoError(t, <-reserved)
}

// The descriptors that a message brings count as its user's until they are closed, one
// message at a time, and leave that user fewer connections.
func TestReceivedDescriptorsCount(t *testing.T) {
	slow := linger.Unanswered(t)
	s, err := NewServer(nil)
	require.NoError(t, err)
	s.bound(bounds{connections: 200, closing: 4, closingUser: 2})
	in := serveAs(t, s)
	var conns []*rawConn
	for range 20 {
		c := in.raw(t)
		c.expect(wire.OK, statFrame(t))
		conns = append(conns, c)
	}
	fd := slow()
	fds := make([]int, 90)
	for i := range fds {
		fds[i] = fd
	}
	for _, c := range conns[:10] {
		_, _, _ = c.WriteMsgUnix([]byte("x"), unix.UnixRights(fds...), nil)
	}
	acct := in.users.find(uint32(selfUID))
	require.Eventually(t, func() bool { return acct.closer.Held() == len(fds) }, time.Minute, time.Millisecond)
	require.EqualValues(t, len(fds), in.users.foreign.Load())
	require.Equal(t, 200-30, in.users.room())
	time.Sleep(100 * time.Millisecond)
	require.Equal(t, len(fds), acct.closer.Held(), "more than one message was taken")
}

// A descriptor for which this process has no room is not the peer's fault, and no request
// goes on without it.
func TestNoRoomForDescriptor(t *testing.T) {
	if !apart.Run(t, nil) {
		return
	}
	in := serveHere(t, nil)
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	require.NoError(t, err)
	frame := reserveFrame(t, 4)
	in.raw(t).expect(wire.OK, frame, self) // the control
	c := in.raw(t)
	c.expect(wire.OK, statFrame(t))
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	highest := 0
	for _, n := range names {
		fd, err := strconv.Atoi(n.Name())
		require.NoError(t, err)
		highest = max(highest, fd)
	}
	var before unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	for free := 3; free < highest; free++ { // no number below the limit is free
		if fd, err := unix.Dup(self); err != nil || fd >= highest {
			break
		}
	}
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(highest), Max: before.Max}))
	c.expect(wire.Unavailable, frame, self)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before))
	c.expectEnd()
	in.raw(t).expect(wire.OK, frame, self)
}
