package handoff

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/foreign"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// A Sender hands contexts to workers. The zero value is good. It holds nothing
// and is safe for concurrent use, for different workers.
type Sender struct {
	// Audience says for whom the token for a worker shall be, or refuses the
	// worker with an error: it can look at its user, or name a service of the
	// agent's policy. Nil: that process alone, of whatever user. Which other
	// users a token may be for is the sealer's decision in any case: the agent
	// has its policy, and a keyring's tokens open under its own user only.
	Audience func(Peer) (seal.Audience, error)

	// Verify has Send find out whether a worker that says it has imported the token
	// really has, by trying to take it back from the agent: a request more for each
	// context. If that succeeds it is ErrReturned, and if the agent does not tell,
	// ErrClaimed. Without it the worker's word is enough: one that lies harms the
	// clients that it is given, which it could do in other ways too, and it is no way
	// to a second owner. Where the keyring is this user's, the register is looked at
	// in any case.
	Verify bool
}

// Send is [Sender.Send] of the zero Sender: for the worker's process alone.
func Send(ctx context.Context, worker *net.UnixConn, sc gssapi.SecContext, conn net.Conn, read []byte) error {
	return new(Sender).Send(ctx, worker, sc, conn, read)
}

// Send waits until the process at the other end of worker calls Receive, exports
// the context to it, and on its word that it has claimed passes the connection,
// together with read: bytes that were read from it and not used, at most
// MaxRead. If conn came from Receive, bytes that it still holds go along behind
// these. No other goroutine may use sc or conn meanwhile. Both providers must be
// wrapped by package secctx.
//
// On success sc has no context any more, and conn is closed here. Errors:
//
//   - ErrReturned: sc and conn are as before. Try another worker. The cause is in
//     the chain: ErrBusy and ErrRefused leave worker good for another call; all
//     others have closed it: ctx's error, io.EOF or the like of a worker that is
//     gone, or the error of secctx.Export to it, ErrPeer, ErrProtocol
//   - ErrClaimed (GSS_S_NO_CONTEXT): the worker has the context, or nobody can
//     tell, and not the connection. conn and worker are closed
//   - secctx.ErrLost (GSS_S_NO_CONTEXT): nobody has the context; conn is closed
//   - of secctx.Export, if the context cannot be exported now or to that
//     audience, ErrConn, ErrTooLarge: sc, conn and worker are as before
//
// So sc and conn are still the caller's unless the error is ErrClaimed or
// secctx.ErrLost.
//
// ctx bounds the whole of it. Without a deadline in it, a worker that stops after
// it got the token is waited for until three quarters of the token's lifetime
// have passed. sc is still to be deleted.
func (s *Sender) Send(ctx context.Context, worker *net.UnixConn, sc gssapi.SecContext, conn net.Conn, read []byte) error {
	p, err := pack(conn, read)
	if err != nil {
		return err
	}
	w, err := s.await(ctx, worker, nil)
	if err != nil {
		return err
	}
	return w.give(ctx, time.Time{}, sc, p)
}

// A waiter is a worker that waits for a context.
type waiter struct {
	conn *net.UnixConn
	peer Peer
	to   seal.Audience
	ask  bool // the agent, whether it has claimed
	good bool // conn is between two exchanges: the next thing on it is READY
}

// await reads a worker's READY. before is the waiter that the worker was the
// last time, or nil: looking up a process costs something.
func (s *Sender) await(ctx context.Context, worker *net.UnixConn, before *waiter) (*waiter, error) {
	defer watch(ctx, worker, time.Time{})()
	w := &waiter{conn: worker, ask: s.Verify}
	if before == nil { // once for a connection
		err := foreign.Inline(worker)
		if err == nil {
			err = setOption(worker, unix.SO_PASSCRED)
		}
		if err != nil {
			foreign.HangUp(worker)
			return nil, returned(err)
		}
	}
	idle, err := w.hello()
	switch {
	case err == nil && s.Audience == nil && before != nil && before.peer == w.peer:
		w.to = before.to
		return w, nil
	case err == nil:
		err = s.address(w)
	case idle && errors.Is(err, os.ErrDeadlineExceeded):
		return nil, returned(fmt.Errorf("%w: %w", ErrBusy, because(ctx, err)))
	}
	if err != nil {
		foreign.HangUp(worker)
		return nil, returned(because(ctx, err))
	}
	return w, nil
}

// hello reads READY; idle means that nothing had come.
func (w *waiter) hello() (idle bool, err error) {
	k, _, n, err := w.answer()
	if err == nil && k != ready {
		err = fmt.Errorf("%w: %v for READY", ErrProtocol, k)
	}
	return n == 0, err
}

// address sets for whom the token will be.
func (s *Sender) address(w *waiter) (err error) {
	if s.Audience != nil {
		w.to, err = s.Audience(w.peer)
	} else {
		w.to, err = seal.Process(w.peer.PID)
	}
	if err != nil {
		return fmt.Errorf("%w: %v: %w", ErrPeer, w.peer, err)
	}
	return nil
}

// answer reads a frame of the worker and no byte more, and holds it to the
// process that sent the first. n is how many bytes came, also with an error.
func (w *waiter) answer() (k kind, reason byte, n int, err error) {
	var b [headerSize + 1]byte
	if n, err = w.fill(b[:headerSize]); err != nil {
		return 0, 0, n, err
	}
	k, size, err := parseHeader(b[:headerSize])
	switch {
	case err != nil:
	case k == token || k == connection || k == withdrawn:
		err = fmt.Errorf("%w: %v from a worker", ErrProtocol, k)
	case size > 0:
		_, err = w.fill(b[headerSize : headerSize+size])
	}
	return k, b[headerSize], n, err
}

