package unixsock

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/unixsock/linger"
)

// connected returns both ends of a connection; the second has Prepare behind it.
func connected(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ends := [2]*net.UnixConn{}
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	require.NoError(t, Prepare(ends[1]))
	return ends[0], ends[1]
}

func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

// limit lets this process open n descriptors more, in the lowest free places, until
// the function that it returns is called.
func limit(t testing.TB, n int) (lift func()) {
	t.Helper()
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	free := 0
	for fd := 0; ; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			continue
		}
		if free++; free > n {
			require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(fd), Max: old.Max}))
			return func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }
		}
	}
}

// nulls are n descriptors of /dev/null as a control message.
func nulls(t testing.TB, n int) (oob []byte, done func()) {
	t.Helper()
	if n == 0 {
		return nil, func() {}
	}
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	fds := make([]int, n)
	for i := range fds {
		fds[i] = null
	}
	return unix.UnixRights(fds...), func() { _ = unix.Close(null) }
}

// TestReceive sends so many descriptors to a process that has room for so many.
func TestReceive(t *testing.T) {
	const ample = 1000
	for name, c := range map[string]struct {
		sent, room int
		takes      bool // the receiver takes descriptors
		want       error
		fd         bool
		dropped    bool
	}{
		"none":                       {0, ample, true, nil, false, false},
		"none, at the limit":         {0, 0, true, nil, false, false},
		"one":                        {1, ample, true, nil, true, false},
		"one, at the limit":          {1, 0, true, nil, false, true},
		"two":                        {2, ample, true, ErrControl, false, false},
		"two, room for one":          {2, 1, true, ErrControl, false, false},
		"all":                        {MaxDescriptors, ample, true, ErrControl, false, false},
		"all, room for some":         {MaxDescriptors, 100, true, ErrControl, false, false},
		"none, none taken":           {0, ample, false, nil, false, false},
		"one, none taken":            {1, ample, false, ErrControl, false, false},
		"one, none taken, no room":   {1, 0, false, ErrControl, false, false},
		"all, none taken":            {MaxDescriptors, ample, false, ErrControl, false, false},
		"none, none taken, no room ": {0, 0, false, nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := connected(t)
			var closer *Closer
			if c.takes {
				closer = new(Closer)
			}
			r, err := NewReceiver(b, closer)
			require.NoError(t, err)
			oob, done := nulls(t, c.sent)
			_, _, err = a.WriteMsgUnix([]byte("text"), oob, nil)
			require.NoError(t, err)
			done()
			before := descriptors(t)
			lift := limit(t, c.room)
			buf := make([]byte, 10)
			_, n, ctl, err := r.Receive(buf, nil, nil)
			lift()
			require.ErrorIs(t, err, c.want)
			require.Equal(t, c.fd, ctl.FD >= 0)
			require.Equal(t, c.dropped, ctl.Dropped)
			if c.want == nil {
				require.Equal(t, "text", string(buf[:n]), "bytes are complete in any case")
				require.EqualValues(t, os.Getpid(), ctl.Sender.Pid)
				require.EqualValues(t, os.Getuid(), ctl.Sender.Uid)
				require.EqualValues(t, os.Getgid(), ctl.Sender.Gid)
			}
			if ctl.FD >= 0 {
				flags, err := unix.FcntlInt(uintptr(ctl.FD), unix.F_GETFD, 0)
				require.NoError(t, err)
				require.NotZero(t, flags&unix.FD_CLOEXEC, "a child would inherit it")
				r.Drop(ctl.FD)
			}
			require.LessOrEqual(t, descriptors(t), before) // an earlier test's may have been closed
			require.NoError(t, a.Close())
			if c.want == nil {
				_, _, _, err = r.Receive(buf, nil, nil)
				require.ErrorIs(t, err, io.EOF)
			}
		})
	}
}

