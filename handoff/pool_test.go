package handoff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// run runs a pool until the test ends, or end is called.
func run(t *testing.T, p *Pool) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	end = func() {
		cancel()
		<-done
	}
	t.Cleanup(end)
	return end
}

// workers makes a pool's Start, and remembers what it started.
type workers struct {
	h    *house
	role string

	mu  sync.Mutex
	all []*worker
}

func (w *workers) start(context.Context) (*net.UnixConn, error) {
	wk := w.h.spawn(w.role, "")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, wk)
	return wk.conn, nil
}

// signal sends a signal to all workers and waits until it has struck.
func (w *workers) signal(s syscall.Signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, wk := range w.all {
		if s == 0 || wk.cmd.Process.Signal(s) != nil {
			continue // it is gone
		}
		stat := fmt.Sprintf("/proc/%d/stat", wk.cmd.Process.Pid)
		for limit := time.Now().Add(ample); !halted(stat); time.Sleep(time.Millisecond) {
			require.True(w.h.t, time.Now().Before(limit), "worker runs on")
		}
	}
}

// idle waits until n workers of a pool are ready: one that is stopped before it
// says so could as well be busy.
func idle(t *testing.T, p *Pool, n int) {
	var all []*applicant
	for range n {
		select {
		case a := <-p.applicants():
			all = append(all, a)
		case <-time.After(ample):
			t.Fatal("no worker is ready")
		}
	}
	for _, a := range all { // again on offer
		go func() {
			select {
			case p.applicants() <- a:
			case <-t.Context().Done():
			}
		}()
	}
}

// halted reports whether a process has stopped or ended.
func halted(stat string) bool {
	b, err := os.ReadFile(stat)
	if err != nil {
		return true
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return strings.Contains("TtZX", fields[0])
}

func (w *workers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all)
}

// TestPool serves many clients by few workers, which each have time for one.
func TestPool(t *testing.T) {
	h := newHouse(t)
	w := &workers{h: h, role: "serve"}
	p := &Pool{Workers: 2, Start: w.start}
	run(t, p)
	var all sync.WaitGroup
	for range 8 {
		s := h.session(h.p)
		all.Go(func() {
			if err := p.Send(within(t, ample), s.sc, s.conn, nil); err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(s.ask("one"), s.ask("two")); err != nil {
				t.Error(err)
			}
			_ = s.client.Close() // the worker is free
		})
	}
	all.Wait()
	require.LessOrEqual(t, w.count(), 2)
}

// TestPoolBusy: Send waits for a free worker, and not longer than it may.
func TestPoolBusy(t *testing.T) {
	h := newHouse(t)
	w := &workers{h: h, role: "serve"}
	p := &Pool{Start: w.start}
	run(t, p)
	first, second := h.session(h.p), h.session(h.p)
	require.NoError(t, p.Send(within(t, ample), first.sc, first.conn, nil))
	err := p.Send(within(t, 50*time.Millisecond), second.sc, second.conn, nil)
	second.returned(err)
	require.ErrorIs(t, err, ErrBusy)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	sent := make(chan error)
	go func() { sent <- p.Send(within(t, ample), second.sc, second.conn, nil) }()
	require.NoError(t, first.ask("mine"))
	_ = first.client.Close()
	require.NoError(t, <-sent)
	require.NoError(t, second.ask("mine now"))
	require.ErrorIs(t, p.Send(within(t, ample), second.sc, new(net.IPConn), nil), ErrConn)
}

// TestPoolReplaces: of the workers one after the other is killed while idle, then
// stopped. Nobody notices but Lost.
func TestPoolReplaces(t *testing.T) {
	h := newHouse(t)
	w := &workers{h: h, role: "many"}
	var lost atomic.Int32
	p := &Pool{Workers: 2, Start: w.start, Patience: 300 * time.Millisecond, Lost: func(c *net.UnixConn, err error) {
		if c == nil || err == nil {
			t.Error("Lost needs the worker and the reason")
		}
		lost.Add(1)
	}}
	run(t, p)
	for i, signal := range []syscall.Signal{0, syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGKILL} {
		idle(t, p, 2)
		w.signal(signal)
		s := h.session(h.p)
		require.NoError(t, p.Send(within(t, ample), s.sc, s.conn, nil), "round %d", i)
		require.NoError(t, s.ask("well?"))
		require.GreaterOrEqual(t, int(lost.Load()), i)
	}
}

// TestPoolGivesUp: no worker can import; each is asked, and stays.
func TestPoolGivesUp(t *testing.T) {
	h := newHouse(t)
	w := &workers{h: newHouse(t), role: "many"}
	p := &Pool{Workers: 2, Start: w.start}
	run(t, p)
	s := h.session(h.p)
	err := p.Send(within(t, ample), s.sc, s.conn, nil)
	s.returned(err)
	require.ErrorIs(t, err, ErrRefused)
	require.LessOrEqual(t, w.count(), 2)
}