// fill reads len(b) bytes that the one worker sent.
func (w *waiter) fill(b []byte) (n int, err error) {
	for n < len(b) {
		m, ctl, err := receive(w.conn, b[n:])
		if err != nil {
			return n, err
		}
		n += m
		if ctl.fd >= 0 {
			ctl.close()
			return n, fmt.Errorf("%w: a descriptor from a worker", ErrProtocol)
		}
		if w.peer == (Peer{}) {
			w.peer = ctl.peer
		}
		switch {
		case ctl.peer.PID <= 0:
			return n, fmt.Errorf("%w: the kernel does not say which process sent", ErrPeer)
		case ctl.peer != w.peer:
			return n, fmt.Errorf("%w: %v speaks for %v", ErrPeer, ctl.peer, w.peer)
		}
	}
	return n, nil
}

// give exports the context to the worker and passes the parcel, or takes the
// context back: at limit at the latest, unless that is zero. Unless w.good, it
// has closed the worker's connection.
func (w *waiter) give(ctx context.Context, limit time.Time, sc gssapi.SecContext, p *parcel) error {
	defer func() {
		if !w.good {
			foreign.HangUp(w.conn)
		}
	}()
	if ctx.Err() != nil { // a context that stays here keeps what an export would lose
		w.withdraw()
		return returned(fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx)))
	}
	start := time.Now()
	tok, err := secctx.Export(sc, w.to)
	if err != nil {
		w.withdraw()
		switch {
		case errors.Is(err, secctx.ErrLost):
			p.close()
		case !w.good: // a worker that has ended is nobody that a token can be for
			return returned(err)
		}
		return err
	}
	if last := start.Add(patience(tok)); limit.IsZero() || last.Before(limit) {
		limit = last
	}
	defer watch(ctx, w.conn, limit)()
	has, err := w.offer(tok)
	if !has || w.doubtful(sc) {
		// Whatever the worker says, and whether it says anything: the claim decides.
		back := takeBack(ctx, limit, sc, tok)
		if !has || !errors.Is(back, seal.ErrSpent) {
			return w.over(has, because(ctx, err), back, p)
		}
	}
	defer p.close()
	if err := p.pass(w.conn); err != nil {
		return claimed(because(ctx, err))
	}
	w.good = true
	return nil
}

// doubtful reports whether a worker's word that it has the context is not enough.
func (w *waiter) doubtful(sc gssapi.SecContext) bool {
	out, known := secctx.Outstanding(sc)
	return out || !known && w.ask
}

// An agent may be unable to take a token back just now, because a quota is used up,
// say: it is asked again for a while.
const (
	takeBackFor   = time.Second
	takeBackPause = 5 * time.Millisecond
)

func takeBack(ctx context.Context, limit time.Time, sc gssapi.SecContext, tok []byte) error {
	if last := time.Now().Add(takeBackFor); last.Before(limit) {
		limit = last
	}
	for pause := takeBackPause; ; pause *= 2 {
		err := secctx.TakeBack(sc, tok)
		if !errors.Is(err, seal.ErrUnavailable) || errors.Is(err, secctx.ErrLost) || time.Until(limit) < pause {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// over is the error of a handoff that has come to nothing: has is what the worker
// says and err why it says no more, back how the take-back went.
func (w *waiter) over(has bool, err, back error, p *parcel) error {
	switch {
	case back == nil && has:
		return returned(fmt.Errorf("%w: IMPORTED without a claim", ErrProtocol))
	case back == nil:
		w.good = errors.Is(err, ErrRefused)
		return returned(err)
	}
	p.close()
	if errors.Is(back, secctx.ErrLost) {
		return back
	}
	back = fmt.Errorf("taking it back: %w", textOf(back))
	if err != nil {
		back = fmt.Errorf("%w; %w", err, back)
	}
	return claimed(back)
}

// textOf keeps the text and nothing to match: that a take-back found the token
// spent is what ErrClaimed says.
func textOf(err error) error { return errors.New(err.Error()) }

// patience is how long a token can wait for its claim, and still be taken back.
func patience(tok []byte) time.Duration {
	h, err := seal.Inspect(tok)
	if err != nil { // not from our sealer: then TakeBack has no chance either
		return 0
	}
	return (h.Expires - h.Issued) * 3 / 4
}

// offer sends the token and returns whether the worker says it has imported it,
// and otherwise why not.
func (w *waiter) offer(tok []byte) (bool, error) {
	if err := send(w.conn, frame(token, tok), nil); err != nil {
		return false, err
	}
	k, reason, _, err := w.answer()
	switch {
	case err != nil:
		return false, err
	case k == refused:
		return false, refusal(reason)
	case k != imported:
		return false, fmt.Errorf("%w: %v for TOKEN", ErrProtocol, k)
	}
	return true, nil
}

// withdrawLimit bounds the writing of eight bytes, which waits for nothing
// unless the worker is not one.
const withdrawLimit = 100 * time.Millisecond

// withdraw tells a worker that nothing comes, so that it is ready again.
func (w *waiter) withdraw() {
	defer watch(context.Background(), w.conn, time.Now().Add(withdrawLimit))()
	w.good = send(w.conn, frame(withdrawn), nil) == nil
}
