package handoff

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/secctx"
)

// shortWorker starts a worker and returns a function that sets how many descriptors it can
// open.
func shortWorker(h *house) (*worker, func(n byte)) {
	commands, in, err := os.Pipe()
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = in.Close() })
	defer commands.Close()
	w := h.spawn("short", "", func(cmd *exec.Cmd) { cmd.ExtraFiles = append(cmd.ExtraFiles, commands) })
	require.Contains(h.t, w.until(started), started)
	return w, func(n byte) {
		h.t.Helper()
		_, err := in.Write([]byte{n})
		require.NoError(h.t, err)
		require.Contains(h.t, w.until(limited), limited)
	}
}

// TestWorkerAtItsLimit: a worker process that has no descriptor for the connection does not
// claim. The context works here, errors on both sides name the limit, and the worker is
// good again when it has descriptors.
func TestWorkerAtItsLimit(t *testing.T) {
	h := newHouse(t)
	w, limit := shortWorker(h)
	serves := func() {
		t.Helper()
		s := h.session(h.p)
		require.NoError(t, Send(within(t, ample), w.conn, s.sc, s.conn, nil))
		require.NoError(t, s.ask("there?"))
		_ = s.client.Close()
	}
	serves()
	waits := func() { // until it has said READY
		t.Helper()
		raw, err := w.conn.SyscallConn()
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			n := 0
			_ = raw.Control(func(fd uintptr) {
				n, _, _ = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			})
			return n > 0
		}, ample, time.Millisecond)
	}
	for _, free := range []byte{0, 1} {
		waits()
		before := descriptors(t)
		limit(free) // behind its READY
		s := h.session(h.p)
		err := Send(within(t, ample), w.conn, s.sc, s.conn, nil)
		s.returned(err)
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, "RLIMIT_NOFILE")
		require.Contains(t, w.until(unready), unable, "the worker's error")

		err = Send(within(t, 50*time.Millisecond), w.conn, s.sc, s.conn, nil)
		s.returned(err) // it has not said READY
		require.ErrorIs(t, err, ErrBusy)
		s.close()
		require.Equal(t, before, descriptors(t))
		limit(unlimited)
		serves()
	}
	waits()
	limit(needed) // the control: that is enough
	serves()
}

// TestWorkerRacesForDescriptors: another goroutine of the worker takes a descriptor now and
// then, before READY and behind it. No context is lost.
func TestWorkerRacesForDescriptors(t *testing.T) {
	h := newHouse(t)
	h.local = true
	w := h.spawn("racing", "", func(cmd *exec.Cmd) { cmd.Stderr = nil })
	go io.Copy(io.Discard, w.pipe) //nolint:errcheck // its steps are of no interest
	handed, refusals := 0, 0
	for n := 0; n < 50 || handed == 0 || refusals == 0; n++ {
		require.Less(t, n, 10_000, "%d handed over, %d refused", handed, refusals)
		s := h.session(h.p)
		err := Send(within(t, ample), w.conn, s.sc, s.conn, nil)
		if err == nil {
			handed++
			require.NoError(t, s.ask("there?"))
		} else {
			refusals++
			s.returned(err)
			require.ErrorIs(t, err, ErrRefused)
		}
		s.close()
	}
	t.Logf("%d handed over, %d refused", handed, refusals)
}

