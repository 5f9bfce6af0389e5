package peer

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/internal/pidfd"
	"github.com/sealctx/sealctx/internal/unixsock"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// pair is a connection over a listener, as an agent has it.
func pair(t *testing.T, pass bool) (client, server *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	require.NoError(t, err)
	defer l.Close()
	if pass {
		require.NoError(t, unixsock.Prepare(l))
	}
	client, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	require.NoError(t, err)
	server, err = l.AcceptUnix()
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return client, server
}

func identify(t *testing.T, c *net.UnixConn) *Identity {
	t.Helper()
	ns, err := NewNamespace()
	require.NoError(t, err)
	id, err := whole(ns, c)
	require.NoError(t, err)
	t.Cleanup(id.Close)
	return id
}

// whole asks who is at the other end, and for the rest.
func whole(ns *Namespace, c *net.UnixConn) (*Identity, error) {
	cred, err := ns.Who(c)
	if err != nil {
		return nil, err
	}
	return ns.Identify(c, cred)
}

func TestIdentify(t *testing.T) {
	_, server := pair(t, true)
	id := identify(t, server)
	require.EqualValues(t, os.Geteuid(), id.UID)
	require.Equal(t, os.Getpid(), id.PID)
	require.Contains(t, id.Groups, uint32(os.Getegid()))
	groups, err := os.Getgroups()
	require.NoError(t, err)
	for _, g := range groups {
		require.Contains(t, id.Groups, uint32(g))
	}
	a, err := id.Process()
	require.NoError(t, err)
	self, err := seal.Process(os.Getpid())
	require.NoError(t, err)
	bin, err := self.MarshalBinary()
	require.NoError(t, err)
	require.Equal(t, bin[1:], a)

	ns := &Namespace{overflowUID: uint32(os.Geteuid())}
	_, err = whole(ns, server)
	require.ErrorIs(t, err, ErrUnknown)
	ns = &Namespace{overflowUID: 1<<32 - 2, overflowGID: uint32(os.Getegid())}
	other, err := whole(ns, server)
	require.NoError(t, err)
	defer other.Close()
	require.NotContains(t, other.Groups, uint32(os.Getegid()))
}

// Messages without the kernel's word for their sender are nobody's.
func TestReceiveWithoutCredentials(t *testing.T) {
	for _, pass := range []bool{true, false} {
		client, server := pair(t, pass)
		r, err := NewReceiver(server, identify(t, server), new(unixsock.Closer))
		require.NoError(t, err)
		_, err = client.Write([]byte("hello"))
		require.NoError(t, err)
		b := make([]byte, 10)
		_, n, fd, err := r.Receive(b, nil, nil)
		require.Equal(t, -1, fd)
		if pass {
			require.NoError(t, err)
			require.Equal(t, "hello", string(b[:n]))
			continue
		}
		require.ErrorIs(t, err, ErrImpostor)
	}
}

// A waiting receiver holds no buffer; deadlines and the end are what they are
// elsewhere.
func TestReceive(t *testing.T) {
	client, server := pair(t, true)
	r, err := NewReceiver(server, identify(t, server), new(unixsock.Closer))
	require.NoError(t, err)
	out := 0
	fill := func() []byte { out++; return make([]byte, 8) }
	spare := func([]byte) { out-- }
	require.NoError(t, server.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	b, _, _, err := r.Receive(nil, fill, spare)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Nil(t, b)
	require.Zero(t, out)
	require.NoError(t, server.SetReadDeadline(time.Time{}))

	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	_, _, err = client.WriteMsgUnix([]byte("one"), unix.UnixRights(int(null.Fd())), nil)
	require.NoError(t, err)
	b, n, fd, err := r.Receive(nil, fill, spare)
	require.NoError(t, err)
	require.Equal(t, "one", string(b[:n]))
	require.GreaterOrEqual(t, fd, 0)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.FD_CLOEXEC, "a child would inherit it")
	require.NoError(t, unix.Close(fd))

	require.NoError(t, client.Close())
	_, _, _, err = r.Receive(nil, fill, spare)
	require.ErrorIs(t, err, io.EOF)
}