// TestReceiveBehindBytes: a receiver that takes no descriptors does not come past one,
// though the kernel would return bytes before it and behind it in one call. Whether it
// reads the bytes before it is the kernel's choice.
func TestReceiveBehindBytes(t *testing.T) {
	a, b := connected(t)
	r, err := NewReceiver(b, nil)
	require.NoError(t, err)
	_, err = a.Write([]byte("before "))
	require.NoError(t, err)
	oob, done := nulls(t, 1)
	_, _, err = a.WriteMsgUnix([]byte("with"), oob, nil)
	require.NoError(t, err)
	done()
	before := descriptors(t)
	var text []byte
	buf := make([]byte, 20)
	n := 0
	for err = nil; err == nil; text = append(text, buf[:n]...) {
		_, n, _, err = r.Receive(buf, nil, nil)
	}
	require.ErrorIs(t, err, ErrControl)
	require.Contains(t, []string{"", "before "}, string(text))
	_, _, _, err = r.Receive(buf, nil, nil)
	require.ErrorIs(t, err, ErrControl)
	require.LessOrEqual(t, descriptors(t), before) // an earlier test's may have been closed
}

// TestReceiveBetween: a descriptor that arrives between the look and the read stays where it
// is. Read with the bytes before it, it would be closed inside recvmsg.
func TestReceiveBetween(t *testing.T) {
	oob, done := nulls(t, 1)
	defer done()
	for range 3000 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		require.NoError(t, setOn(pair[1], unix.SO_PASSCRED))
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = unix.Write(pair[0], []byte("a"))
			_ = unix.Sendmsg(pair[0], []byte("b"), oob, nil, 0)
		}()
		r := Receiver{buf: make([]byte, 10), oob: make([]byte, unix.CmsgSpace(unix.SizeofUcred))}
		for n := 0; ; {
			r.one[0] = r.buf
			got, err := r.readPlain(uintptr(pair[1]))
			if err == unix.EAGAIN {
				continue
			}
			if err != nil {
				require.ErrorIs(t, err, ErrControl)
				break
			}
			n += got
			require.LessOrEqual(t, n, 1)
			require.Zero(t, r.msg.hdr.Flags&unix.MSG_CTRUNC)
		}
		<-sent
		require.NoError(t, errors.Join(unix.Close(pair[0]), unix.Close(pair[1])))
	}
}

// TestReceiveWhileBusy: what a party sends is not read while what it has sent before is
// being closed.
func TestReceiveWhileBusy(t *testing.T) {
	a, b := connected(t)
	closer := new(Closer)
	r, err := NewReceiver(b, closer)
	require.NoError(t, err)
	_, err = a.Write([]byte("text"))
	require.NoError(t, err)
	leave := make(chan struct{})
	done := closer.start(1, func() { <-leave })
	buf := make([]byte, 10)
	_, _, _, err = r.Receive(buf, nil, nil)
	require.ErrorIs(t, err, ErrControl)
	close(leave)
	<-done
	require.Eventually(t, func() bool { return !closer.Busy() }, 10*time.Second, time.Millisecond)
	_, n, _, err := r.Receive(buf, nil, nil)
	require.NoError(t, err)
	require.Equal(t, "text", string(buf[:n]), "the control: it was not lost")
}

// message is a control message of any kind.
func message(level, kind int32, data []byte) []byte {
	var h unix.Cmsghdr
	b := make([]byte, unix.CmsgSpace(len(data)))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b, asBytes(&h))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

