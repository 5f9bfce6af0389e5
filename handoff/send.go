package handoff

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/internal/unixsock"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// A Sender hands contexts to workers. The zero value is ready. A Sender has no state, and is
// safe for concurrent use for different workers.
type Sender struct {
	// Audience returns the audience of the token for a worker, or refuses the worker with
	// an error. It can look at the worker's user, or name a service of the agent's policy.
	// Nil: the worker's process alone, whatever its user. The sealer decides in any case
	// which users a token may be for: the agent has its policy, and a keyring's tokens open
	// under its own user only.
	Audience func(Peer) (seal.Party, error)

	// Verify has Send find out whether a worker that says it has imported the token
	// really has, by trying to take the token back from the agent. That is one request
	// more for each context. If the take-back succeeds Send returns ErrReturned, and if
	// the agent does not answer, ErrClaimed. Without Verify Send believes the worker. A
	// worker that lies harms the clients that it is given, which it could do in other
	// ways too, and gains no second owner. If the keyring is this user's, Send looks at
	// the register in any case.
	Verify bool
}

// Send is [Sender.Send] of the zero Sender: for the worker's process alone.
func Send(ctx context.Context, worker *net.UnixConn, sc gssapi.SecContext, conn net.Conn, read []byte) error {
	return new(Sender).Send(ctx, worker, sc, conn, read)
}

// Send waits until the process at the other end of worker calls Receive, and exports the
// context to it. With the token go the connection and read: bytes that were read from the
// connection and not used, at most MaxRead. If conn came from Receive, bytes that it still
// holds follow these. Send returns nil when the worker says that it has taken both the
// connection and the context. No other goroutine may use sc or conn meanwhile. Both
// providers must be wrapped by package secctx.
//
// On success sc has no context any more, and conn is closed here. Errors:
//
//   - ErrReturned: sc and conn are the caller's as before. A dishonest worker can have kept a
//     copy of conn, see the package's description. Try another worker. The chain has the
//     cause. ErrBusy and ErrRefused leave worker good for another call. All other causes
//     have closed it: ctx's error, context.DeadlineExceeded, ErrPeer, ErrProtocol, and the
//     errors of a worker that has ended, io.EOF for example
//   - ErrClaimed (GSS_S_NO_CONTEXT): the worker has claimed the context and did not say so
//     in time, or nobody can tell. conn and worker are closed, and the connection is shut
//     down for its peer
//   - secctx.ErrLost (GSS_S_NO_CONTEXT): no process has the context. conn is closed, and the
//     connection is shut down for its peer
//   - ErrConn, ErrTooLarge, secctx.ErrNotWrapped and other errors of secctx.Status: Send did
//     not wait for the worker and did nothing
//   - an error of secctx.Export, if the context cannot be exported to that audience: sc,
//     conn and worker are as before
//
// So sc and conn are still the caller's unless the error is ErrClaimed or secctx.ErrLost. In
// any case the caller still deletes sc.
//
// ctx bounds the whole handoff. If a worker that got the token does not answer, Send waits for
// three quarters of the token's lifetime, and for three quarters of the time until ctx's
// deadline. The rest of the time is for the take-back. If the agent cannot take the token back
// just now, Send asks again until the token expires or ctx ends.
func (s *Sender) Send(ctx context.Context, worker *net.UnixConn, sc gssapi.SecContext, conn net.Conn, read []byte) error {
	p, err := pack(sc, conn, read)
	if err != nil {
		return err
	}
	w, err := newWaiter(worker)
	if err != nil {
		if worker != nil {
			unixsock.HangUp(worker)
		}
		return returned(err)
	}
	defer func() {
		if !w.good {
			unixsock.HangUp(worker)
		}
	}()
	if err := s.await(ctx, w); err != nil {
		return err
	}
	return w.give(ctx, time.Time{}, s.Verify, p)
}

// A waiter is the acceptor's end of a worker's connection.
type waiter struct {
	conn *net.UnixConn
	from *unixsock.Receiver
	peer Peer       // the process that said READY
	to   seal.Party // what the token for it will name
	good bool       // conn is between two exchanges: the next thing on it is READY
}

