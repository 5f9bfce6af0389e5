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
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/pidfd"
)

// MaxDescriptors is how many descriptors one message can bring (SCM_MAX_FD of
// Linux). Whoever receives with room for fewer has the kernel close the rest,
// inside recvmsg and as their maker has it.
const MaxDescriptors = 253

// RightsSpace is the room for them among the control messages, in bytes.
var RightsSpace = unix.CmsgSpace(4 * MaxDescriptors)

// Inline has out-of-band bytes come in line with the others: the kernel drops
// those that do not inside recvmsg, with the descriptors that they bring. It is to
// be called before a connection is first read.
func Inline(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = inline(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

func inline(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }

// threads bounds how many closings may wait at the same time, of all Closers: each
// holds a thread, and a program that can have no more of them is aborted.
var threads = make(chan struct{}, 64)

// A Closer closes what came from one party, one descriptor at a time: whatever that
// party has made of them, they hold one thread. The zero value is ready. Safe for
// concurrent use.
type Closer struct {
	turn    sync.Mutex
	waiting atomic.Int32 // calls of Close
}

// Busy reports whether descriptors that may wait are being closed, or are still to
// be: the party that has sent them holds room in the table of descriptors.
func (c *Closer) Busy() bool { return c.waiting.Load() > 0 }

// Close closes descriptors; negative ones are none. It returns when they are closed,
// so that it may wait for whoever made them, but it holds nobody else up. Those of
// processes are closed at once, and sockets before the rest.
func (c *Closer) Close(fds ...int) {
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
	if len(sockets)+len(others) == 0 {
		return
	}
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	c.alone(func() {
		for _, fd := range append(sockets, others...) {
			interrupted(func() { _ = unix.Close(fd) })
		}
	})
}

// HangUp closes a Unix stream connection, as Close does where descriptors may wait
// in it unread: closing it closes them. No other goroutine may use it any more.
func (c *Closer) HangUp(conn *net.UnixConn) {
	if drained(conn) {
		_ = conn.Close()
		return
	}
	c.alone(func() { interrupted(func() { _ = conn.Close() }) })
}

// alone runs f when it is this Closer's turn and a thread may wait.
func (c *Closer) alone(f func()) {
	c.turn.Lock()
	defer c.turn.Unlock()
	threads <- struct{}{}
	defer func() { <-threads }()
	f()
}

// drained ends a connection for its other end, and reports whether nothing that it
// has sent is unread.
func drained(conn *net.UnixConn) (empty bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true // it is closed
	}
	_ = raw.Control(func(fd uintptr) {
		if unix.Shutdown(int(fd), unix.SHUT_RDWR) != nil || inline(int(fd)) != nil {
			return
		}
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		empty = n == 0 && err == nil
	})
	return empty
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

// patience is how long Close and HangUp wait.
const patience = 100 * time.Millisecond

// Close is Closer.Close for one who has better things to do than wait: what is not
// closed soon is closed later.
func Close(fds ...int) { soon(func() { new(Closer).Close(fds...) }) }

// HangUp is Closer.HangUp, likewise.
func HangUp(conn *net.UnixConn) { soon(func() { new(Closer).HangUp(conn) }) }

// CloseListener closes a listener likewise: descriptors may wait in connections that
// nobody has accepted.
func CloseListener(l *net.UnixListener) {
	soon(func() { new(Closer).alone(func() { interrupted(func() { _ = l.Close() }) }) })
}

func soon(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
	}
}