// TestParse has control data that no kernel writes today, or only under a limit.
func TestParse(t *testing.T) {
	null := func() []byte {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		return unix.UnixRights(fd)
	}
	who := unix.Ucred{Pid: 1, Uid: 2, Gid: 3}
	cred := unix.UnixCredentials(&who)
	long := message(unix.SOL_SOCKET, unix.SCM_CREDENTIALS, make([]byte, 12))
	copy(long, asBytes(&unix.Cmsghdr{Level: unix.SOL_SOCKET, Type: unix.SCM_CREDENTIALS, Len: 1000}))
	for name, c := range map[string]struct {
		oob   []byte
		flags int
		want  Control // FD 0: there is one
		err   error
	}{
		"nothing":                       {nil, 0, Control{FD: -1}, nil},
		"credentials":                   {cred, 0, Control{Sender: who, FD: -1}, nil},
		"and a descriptor":              {append(cred, null()...), 0, Control{Sender: who}, nil},
		"the other way round":           {append(null(), cred...), 0, Control{Sender: who}, nil},
		"cut off, with nothing":         {nil, unix.MSG_CTRUNC, Control{FD: -1, Dropped: true}, nil},
		"cut off, with credentials":     {cred, unix.MSG_CTRUNC, Control{Sender: who, FD: -1, Dropped: true}, nil},
		"cut off, with an empty list":   {unix.UnixRights(), unix.MSG_CTRUNC, Control{FD: -1, Dropped: true}, nil},
		"cut off, with one of several":  {null(), unix.MSG_CTRUNC, Control{FD: -1}, ErrControl},
		"two lists":                     {append(null(), null()...), 0, Control{FD: -1}, ErrControl},
		"short credentials":             {message(unix.SOL_SOCKET, unix.SCM_CREDENTIALS, make([]byte, 4)), 0, Control{FD: -1}, ErrControl},
		"unknown":                       {message(unix.SOL_SOCKET, unix.SO_TIMESTAMP, make([]byte, 16)), 0, Control{FD: -1}, ErrControl},
		"unknown, then a descriptor":    {append(message(unix.SOL_SOCKET, unix.SO_TIMESTAMP, make([]byte, 16)), null()...), 0, Control{FD: -1}, ErrControl},
		"a descriptor, then unknown":    {append(null(), message(unix.SOL_SOCKET, unix.SO_TIMESTAMP, make([]byte, 16))...), 0, Control{FD: -1}, ErrControl},
		"another protocol's":            {message(unix.SOL_IP, unix.SCM_RIGHTS, make([]byte, 4)), 0, Control{FD: -1}, ErrControl},
		"longer than it is":             {long, 0, Control{FD: -1}, ErrControl},
		"a descriptor, then longer so ": {append(null(), long...), 0, Control{FD: -1}, ErrControl},
	} {
		t.Run(name, func(t *testing.T) {
			held := descriptors(t)
			ctl, unwanted, err := parse(c.oob, c.flags, true)
			Close(unwanted...)
			require.ErrorIs(t, err, c.err)
			if err != nil {
				require.Less(t, ctl.FD, 0)
				return
			}
			if c.want.FD == 0 {
				require.GreaterOrEqual(t, ctl.FD, 0)
				require.NoError(t, unix.Close(ctl.FD))
				require.Equal(t, held-1, descriptors(t))
				ctl.FD = 0
			}
			require.Equal(t, c.want, ctl)
		})
	}
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	_, unwanted, err := parse(unix.UnixRights(fd), 0, false)
	Close(unwanted...)
	require.ErrorIs(t, err, ErrControl, "a receiver without a closer takes none")
	_, err = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	require.ErrorIs(t, err, unix.EBADF)
}

// TestEnded: bytes without descriptors are read away, so that a connection with them
// can be closed on the spot, and one with a descriptor in it is known.
func TestEnded(t *testing.T) {
	fill := func(a *net.UnixConn) {
		require.NoError(t, a.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
		for { // until the other end takes no more
			if _, err := a.Write(make([]byte, 1000)); err != nil {
				return
			}
		}
	}
	descriptor := func(a *net.UnixConn) {
		raw, err := a.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) { linger.InBand(t, int(fd), linger.Socket(t)) }))
	}
	for name, c := range map[string]struct {
		do   func(a *net.UnixConn)
		want bool
	}{
		"nothing":           {func(*net.UnixConn) {}, true},
		"ended":             {func(a *net.UnixConn) { _ = a.Close() }, true},
		"full":              {fill, true},
		"full and ended":    {func(a *net.UnixConn) { fill(a); _ = a.Close() }, true},
		"a descriptor":      {descriptor, false},
		"behind some bytes": {func(a *net.UnixConn) { _, _ = a.Write(make([]byte, 10_000)); descriptor(a) }, false},
	} {
		for _, prepared := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				a, b := connected(t)
				if !prepared {
					b, a = a, b
				}
				c.do(a)
				before := descriptors(t)
				require.Equal(t, c.want, Ended(b))
				require.LessOrEqual(t, descriptors(t), before) // an earlier test's may have been closed
				<-new(Closer).HangUp(b)
				require.ErrorIs(t, b.Close(), net.ErrClosed)
			})
		}
	}
	_, b := connected(t)
	require.NoError(t, b.Close())
	require.True(t, Ended(b))
}

func asBytes(h *unix.Cmsghdr) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(h)), unsafe.Sizeof(*h))...)
}
