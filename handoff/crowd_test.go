package handoff

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/unixsock"
	"github.com/sealctx/sealctx/internal/unixsock/linger"
)

// withMany adds as many copies of a descriptor as a message takes, with the sender's
// credentials.
func withMany(fd int) []byte {
	fds := make([]int, unixsock.MaxDescriptors)
	for i := range fds {
		fds[i] = fd
	}
	me := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())})
	return append(me, unix.UnixRights(fds...)...)
}

// A rogue is a bad worker: do is what it does with its connection. If it may claim, a
// context that is handed to it is lost.
type rogue struct {
	name   string
	claims bool
	do     func(c *net.UnixConn)
}

// rogues are bad workers. made makes descriptors that are bad to close.
func rogues(h *house, made map[string]func() int) []rogue {
	begin := func(c *net.UnixConn) []byte {
		_ = say(c, ready)
		tok, _ := getToken(c)
		return tok
	}
	all := []rogue{
		{"ends", false, func(*net.UnixConn) {}},
		{"half a READY", false, func(c *net.UnixConn) { _, _ = c.Write(frame(ready)[:3]) }},
		{"garbage", false, func(c *net.UnixConn) { _, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }},
		{"ends behind READY", false, func(c *net.UnixConn) { _ = say(c, ready) }},
		{"ends with the token", false, func(c *net.UnixConn) { begin(c) }},
		{"refuses and babbles", false, func(c *net.UnixConn) {
			begin(c)
			_ = say(c, refused, noDescriptor)
			_, _ = c.Write([]byte("garbage."))
		}},
		{"claims and ends", true, func(c *net.UnixConn) {
			if sc, err := h.p.ImportSecContext(begin(c)); err == nil {
				_, _ = sc.Delete()
			}
		}},
	}
	for name, made := range made {
		all = append(all,
			rogue{"READY with " + name, false, func(c *net.UnixConn) {
				fd := made()
				_ = tell(c, frame(ready), withMany(fd))
				go unix.Close(fd) //nolint:errcheck // it may wait
			}},
			rogue{name + " for an answer", false, func(c *net.UnixConn) {
				begin(c)
				fd := made()
				_ = tell(c, frame(imported), withMany(fd))
				go unix.Close(fd) //nolint:errcheck // it may wait
			}},
			rogue{name + " behind READY", false, func(c *net.UnixConn) {
				_ = say(c, ready)
				fd := made()
				_ = tell(c, []byte{0}, withMany(fd))
				go unix.Close(fd) //nolint:errcheck // it may wait
			}})
	}
	return all
}

// slowToClose are descriptors that are bad to close; a plain user cannot make all.
func slowToClose(t *testing.T) map[string]func() int {
	made := map[string]func() int{
		"files": func() int {
			fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			require.NoError(t, err)
			return fd
		},
		"sockets": func() int { return linger.Socket(t) },
	}
	if os.Geteuid() == 0 { // else it is left out of this test; package unixsock's own is skipped
		made["unanswered"] = linger.Unanswered(t)
	}
	return made
}

// counted counts the calls of functions. What they make keeps a descriptor and a goroutine
// of the test's until the end of the test: the other end of a socket, a close that waits.
func counted(made map[string]func() int) (all map[string]func() int, n *atomic.Int64) {
	n, all = new(atomic.Int64), map[string]func() int{}
	for name, f := range made {
		all[name] = func() int { n.Add(1); return f() }
	}
	return all, n
}

// TestPoolOfGoodAndBad: among good workers are bad ones, one after the other in each place.
// No context is lost but those that a bad worker has claimed. What the bad ones send takes
// no room here, and in the end nothing is left of them.
func TestPoolOfGoodAndBad(t *testing.T) {
	h := newHouse(t)
	h.local = true
	made, slow := counted(slowToClose(t))
	h.warmUp()
	for _, r := range rogues(h, made) { // each by itself, before they are mixed
		t.Run(r.name, func(t *testing.T) { crowd(t, h, []rogue{r}, 5, slow) })
	}
	t.Run("all", func(t *testing.T) { crowd(t, h, rogues(h, made), 30, slow) })
}

// warmUp has everything opened that a handoff opens once in a process.
func (h *house) warmUp() {
	a, b := unixPair(h.t, unix.SOCK_STREAM)
	s := h.session(h.p)
	s.handedOver(new(Sender), a, b, h.p)
	s.close()
	_, _ = a.Close(), b.Close()
}