// newWaiter prepares a worker's connection, once. The receiver never takes descriptors: they
// would fill the acceptor's table and could take long to close.
func newWaiter(worker *net.UnixConn) (*waiter, error) {
	if err := checkWorker(worker); err != nil {
		return nil, err
	}
	if err := unixsock.Prepare(worker); err != nil {
		return nil, err
	}
	from, err := unixsock.NewReceiver(worker, nil)
	return &waiter{conn: worker, from: from}, err
}

// await reads a worker's READY. After an error the connection is good only if w.good says so.
func (s *Sender) await(ctx context.Context, w *waiter) error {
	defer watch(ctx, w.conn, time.Time{})()
	before := w.peer
	w.peer, w.good = Peer{}, false
	n, err := w.hello()
	if err == nil && (s.Audience != nil || before != w.peer) { // looking up a process costs something
		err = s.address(w)
	}
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		w.good, w.peer = true, before
		return returned(fmt.Errorf("%w: %w", ErrBusy, because(ctx, err)))
	}
	if err != nil {
		return returned(because(ctx, err))
	}
	return nil
}

// hello reads READY. n is how many bytes came, also with an error.
func (w *waiter) hello() (n int, err error) {
	k, _, n, err := w.answer()
	if err == nil && k != ready {
		err = fmt.Errorf("%w: %v for READY", ErrProtocol, k)
	}
	return n, err
}

// address sets the audience of the token.
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

// answer reads one frame of the worker and no byte more. The process that sent READY must have
// sent it. n is how many bytes came, also with an error.
func (w *waiter) answer() (k kind, reason byte, n int, err error) {
	var b [headerSize + 1]byte
	if n, err = w.fill(b[:headerSize]); err != nil {
		return 0, 0, n, err
	}
	k, size, err := parseHeader(b[:headerSize])
	switch {
	case err != nil:
	case k == offer || k == withdrawn:
		err = fmt.Errorf("%w: %v from a worker", ErrProtocol, k)
	case size > 0:
		_, err = w.fill(b[headerSize : headerSize+size])
	}
	return k, b[headerSize], n, err
}

// fill reads len(b) bytes and checks that one process sent all of them.
func (w *waiter) fill(b []byte) (n int, err error) {
	for n < len(b) {
		_, m, ctl, err := w.from.Receive(b[n:], nil, nil)
		switch {
		case errors.Is(err, unixsock.ErrControl):
			return n, fmt.Errorf("%w: a descriptor from a worker", ErrProtocol)
		case err != nil:
			return n, err
		}
		n += m
		peer := Peer{int(ctl.Sender.Pid), ctl.Sender.Uid, ctl.Sender.Gid}
		if w.peer == (Peer{}) {
			w.peer = peer
		}
		switch {
		case peer.PID <= 0:
			return n, fmt.Errorf("%w: the kernel does not say which process sent", ErrPeer)
		case peer != w.peer:
			return n, fmt.Errorf("%w: %v speaks for %v", ErrPeer, peer, w.peer)
		}
	}
	return n, nil
}

// give exports the context to the worker, with its connection, or takes the context back. A
// limit that is not zero bounds the wait for the worker's answer. If verify is set, give asks
// the agent whether the worker has claimed.
func (w *waiter) give(ctx context.Context, limit time.Time, verify bool, p *parcel) error {
	if ctx.Err() != nil { // an export would lose the context's delegated credentials
		w.withdraw()
		return returned(fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx)))
	}
	start := time.Now()
	tok, err := secctx.Export(p.sc, w.to)
	if err != nil {
		w.withdraw()
		switch {
		case errors.Is(err, secctx.ErrLost):
			p.end()
		case !w.good: // no token can be made for a process that has ended
			return returned(err)
		}
		return err
	}
	life := lifetime(tok)
	err = w.offer(ctx, start, soonest(limit, start.Add(life*3/4)), tok, p)
	if err == nil && !doubtful(p.sc, verify) {
		w.good = true
		p.close()
		return nil
	}
	// The claim decides, whether the worker has answered or not, and whatever it said.
	has := err == nil
	back := takeBack(ctx, start.Add(life), p.sc, tok)
	if has && errors.Is(back, seal.ErrSpent) {
		w.good = true
		p.close()
		return nil
	}
	return w.over(has, err, back, p)
}

