package handoff

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	tokens "github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// A fate is what befalls a worker in one round.
type fate struct {
	role string        // "kill" or "stop": by itself, at a step; "serve": from outside, after a while
	step string        // empty: from outside
	wait time.Duration // from the Send on
	sign syscall.Signal
}

func (f fate) String() string {
	if f.step == "" {
		return fmt.Sprintf("%v at random", f.sign)
	}
	return f.role + " at " + names[f.step]
}

var names = map[string]string{
	started: "start", hasToken: "token", hasClaim: "claim", hasConn: "connection", failed: "refused import",
}

// A verdict is how a round ended, seen from both sides.
type verdict struct {
	err   error
	here  bool   // the acceptor can use its context
	steps string // what the worker reached, after it went on if it was stopped
	late  time.Duration
}

func (v verdict) outcome() string {
	switch {
	case v.err == nil:
		return "handed over"
	case errors.Is(v.err, ErrReturned):
		return "returned"
	case errors.Is(v.err, ErrClaimed):
		return "claimed"
	}
	return v.err.Error()
}

// owners counts the processes that have, or had, the use of the context.
func (v verdict) owners() int {
	n := 0
	if v.here {
		n++
	}
	for _, s := range v.steps {
		if string(s) == hasClaim {
			n++
		}
	}
	return n
}

// round hands one context to a worker of that fate. Send is cancelled when a
// worker that stops has done so; that one is gone is noticed without.
func (h *house) round(f fate, p gssapi.Provider) verdict {
	s := h.session(p)
	defer s.close()
	w := h.spawn(f.role, f.step, func(cmd *exec.Cmd) { cmd.Stderr = nil })
	defer w.end()
	var v verdict
	if f.step != started {
		v.steps = w.until(started) // a process takes its time to start
	}
	ctx, cancel := context.WithTimeout(context.Background(), ample)
	defer cancel()
	var cancelled time.Time
	var befalls sync.WaitGroup
	befalls.Go(func() {
		if f.role == "serve" {
			time.Sleep(f.wait)
			_ = w.cmd.Process.Signal(f.sign)
		}
		switch {
		case f.role == "stop":
			v.steps += w.until(f.step)
		case f.sign == syscall.SIGSTOP:
			time.Sleep(10 * time.Millisecond)
		default:
			return
		}
		if f.step == hasConn {
			return // Send has its answer
		}
		cancelled = time.Now()
		cancel()
	})
	v.err = Send(ctx, w.conn, s.sc, s.conn, nil)
	befalls.Wait()
	if !cancelled.IsZero() {
		v.late = time.Since(cancelled)
	}
	v.here = s.works() == nil
	switch {
	case v.here:
		s.open()
	case v.err != nil:
		s.hungUp()
	}
	_ = s.client.Close() // a worker that has the connection ends serving it
	_ = w.conn.Close()   // and has no more to wait for
	if f.role == "stop" || f.sign == syscall.SIGSTOP {
		v.steps += w.goOn()
	} else {
		v.steps += w.rest()
	}
	return v
}