// TestPoolStarts: a worker that cannot be started is tried again, not at once.
func TestPoolStarts(t *testing.T) {
	h := newHouse(t)
	w := &workers{h: h, role: "many"}
	errNot := errors.New("not yet")
	var failures, reported atomic.Int32
	p := &Pool{Start: func(ctx context.Context) (*net.UnixConn, error) {
		if failures.Add(1) <= 3 {
			return nil, errNot
		}
		return w.start(ctx)
	}, Lost: func(c *net.UnixConn, err error) {
		if c == nil && errors.Is(err, errNot) {
			reported.Add(1)
		}
	}}
	begin := time.Now()
	run(t, p)
	s := h.session(h.p)
	require.NoError(t, p.Send(within(t, ample), s.sc, s.conn, nil))
	require.GreaterOrEqual(t, time.Since(begin), 7*firstPause)
	require.EqualValues(t, 3, reported.Load())
}

// TestPoolEnds: Run leaves no goroutine and no descriptor, whatever a worker is
// doing; and a pool that does not run has no worker.
func TestPoolEnds(t *testing.T) {
	h := newHouse(t)
	s := h.session(h.p)
	goroutines, fds := runtime.NumGoroutine(), descriptors(t)
	p := &Pool{Workers: 3, Start: func(context.Context) (*net.UnixConn, error) {
		a, b := unixPair(t, unix.SOCK_STREAM)
		go func() {
			for {
				sc, conn, err := Receive(context.Background(), b, h.p)
				if err != nil {
					return
				}
				serve(sc, conn)
			}
		}()
		return a, nil
	}}
	end := run(t, p)
	require.NoError(t, p.Send(within(t, ample), s.sc, s.conn, nil))
	require.NoError(t, s.ask("there?"))
	end()
	require.NoError(t, s.ask("still there?"), "a worker serves what it has")
	_ = s.client.Close()
	for limit := time.Now().Add(ample); descriptors(t) > fds-2 || runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(limit), "%d of %d descriptors, %d of %d goroutines",
			descriptors(t), fds-2, runtime.NumGoroutine(), goroutines)
	}
	other := h.session(h.p)
	err := p.Send(within(t, 10*time.Millisecond), other.sc, other.conn, nil)
	other.returned(err)
	require.ErrorIs(t, err, ErrBusy)
}

// A doomed worker ends when a token is to be reserved for it.
type doomed struct {
	seal.Sealer
	kill func()
	once sync.Once
}

func (d *doomed) Reserve(q seal.Request) (r *seal.Reservation, err error) {
	d.once.Do(func() {
		d.kill()
		err = fmt.Errorf("%w: no such process", seal.ErrRequest) // as the agent says it
	})
	if err != nil {
		return nil, err
	}
	return d.Sealer.Reserve(q)
}

// TestPoolWorkerEndsBeforeReserve: a worker that ends behind its READY, so that
// no token can be made for it, is followed by another.
func TestPoolWorkerEndsBeforeReserve(t *testing.T) {
	h := newHouse(t)
	w := &workers{h: h, role: "serve"}
	sealer := &doomed{Sealer: h.host, kill: func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		require.NoError(t, w.all[0].cmd.Process.Kill())
		_, err := w.all[0].cmd.Process.Wait()
		require.NoError(t, err)
	}}
	p := &Pool{Workers: 1, Start: w.start}
	run(t, p)
	s := h.session(secctx.Wrap(h.mech, sealer))
	require.NoError(t, p.Send(within(t, ample), s.sc, s.conn, nil))
	require.NoError(t, s.ask("there?"))
	require.Len(t, w.all, 2)
	_ = s.client.Close()
}

// panicking is a sealer that panics at its first use.
type panicking struct {
	*seal.Host
	once sync.Once
}

func (p *panicking) Reserve(r seal.Request) (*seal.Reservation, error) {
	p.once.Do(func() { panic("on purpose") })
	return p.Host.Reserve(r)
}

// TestPoolPanic: a caller recovers from a panic in its Send, and the worker's place
// is filled again.
func TestPoolPanic(t *testing.T) {
	h := newHouse(t)
	w := &workers{h: h, role: "many"}
	p := &Pool{Start: w.start}
	end := run(t, p)
	s := h.session((&secctx.Config{Sealer: &panicking{Host: h.host}}).Wrap(h.mech))
	require.Panics(t, func() { _ = p.Send(within(t, ample), s.sc, s.conn, nil) })
	next := h.session(h.p)
	require.NoError(t, p.Send(within(t, ample), next.sc, next.conn, nil))
	require.NoError(t, next.ask("well?"))
	end()
}