// soonest returns the earlier of two times. A zero limit is none.
func soonest(limit, last time.Time) time.Time {
	if limit.IsZero() || last.Before(limit) {
		return last
	}
	return limit
}

// lifetime is how long a token can be claimed and taken back.
func lifetime(tok []byte) time.Duration {
	h, err := seal.Inspect(tok)
	if err != nil { // not from our sealer: then TakeBack has no chance either
		return 0
	}
	return h.Expires - h.Issued
}

// offer sends the token and the connection. It returns nil if the worker says in time that
// it has imported the token.
func (w *waiter) offer(ctx context.Context, start, limit time.Time, tok []byte, p *parcel) error {
	deadline, some := ctx.Deadline()
	if some = some && start.Add(deadline.Sub(start)*3/4).Before(limit); some {
		limit = start.Add(deadline.Sub(start) * 3 / 4)
	}
	end := watch(ctx, w.conn, limit)
	sent, err := p.offer(w.conn, tok)
	if err == nil {
		err = w.taken()
	}
	end()
	switch {
	case err == nil:
		return nil
	case sent == 0: // the kernel did not take it: too many descriptors on their way, say
		w.withdraw()
	case some && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	return because(ctx, err)
}

// taken reads the worker's answer to a token.
func (w *waiter) taken() error {
	k, reason, _, err := w.answer()
	switch {
	case err != nil:
		return err
	case k == refused:
		return refusal(reason)
	case k != imported:
		return fmt.Errorf("%w: %v for OFFER", ErrProtocol, k)
	}
	return nil
}

// doubtful reports whether a worker's word that it has the context is not enough.
func doubtful(sc gssapi.SecContext, verify bool) bool {
	switch state, _ := secctx.Status(sc); state {
	case seal.Gone:
		return false
	case seal.Unknown:
		return verify
	}
	return true // its token waits for a claim
}

// An agent may be unable to take a token back just now, because a quota is used up or its
// socket is flooded. It is asked again after a pause, which doubles each time.
const (
	takeBackPause   = 5 * time.Millisecond
	longestTakeBack = 200 * time.Millisecond
)

// takeBack tries to take a token back until the token expires or ctx ends. It tries at least
// once.
func takeBack(ctx context.Context, expiry time.Time, sc gssapi.SecContext, tok []byte) error {
	for pause := takeBackPause; ; pause = min(2*pause, longestTakeBack) {
		err := secctx.TakeBack(sc, tok)
		if !errors.Is(err, seal.ErrUnavailable) || errors.Is(err, secctx.ErrLost) || time.Until(expiry) < pause {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// over returns the error of a handoff that failed. has reports whether the worker said
// IMPORTED; if it did not, err says why. back is the result of the take-back.
func (w *waiter) over(has bool, err, back error, p *parcel) error {
	switch {
	case back == nil && has:
		return returned(fmt.Errorf("%w: IMPORTED without a claim", ErrProtocol))
	case back == nil:
		w.good = w.good || errors.Is(err, ErrRefused)
		return returned(err)
	}
	w.good = false
	p.end()
	if errors.Is(back, secctx.ErrLost) {
		return back
	}
	back = fmt.Errorf("taking it back: %w", textOf(back))
	if err != nil {
		back = fmt.Errorf("%w; %w", err, back)
	}
	return claimed(back)
}

// textOf drops everything that errors.Is could match. That a take-back found the token spent
// is what ErrClaimed says already.
func textOf(err error) error { return errors.New(err.Error()) }

// withdrawLimit bounds the writing of eight bytes. It waits only if the peer does not read as a
// worker does.
const withdrawLimit = 100 * time.Millisecond

// withdraw tells a worker that nothing comes, so that it is ready again.
func (w *waiter) withdraw() {
	defer watch(context.Background(), w.conn, time.Now().Add(withdrawLimit))()
	_, err := send(w.conn, frame(withdrawn), nil)
	w.good = err == nil
}