// goOn lets a worker run on until it ends by itself, and returns its steps. It
// may be about to stop, so it is told until it has.
func (w *worker) goOn() string {
	done := make(chan struct{})
	go func() {
		for {
			_ = w.cmd.Process.Signal(syscall.SIGCONT)
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	defer close(done)
	return w.rest()
}

// TestWorkersDieAndStop kills and stops workers at each step, and at moments of
// their own, and looks who has the context then: never two.
func TestWorkersDieAndStop(t *testing.T) {
	h := newHouse(t)
	rounds, budget, each := 1000, 50*time.Second, 20
	if testing.Short() || raceEnabled {
		rounds, budget, each = 60, 20*time.Second, 2
	}
	fates := []fate{}
	for _, role := range []string{"kill", "stop"} {
		for _, step := range []string{started, hasToken, hasClaim, hasConn} {
			fates = append(fates, fate{role: role, step: step})
		}
	}
	for _, sign := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		fates = append(fates, fate{role: "serve", sign: sign}, fate{role: "serve", sign: sign})
	}
	_, _ = h.round(fates[0], h.p), h.round(fates[4], h.p) // what opens a descriptor once, has
	before := descriptors(t)
	histogram := map[string]int{}
	end := time.Now().Add(budget)
	done := 0
	for ; done < rounds && (time.Now().Before(end) || done < each*len(fates)); done++ {
		f := fates[done%len(fates)]
		f.wait = time.Duration(rand.IntN(2000)) * time.Microsecond
		v := h.round(f, h.p)
		histogram[fmt.Sprintf("%-22s %s", f, v.outcome())]++
		require.LessOrEqual(t, v.owners(), 1, "%v: %+v", f, v)
		require.Less(t, v.late, slack, "%v: %+v", f, v)
		require.Equal(t, v.here, errors.Is(v.err, ErrReturned), "%v: %+v", f, v)
		f.check(t, v)
	}
	t.Logf("%d rounds", done)
	// A goroutine that has just signalled a worker may hold its pidfd still.
	require.Eventually(t, func() bool { return descriptors(t) <= before }, slack, time.Millisecond, "a descriptor was left open")
	for _, line := range sorted(histogram) {
		t.Log(line)
	}
	require.GreaterOrEqual(t, len(histogram), 8, "every step has its line")
}

// check holds the rounds whose end is certain to it.
func (f fate) check(t *testing.T, v verdict) {
	switch f.step {
	case started:
		require.ErrorIs(t, v.err, ErrReturned, "%v", f)
	case hasToken:
		require.ErrorIs(t, v.err, ErrReturned, "%v", f)
		if f.role == "stop" {
			require.Contains(t, v.steps, failed, "a worker that goes on too late gets nothing")
		}
	case hasClaim:
		require.ErrorIs(t, v.err, ErrClaimed, "%v", f)
	case hasConn:
		require.NoError(t, v.err, "%v", f)
	}
}

func sorted(histogram map[string]int) []string {
	var lines []string
	for name, n := range histogram {
		lines = append(lines, fmt.Sprintf("%-50s %4d", name, n))
	}
	slices.Sort(lines)
	return lines
}

// TestTwoOwners is the control: with a sealer that gives a token back whether or
// not it was claimed, the test above finds a second owner.
func TestTwoOwners(t *testing.T) {
	h := newHouse(t)
	pool, err := memsafe.NewPool(0)
	require.NoError(t, err)
	defer pool.Close() //nolint:errcheck // of the test
	ring, err := keyring.Open(h.dir, nil)
	require.NoError(t, err)
	defer ring.Close() //nolint:errcheck // of the test
	generous := &generous{Host: h.host, ring: ring, pool: pool}
	format := h.mech.PlainFormat()
	v := h.round(fate{role: "stop", step: hasClaim}, (&secctx.Config{Sealer: generous, Format: format}).Wrap(h.mech))
	require.ErrorIs(t, v.err, ErrReturned)
	require.Equal(t, 2, v.owners(), "%+v", v)
}

// generous is a sealer that takes back without a claim.
type generous struct {
	*seal.Host
	ring *keyring.Ring // over the host's directory
	pool *memsafe.Pool
}

func (g *generous) TakeBack(b []byte, _ ...string) (*memsafe.Secret, error) {
	t, err := tokens.Parse(b)
	if err != nil {
		return nil, seal.ErrDefective
	}
	e, err := g.ring.Epoch(t.Epoch)
	if err != nil {
		return nil, err
	}
	defer e.Release()
	plain, err := g.pool.Alloc(t.BodySize())
	if err != nil {
		return nil, err
	}
	err = e.Derive(tokens.EncLabel, t.Bound, func([]byte) error { return nil }, func(key []byte) error {
		n, err := t.Open(plain.Bytes(), key)
		plain.Truncate(n)
		return err
	})
	return plain, err
}

// TestCancelled: cancelling Send ends it, whatever its worker does.
func TestCancelled(t *testing.T) {
	h := newHouse(t)
	s := h.session(h.p)
	w := h.spawn("stop", hasToken)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for range 2 {
			_, _ = w.steps.ReadByte() // it has started; it has the token
		}
		cancel()
	}()
	err := Send(ctx, w.conn, s.sc, s.conn, nil)
	s.returned(err)
	require.ErrorIs(t, err, context.Canceled)
}