// crowd sends n contexts through a pool of two workers, of which those that Start makes are
// good and bad in turn.
func crowd(t *testing.T, h *house, bad []rogue, n int, slow *atomic.Int64) {
	slowBefore := slow.Load()
	fds, goroutines := descriptors(t), runtime.NumGoroutine()
	var starts, claims, most atomic.Int64
	ends := make(chan *net.UnixConn, 1000) // the workers' ends of their connections
	p := &Pool{Workers: 2, Start: func(context.Context) (*net.UnixConn, error) {
		most.Store(max(most.Load(), int64(descriptors(t)-fds)))
		a, b := socketPair(t)
		theirs := b.(*net.UnixConn)
		if i := starts.Add(1); i%2 == 0 { // a good one, for two contexts
			go func() {
				defer theirs.Close()
				for range 2 {
					sc, conn, err := Receive(context.Background(), theirs, h.p)
					if err != nil {
						return
					}
					serve(sc, conn)
				}
			}()
		} else {
			r := bad[int(i/2)%len(bad)]
			if r.claims {
				claims.Add(1)
			}
			go func() {
				r.do(theirs)
				ends <- theirs
			}()
			go func() { // it stays for a while, or for good
				time.Sleep(5 * time.Millisecond)
				_ = (<-ends).Close()
			}()
		}
		return a.(*net.UnixConn), nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	var running, sending sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	var lost atomic.Int64
	work := make(chan *session, n)
	for range n {
		work <- h.session(h.p)
	}
	close(work)
	for range 3 {
		sending.Go(func() {
			for s := range work {
				for {
					err := p.Send(within(t, ample), s.sc, s.conn, nil)
					switch {
					case err == nil:
						if err := s.ask("there?"); err != nil {
							t.Errorf("handed over, and not served: %v", err)
						}
					case errors.Is(err, ErrReturned):
						if err := s.works(); err != nil {
							t.Errorf("returned: %v", err)
						}
						continue // all of them were bad
					case errors.Is(err, ErrClaimed):
						lost.Add(1)
						s.hungUp()
					default:
						t.Error(err)
					}
					break
				}
				s.close()
			}
		})
	}
	sending.Wait()
	cancel()
	running.Wait()
	require.LessOrEqual(t, lost.Load(), claims.Load())
	// Three sessions at a time, two workers with both ends here, a few ends of bad ones; and
	// the sessions that wait are there from the start.
	require.LessOrEqual(t, int(most.Load()), 2*n+unixsock.MaxDescriptors/2, "what a worker sends takes room here")
	settled(t, fds, goroutines, func() int { return int(slow.Load() - slowBefore) })
}

// TestSlowToHangUp: a worker's place is not filled again before the connection of the last
// one is closed, and other places are none the worse for it.
func TestSlowToHangUp(t *testing.T) {
	file := linger.Unanswered(t)
	h := newHouse(t)
	h.local = true
	var bad atomic.Int64
	var first atomic.Bool
	p := &Pool{Workers: 2, Start: func(context.Context) (*net.UnixConn, error) {
		a, b := socketPair(t)
		theirs := b.(*net.UnixConn)
		if first.CompareAndSwap(false, true) {
			go func() {
				for {
					sc, conn, err := Receive(context.Background(), theirs, h.p)
					if err != nil {
						return
					}
					serve(sc, conn)
				}
			}()
			return a.(*net.UnixConn), nil
		}
		bad.Add(1)
		_ = tell(theirs, frame(ready), withMany(0)) // standard input
		_ = theirs.Close()
		return a.(*net.UnixConn), nil
	}}
	h.warmUp()
	for range 64 { // all threads that may wait do
		unixsock.Close(file())
	}
	before := descriptors(t)
	run(t, p)
	for range 20 {
		s := h.session(h.p)
		require.NoError(t, p.Send(within(t, ample), s.sc, s.conn, nil))
		require.NoError(t, s.ask("there?"))
		s.close()
		time.Sleep(5 * time.Millisecond)
	}
	require.EqualValues(t, 1, bad.Load(), "its place was filled before its connection was closed")
	// A connection of the bad worker and both ends of the good one's.
	require.Eventually(t, func() bool { return descriptors(t)-before <= 3 }, ample, time.Millisecond)
	// The control: without descriptors in it, a connection is closed at once all the same.
	a, b := unixPair(t, unix.SOCK_STREAM)
	_, err := b.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	require.NoError(t, err)
	s := h.session(h.p)
	s.returned(Send(within(t, ample), a, s.sc, s.conn, nil))
	_, err = b.Write([]byte{1})
	require.ErrorIs(t, err, unix.EPIPE)
}
