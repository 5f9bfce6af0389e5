package unixsock

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/pidfd"
)

// threads bounds the closings of all Closers that wait at the same time. Each holds a
// thread, and Go aborts a program that can have no more threads.
var threads = make(chan struct{}, 64)

// A Closer closes the descriptors that came from one party, one at a time. Together they
// hold at most one thread, whatever that party made of them. The zero value is ready. Safe
// for concurrent use.
type Closer struct {
	// Patience is how long Close waits. Descriptors that are not closed by then are
	// closed later. Zero: until all are closed.
	Patience time.Duration

	// All, if not nil, counts the descriptors of several Closers together.
	All *atomic.Int64

	taking sync.Mutex // held while a message is received, until its descriptors are counted
	turn   sync.Mutex
	held   atomic.Int64 // descriptors whose close may wait for the party
}

// Busy reports whether the Closer holds descriptors that are not closed yet and whose close
// may wait. They hold room in the process's table of descriptors.
func (c *Closer) Busy() bool { return c.held.Load() > 0 }

// Held returns the number of descriptors that are not closed yet and whose close may wait.
func (c *Closer) Held() int { return int(c.held.Load()) }

func (c *Closer) hold(n int) {
	c.held.Add(int64(n))
	if c.All != nil {
		c.All.Add(int64(n))
	}
}

// Close closes descriptors and ignores negative numbers. It waits until the descriptors are
// closed, for at most Patience. The party that made them can make that slow. Descriptors of
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

// HangUp closes a Unix stream connection and the descriptors that lie in it unread. It waits
// until they are closed, for at most Patience. The returned channel is closed when the
// connection is. No other goroutine may use the connection any more.
func (c *Closer) HangUp(conn *net.UnixConn) (closed <-chan struct{}) {
	if Ended(conn) {
		_ = conn.Close()
		return nothing
	}
	closed = c.start(1, func() { interrupted(func() { _ = conn.Close() }) })
	c.await(closed)
	return closed
}

// nothing is a channel that is closed: there is nothing to wait for.
var nothing = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// start runs f, which closes n descriptors, in a goroutine. f begins when this Closer's
// earlier closings have ended and a thread may wait.
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

// Ended shuts a Unix stream connection down and reports whether closing it is harmless: no
// descriptor lies in it unread, so that the close waits for nothing. It reads and drops the
// bytes of a connection without descriptors.
func Ended(conn *net.UnixConn) (harmless bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true // there is none
	}
	if raw.Control(func(fd uintptr) {
		harmless = setOn(int(fd), unix.SO_PASSCRED) == nil && EndedFD(fd)
	}) != nil {
		return true // it is closed
	}
	return harmless
}

// lookers look at what lies in a connection.
var lookers = sync.Pool{New: func() any {
	return &Receiver{buf: make([]byte, 4096), oob: make([]byte, unix.CmsgSpace(unix.SizeofUcred))}
}}

// EndedFD is Ended for the descriptor of a connection. Prepare must have been called on the
// connection or on its listener.
func EndedFD(fd uintptr) (harmless bool) {
	if unix.Shutdown(int(fd), unix.SHUT_RDWR) != nil {
		return false
	}
	r := lookers.Get().(*Receiver)
	defer lookers.Put(r)
	defer clear(r.buf) // of a request that holds a secret
	defer r.msg.Forget()
	// Most connections have few bytes, which one look shows. It does not show a byte out of
	// band, which SIOCINQ counts.
	r.one[0] = r.buf
	if n, err := r.msg.lookAt(fd, r.one[:], r.oob); err == nil && n < len(r.buf) {
		if all, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ); err == nil && all == n {
			return true
		}
	}
	if setOn(int(fd), unix.SO_OOBINLINE) != nil {
		return false
	}
	for {
		r.one[0] = r.buf
		n, err := r.readPlain(fd)
		if err != nil || n == 0 {
			return err == nil || errors.Is(err, unix.ECONNRESET)
		}
	}
}

// isSocket asks the kernel and runs no code of the party that made the descriptor.
func isSocket(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil
}

// The first signal comes soon, because a socket that lingers does not stop by itself. Later
// ones come seldom: a close that has not heeded a few signals heeds none.
const (
	firstSignal = 200 * time.Microsecond
	lastSignal  = time.Second
)

// interrupted runs f, which is one system call, on a thread that gets signals until f has
// returned. The signal is SIGURG, by which Go's runtime preempts its own threads: no other
// code takes notice of it.
func interrupted(f func()) {
	thread, done := make(chan int, 1), make(chan struct{})
	var mu sync.Mutex // held while a signal is sent, so that none reaches the thread after f
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

// Close is Closer.Close with a Closer of its own that waits for 100 ms at most.
func Close(fds ...int) { (&Closer{Patience: patience}).Close(fds...) }

// HangUp is Closer.HangUp with a Closer of its own that waits for 100 ms at most.
func HangUp(conn *net.UnixConn) (closed <-chan struct{}) {
	return (&Closer{Patience: patience}).HangUp(conn)
}

// CloseListener closes a listener with the connections that were not accepted and the
// descriptors that lie in them. It waits for 100 ms at most.
func CloseListener(l *net.UnixListener) {
	c := &Closer{Patience: patience}
	c.await(c.start(1, func() { interrupted(func() { _ = l.Close() }) }))
}