// TestServeAtTheLimit: Serve looks for descriptors until it has them, the acceptor has gone,
// or its ctx ends.
func TestServeAtTheLimit(t *testing.T) {
	if !apart.Run(t, nil) { // it changes a limit of the process
		return
	}
	h := newHouse(t)
	h.local = true
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	lift := func() { require.NoError(t, leaveFree(unlimited, old)) }
	handled := 0
	serving := func(ctx context.Context, b *net.UnixConn) <-chan error {
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, b, h.p, func(gssapi.SecContext, net.Conn) { handled++ }) }()
		return done
	}

	a, b := unixPair(t, unix.SOCK_STREAM)
	s := h.session(h.p)
	require.NoError(t, leaveFree(1, old))
	ended := serving(context.Background(), b)
	err := Send(within(t, 100*time.Millisecond), a, s.sc, s.conn, nil)
	lift()
	s.returned(err)
	require.ErrorIs(t, err, ErrBusy)
	require.NoError(t, Send(within(t, ample), a, s.sc, s.conn, nil))
	require.NoError(t, leaveFree(0, old))
	require.NoError(t, a.Close())
	require.NoError(t, <-ended, "the acceptor has gone")
	require.Equal(t, 1, handled)
	lift()

	_, b = unixPair(t, unix.SOCK_STREAM)
	require.NoError(t, leaveFree(0, old))
	ctx, cancel := context.WithCancel(context.Background())
	ended = serving(ctx, b)
	time.Sleep(10 * time.Millisecond)
	cancel()
	err = <-ended
	lift()
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, syscall.EMFILE)
	_, err = b.Write([]byte{1})
	require.ErrorIs(t, err, net.ErrClosed)
}

// TestShortOfFiles: the system has no file left (ENFILE), before the worker says READY and
// behind it.
func TestShortOfFiles(t *testing.T) {
	for name, behind := range map[string]bool{"before": false, "behind": true} {
		t.Run(name, func(t *testing.T) {
			if !apart.Run(t, nil) { // for good
				return
			}
			h := newHouse(t)
			a, b := unixPair(t, unix.SOCK_STREAM)
			s := h.session(h.p)
			refuse := func() {
				apart.Refuse(t, apart.Call{Number: unix.SYS_FCNTL, Argument: 1, Value: unix.F_DUPFD_CLOEXEC}, unix.ENFILE)
			}
			if !behind {
				refuse()
			}
			before := descriptors(t)
			done := receiving(within(t, ample), b, h.p)
			if behind {
				n := 0
				raw, err := a.SyscallConn()
				require.NoError(t, err)
				require.NoError(t, raw.Read(func(fd uintptr) bool {
					n, _, _ = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
					return n > 0
				}))
				refuse()
				err = Send(within(t, ample), a, s.sc, s.conn, nil)
				s.returned(err)
				require.ErrorIs(t, err, ErrRefused)
				require.ErrorContains(t, err, "RLIMIT_NOFILE")
			}
			r := <-done
			require.ErrorIs(t, r.err, syscall.ENFILE)
			require.Equal(t, behind, errors.Is(r.err, ErrRefused))
			require.Equal(t, before, descriptors(t))
			_, err := b.Write([]byte{1})
			require.NoError(t, err, "the acceptor's connection is good")
		})
	}
}

// TestTooManyOnTheirWay: the kernel does not take the connection because this user has too
// many descriptors on their way (ETOOMANYREFS). The worker has seen nothing and stays.
func TestTooManyOnTheirWay(t *testing.T) {
	if !apart.Run(t, apart.PlainUser) { // root may have any number
		return
	}
	h := newHouse(t)
	h.local = true
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	a, b := unixPair(t, unix.SOCK_STREAM)
	s := h.session(h.p)
	full, other := unixPair(t, unix.SOCK_STREAM)
	done := receiving(within(t, ample), b, h.p)
	// The limit counts what is on its way, and what is open is left alone by it.
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: old.Max}))
	for err := error(nil); err == nil; {
		_, err = send(full, []byte{1}, unix.UnixRights(0, 0, 0, 0, 0, 0, 0, 0))
		if err != nil {
			require.ErrorIs(t, err, unix.ETOOMANYREFS)
		}
	}
	err := Send(within(t, ample), a, s.sc, s.conn, nil)
	require.NoError(t, leaveFree(unlimited, old))
	s.returned(err)
	require.ErrorIs(t, err, unix.ETOOMANYREFS)
	require.NoError(t, full.Close())
	require.NoError(t, other.Close())
	require.NoError(t, Send(within(t, ample), a, s.sc, s.conn, nil), "the worker is ready still")
	r := <-done
	require.NoError(t, r.err)
	require.NoError(t, r.conn.Close())
	_, _ = r.sc.Delete()
}

