// Package foreign gets rid of descriptors that came from another process. Closing
// one is not harmless. A socket whose maker has set SO_LINGER keeps whoever closes
// it last waiting in the kernel, for as long as the maker likes; so does a Unix
// socket, or a listening one, in whose queue such a socket lies. Of a file in a
// filesystem of user space each close waits for the filesystem's daemon.
//
// A signal ends the first kind of waiting, and nothing the second. So what may
// wait is closed by a thread of its own, which gets signals until it is done; and
// of those threads there are few.
package foreign

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/pidfd"
)

// Inline has out-of-band bytes come in line with the others: the kernel drops
// those that do not inside recvmsg, with the descriptors that they bring. It is to
// be called before a connection is first read.
func Inline(c syscall.Conn) error { return set(c, unix.SO_OOBINLINE) }

// Prepare is Inline, and has the kernel put the sender's credentials on each message
// (SO_PASSCRED). Connections inherit that from a listener, so that their first byte
// has them too.
func Prepare(c syscall.Conn) error { return set(c, unix.SO_OOBINLINE, unix.SO_PASSCRED) }

// PassRights lets messages to c bring descriptors, or has the kernel refuse these
// messages to their sender with EPERM. Connections take it over from their listener when
// they are made. It returns ENOPROTOOPT before Linux 6.16.
func PassRights(c syscall.Conn, on bool) error {
	if on {
		return set(c, unix.SO_PASSRIGHTS)
	}
	return control(c, func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0))
	})
}

func set(c syscall.Conn, options ...int) error {
	return control(c, func(fd int) error { return setOn(fd, options...) })
}

func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