// Parts go out as one run of bytes, over a full socket too, and come in where
// they are wanted.
func TestSendParts(t *testing.T) {
	client, server := pair(t, false)
	raw, err := client.SyscallConn()
	require.NoError(t, err)
	sraw, err := server.SyscallConn()
	require.NoError(t, err)
	big := make([]byte, 1<<20)
	for i := range big {
		big[i] = byte(i * 7)
	}
	waits := 0
	done := make(chan error, 1)
	go func() {
		n, err := TrySend(raw, func() { waits++ }, []byte("head"), nil, big, []byte("tail"))
		if err == nil && n != 8+len(big) {
			err = io.ErrShortWrite
		}
		done <- err
	}()
	time.Sleep(20 * time.Millisecond) // until the socket is full
	head, body, tail := make([]byte, 4), make([]byte, len(big)), make([]byte, 4)
	parts := [][]byte{head, body, tail}
	for got := 0; got < 8+len(big); {
		n, err := unixsock.ReceiveInto(sraw, parts)
		require.NoError(t, err)
		require.Positive(t, n)
		got += n
		parts = Advance(parts, n)
	}
	require.NoError(t, <-done)
	require.Equal(t, 1, waits)
	require.Equal(t, "head", string(head))
	require.Equal(t, big, body)
	require.Equal(t, "tail", string(tail))

	require.NoError(t, server.Close())
	_, err = Send(raw, nil, []byte("x"))
	require.ErrorIs(t, err, unix.EPIPE)
}

// child runs a shell that has one end of a connection as descriptor 3, and returns its
// identity and the other end. The shell says hello when it has read a line, and ends
// when it has read another.
func child(t *testing.T) (id *Identity, server *net.UnixConn, line func(), ended func()) {
	t.Helper()
	client, server := pair(t, true)
	theirs, err := client.File()
	require.NoError(t, err)
	defer theirs.Close()
	cmd := exec.Command("/bin/sh", "-c", "read x; printf hello >&3; read x")
	cmd.ExtraFiles = []*os.File{theirs}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	id = &Identity{UID: uint32(os.Geteuid()), PID: cmd.Process.Pid}
	id.pidfd, err = pidfd.Open(id.PID)
	require.NoError(t, err)
	t.Cleanup(id.Close)
	line = func() {
		_, err := in.Write([]byte("\n"))
		require.NoError(t, err)
	}
	return id, server, line, func() { require.NoError(t, cmd.Wait()) }
}

// TestReceiveFromTheDead: bytes of a process that has ended count for nothing. A later
// process may have its id.
func TestReceiveFromTheDead(t *testing.T) {
	for _, dead := range []bool{false, true} {
		id, server, line, ended := child(t)
		r, err := NewReceiver(server, id, new(unixsock.Closer))
		require.NoError(t, err)
		line()
		if dead {
			line()
			ended()
		}
		buf := make([]byte, 10)
		_, n, fd, err := r.Receive(buf, nil, nil)
		require.Equal(t, -1, fd)
		if dead {
			require.ErrorIs(t, err, ErrImpostor)
			continue
		}
		require.NoError(t, err, "the control: it lives")
		require.Equal(t, "hello", string(buf[:n]))
		line()
		ended()
	}
}

// TestReceiveOfAnother: the connection's process and user must have sent the bytes.
func TestReceiveOfAnother(t *testing.T) {
	for name, forge := range map[string]func(*Identity){
		"process": func(id *Identity) { id.PID++ },
		"no id":   func(id *Identity) { id.PID = 0 },
		"user":    func(id *Identity) { id.UID++ },
		"":        func(*Identity) {},
	} {
		client, server := pair(t, true)
		id := identify(t, server)
		forge(id)
		r, err := NewReceiver(server, id, new(unixsock.Closer))
		require.NoError(t, err)
		_, err = client.Write([]byte("hello"))
		require.NoError(t, err)
		_, _, _, err = r.Receive(make([]byte, 10), nil, nil)
		if name == "" {
			require.NoError(t, err, "the control")
			continue
		}
		require.ErrorIs(t, err, ErrImpostor, name)
	}
}