// TestNothingToHandOver: arguments that cannot work are an error at once, though no worker
// is ready and nothing bounds the wait for one.
func TestNothingToHandOver(t *testing.T) {
	h := newHouse(t)
	idle, _ := unixPair(t, unix.SOCK_STREAM)
	good, exported, deleted := h.session(h.p), h.session(h.p), h.session(h.p)
	_, err := exported.sc.Export()
	require.NoError(t, err)
	_, err = deleted.sc.Delete()
	require.NoError(t, err)
	half, err := h.p.AcceptSecContext(gssapi.WithAcceptorCredential(h.with))
	require.NoError(t, err)
	closed, _ := tcpPair(t)
	require.NoError(t, closed.Close())
	var none gssapi.SecContext
	for name, c := range map[string]struct {
		sc   gssapi.SecContext
		conn net.Conn
		read []byte
		want error
	}{
		"nil context":       {none, good.conn, nil, secctx.ErrNotWrapped},
		"unwrapped":         {good.initiator, good.conn, nil, secctx.ErrNotWrapped},
		"exported":          {exported.sc, good.conn, nil, gssapi.ErrNoContext},
		"deleted":           {deleted.sc, good.conn, nil, gssapi.ErrNoContext},
		"half-open":         {half, good.conn, nil, gssapi.ErrNoContext},
		"nil connection":    {good.sc, nil, nil, ErrConn},
		"nil TCP":           {good.sc, (*net.TCPConn)(nil), nil, ErrConn},
		"closed connection": {good.sc, closed, nil, ErrConn},
		"too much read":     {good.sc, good.conn, make([]byte, MaxRead+1), ErrTooLarge},
	} {
		for way, send := range map[string]func() error{
			"Send":   func() error { return Send(context.Background(), idle, c.sc, c.conn, c.read) },
			"Sender": func() error { return new(Sender).Send(context.Background(), idle, c.sc, c.conn, c.read) },
			"Pool":   func() error { return new(Pool).Send(context.Background(), c.sc, c.conn, c.read) },
		} {
			err := atOnce(t, send)
			require.ErrorIs(t, err, c.want, "%s: %s", way, name)
			require.NotErrorIs(t, err, ErrReturned, "%s: %s", way, name)
		}
	}
	datagram, _ := unixPair(t, unix.SOCK_DGRAM)
	gone, _ := unixPair(t, unix.SOCK_STREAM)
	require.NoError(t, gone.Close())
	for name, worker := range map[string]*net.UnixConn{"nil": nil, "closed": gone, "datagrams": datagram} {
		err := atOnce(t, func() error { return Send(context.Background(), worker, good.sc, good.conn, nil) })
		require.ErrorIs(t, err, ErrReturned, name)
		require.NotErrorIs(t, err, ErrBusy, name)
	}
	require.NoError(t, good.works())
	good.open()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Send(ctx, idle, good.sc, good.conn, nil) }()
	select {
	case <-done:
		t.Fatal("the control: nothing is wrong but that no worker is ready")
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	good.returned(<-done)
	_, _, err = Receive(context.Background(), idle, nil)
	require.Error(t, err)
	_, _, err = Receive(context.Background(), nil, h.p)
	require.Error(t, err)
}

// atOnce returns the error of a function that does not wait.
func atOnce(t *testing.T, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(ample):
		t.Fatal("it waits")
		return nil
	}
}

// settled waits until no more descriptors are open and goroutines run than before, and so
// many of each that are known.
func settled(t *testing.T, fds, goroutines int, known func() int) {
	t.Helper()
	for end := time.Now().Add(ample); descriptors(t) > fds+known() || runtime.NumGoroutine() > goroutines+known(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "%d of %d descriptors, %d of %d goroutines, %d of each known",
			descriptors(t), fds, runtime.NumGoroutine(), goroutines, known())
	}
}

// TestSettled is the control of the tests that count both.
func TestSettled(t *testing.T) {
	fds, goroutines := descriptors(t), runtime.NumGoroutine()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { <-done }()
	require.Greater(t, descriptors(t), fds)
	require.Greater(t, runtime.NumGoroutine(), goroutines)
	close(done)
	require.NoError(t, errors.Join(r.Close(), w.Close()))
	settled(t, fds, goroutines, func() int { return 0 })
	_, err = io.ReadAll(r)
	require.Error(t, err)
}