func setOn(fd int, options ...int) error {
	for _, option := range options {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

// threads bounds how many closings may wait at the same time, of all Closers: each
// holds a thread, and a program that can have no more of them is aborted.
var threads = make(chan struct{}, 64)

// A Closer closes what came from one party, one descriptor at a time: whatever that
// party has made of them, they hold one thread. The zero value is ready. Safe for
// concurrent use.
type Closer struct {
	// Patience is how long Close waits. What is not closed by then is closed later.
	// Zero: until all is closed.
	Patience time.Duration

	// All counts the descriptors of several Closers together. Nil: nobody does.
	All *atomic.Int64

	taking sync.Mutex // held while a message is received: the next one sees what it brought
	turn   sync.Mutex
	held   atomic.Int64 // descriptors whose close may wait for the party
}

// Busy reports whether something of the party is being closed, or still to be, that
// may take its time: it holds room in the table of descriptors.
func (c *Closer) Busy() bool { return c.held.Load() > 0 }

// Held returns how many descriptors of the party are being closed, or still to be, whose
// close may take its time.
func (c *Closer) Held() int { return int(c.held.Load()) }

func (c *Closer) hold(n int) {
	c.held.Add(int64(n))
	if c.All != nil {
		c.All.Add(int64(n))
	}
}

// Close closes descriptors; negative ones are none. It waits until they are closed,
// which may depend on the party that made them, for at most Patience. Descriptors of
// processes are closed at once, and sockets before the rest.
func (c *Closer) Close(fds ...int) { c.await(c.begin(fds)) }

func (c *Closer) begin(fds []int) (done <-chan struct{}) {
	var sockets, others []int
	for _, fd := range fds {
		switch {
		case fd < 0:
		case pidfd.Is(fd):
			_ = unix.Close(fd)
		case isSocket(fd):
			sockets = append(sockets, fd)
		default:
			others = append(others, fd)
		}
	}
	slow := append(sockets, others...)
	if len(slow) == 0 {
		return nothing
	}
	return c.start(len(slow), func() {
		for _, fd := range slow {
			interrupted(func() { _ = unix.Close(fd) })
		}
	})
}

// HangUp closes a Unix stream connection. Descriptors that lie in it unread are
// closed with it, so that HangUp may wait for the party that sent them, for at most
// Patience. The channel that it returns is closed when the connection is. No other
// goroutine may use the connection any more.
func (c *Closer) HangUp(conn *net.UnixConn) (closed <-chan struct{}) {
	if Ended(conn) {
		_ = conn.Close()
		return nothing
	}
	closed = c.start(1, func() { interrupted(func() { _ = conn.Close() }) })
	c.await(closed)
	return closed
}

// nothing is to be waited for.
var nothing = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// start runs f, which closes n descriptors, in a goroutine when it is this Closer's turn
// and a thread may wait.
func (c *Closer) start(n int, f func()) (done <-chan struct{}) {
	c.hold(n)
	end := make(chan struct{})
	go func() {
		defer close(end)
		defer c.hold(-n)
		c.turn.Lock()
		defer c.turn.Unlock()
		threads <- struct{}{}
		defer func() { <-threads }()
		f()
	}()
	return end
}

func (c *Closer) await(done <-chan struct{}) {
	if c.Patience == 0 {
		<-done
		return
	}
	timer := time.NewTimer(c.Patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// Ended ends a Unix stream connection for its other end, and reports whether closing
// it now waits for nothing: no descriptor lies in it unread. It reads and drops the
// bytes of a connection without descriptors.
func Ended(conn *net.UnixConn) (harmless bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true // there is none
	}
	if raw.Control(func(fd uintptr) {
		if unix.Shutdown(int(fd), unix.SHUT_RDWR) != nil || setOn(int(fd), unix.SO_OOBINLINE, unix.SO_PASSCRED) != nil {
			return
		}
		r := Receiver{buf: make([]byte, 4096), oob: make([]byte, unix.CmsgSpace(unix.SizeofUcred))}
		for {
			r.one[0] = r.buf
			n, err := r.readPlain(fd)
			if err != nil || n == 0 {
				harmless = err == nil || errors.Is(err, unix.ECONNRESET)
				return
			}
		}
	}) != nil {
		return true // it is closed
	}
	return harmless
}

// isSocket asks nothing of whoever made the descriptor.
func isSocket(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil
}

// The first signal comes soon, since what lingers does so for certain, and the
// later ones seldom: who has not heeded a few heeds none.
const (
	firstSignal = 200 * time.Microsecond
	lastSignal  = time.Second
)

// interrupted runs f, which is one system call, on a thread that gets signals until
// f has returned. The signal is the one by which Go's runtime stops its own threads:
// nobody else takes notice of it.
func interrupted(f func()) {
	thread, done := make(chan int, 1), make(chan struct{})
	var mu sync.Mutex // held while a signal is sent: none reaches what the thread does next
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		f()
		mu.Lock()
		defer mu.Unlock()
		close(done)
	}()
	id := <-thread
	for pause := firstSignal; ; pause = min(2*pause, lastSignal) {
		select {
		case <-done:
			return
		case <-time.After(pause):
		}
		mu.Lock()
		select {
		case <-done:
		default:
			_ = unix.Tgkill(unix.Getpid(), id, unix.SIGURG)
		}
		mu.Unlock()
	}
}

// patience is how long Close, HangUp and CloseListener wait.
const patience = 100 * time.Millisecond

// Close is Closer.Close with a Closer of its own, for a caller that has better things
// to do than wait: what is not closed soon is closed later.
func Close(fds ...int) { (&Closer{Patience: patience}).Close(fds...) }

// HangUp is Closer.HangUp, likewise.
func HangUp(conn *net.UnixConn) (closed <-chan struct{}) {
	return (&Closer{Patience: patience}).HangUp(conn)
}

// CloseListener closes a listener likewise: descriptors may wait in connections that
// nobody has accepted.
func CloseListener(l *net.UnixListener) {
	c := &Closer{Patience: patience}
	c.await(c.start(1, func() { interrupted(func() { _ = l.Close() }) }))
}