// TestOutsideNamespace: a process that has no id here, which the kernel calls 0, is no
// peer, and neither are its bytes anybody's.
func TestOutsideNamespace(t *testing.T) {
	apart.NeedRoot(t)
	client, server := pair(t, true)
	_, err := client.Write([]byte("hello"))
	require.NoError(t, err)
	theirs, err := server.File()
	require.NoError(t, err)
	defer theirs.Close()
	if !apart.Run(t, func(cmd *exec.Cmd) {
		cmd.ExtraFiles = []*os.File{theirs}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	}) {
		return
	}
	c, err := net.FileConn(os.NewFile(3, "inherited"))
	require.NoError(t, err)
	server = c.(*net.UnixConn)
	ns, err := NewNamespace()
	require.NoError(t, err)
	_, err = whole(ns, server)
	require.ErrorIs(t, err, ErrUnknown)
	require.ErrorContains(t, err, "process of user 0")
	own, err := pidfd.Open(os.Getpid())
	require.NoError(t, err)
	r, err := NewReceiver(server, &Identity{pidfd: own}, new(unixsock.Closer))
	require.NoError(t, err)
	_, _, _, err = r.Receive(make([]byte, 10), nil, nil)
	require.ErrorIs(t, err, ErrImpostor)
}

// TestReceiveDescriptors: one descriptor comes, several are refused, and one that this
// process has no room for is the peer's fault in no way. No error leaves one open.
func TestReceiveDescriptors(t *testing.T) {
	if !apart.Run(t, nil) { // it changes a limit of the process
		return
	}
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	for name, c := range map[string]struct {
		n     int
		limit uint64
		want  error
	}{
		"one":               {1, old.Cur, nil},
		"two":               {2, old.Cur, ErrDescriptors},
		"all":               {unixsock.MaxDescriptors, old.Cur, ErrDescriptors},
		"one, at the limit": {1, 3, ErrNoRoom},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := pair(t, true)
			r, err := NewReceiver(server, identify(t, server), new(unixsock.Closer))
			require.NoError(t, err)
			fds := make([]int, c.n) // of standard input
			_, _, err = client.WriteMsgUnix([]byte("hello"), unix.UnixRights(fds...), nil)
			require.NoError(t, err)
			open := func() int {
				list, err := os.ReadDir("/proc/self/fd")
				require.NoError(t, err)
				return len(list)
			}
			before := open()
			require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: c.limit, Max: old.Max}))
			_, _, fd, err := r.Receive(make([]byte, 10), nil, nil)
			require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
			require.ErrorIs(t, err, c.want)
			require.Equal(t, c.want == nil, fd >= 0)
			if fd >= 0 {
				require.NoError(t, unix.Close(fd))
			}
			require.Equal(t, before, open())
		})
	}
}

// A process by its descriptor is the same party as by its id. One that has ended is
// nobody, and so is what is no descriptor of a process.
func TestProcess(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "60")
	require.NoError(t, cmd.Start())
	want, err := seal.Process(cmd.Process.Pid)
	require.NoError(t, err)
	fd, err := pidfd.Open(cmd.Process.Pid)
	require.NoError(t, err)
	defer unix.Close(fd)
	p, uid, err := Process(fd)
	require.NoError(t, err)
	require.Equal(t, want, p)
	require.EqualValues(t, os.Geteuid(), uid)
	_, _, err = Process(1 << 20)
	require.ErrorIs(t, err, seal.ErrUnavailable)

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	_, _, err = Process(fd)
	require.ErrorIs(t, err, ask.ErrAudience)
}
