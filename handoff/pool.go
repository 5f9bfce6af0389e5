package handoff

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/unixsock"
)

// DefaultPatience is how long a pool waits for the answer of a worker that got a token. A
// healthy worker answers within a millisecond.
const DefaultPatience = 2 * time.Second

// A Pool replaces a worker that could not be started, or that ended without having taken a
// context, after a pause. The pause doubles each time.
const (
	firstPause   = 10 * time.Millisecond
	longestPause = 2 * time.Second
)

// A Pool keeps workers and hands each context to a worker that is free. A worker that does
// not say that it is ready counts as busy, however long that takes. The fields are set
// before Run or Send and do not change afterwards. The methods are safe for concurrent use.
type Pool struct {
	Sender

	// Workers is the number of workers. Zero or less: 1.
	Workers int

	// Start starts a worker, for example with [Spawn], or accepts one that connects. It
	// returns the connection to the worker, which the pool closes. Several goroutines
	// call Start, and call it again for each worker that is lost.
	Start func(context.Context) (*net.UnixConn, error)

	// Patience is how long a worker may take to answer a token before it counts as lost.
	// Zero: DefaultPatience.
	Patience time.Duration

	// Lost, if not nil, is called for each worker that the pool has let go, with the
	// reason, to log it and to end its process. A healthy worker exits when its
	// connection is closed, after it has served its current client. A stopped worker must
	// be killed: it may hold a copy of a connection. If Start failed, Lost is called with
	// a nil connection.
	Lost func(*net.UnixConn, error)

	once  sync.Once
	ready chan *applicant
}

// An applicant is a worker that has said READY.
type applicant struct {
	*waiter
	done chan error // nil if the worker is good for another context
}

func (p *Pool) applicants() chan *applicant {
	p.once.Do(func() { p.ready = make(chan *applicant) })
	return p.ready
}

// Run starts the workers and replaces those that are lost, until ctx ends. It waits for
// handoffs under way, closes the workers' connections and returns. From then on Send finds
// no worker. While Run runs it has one goroutine for each worker. Call Run once.
func (p *Pool) Run(ctx context.Context) {
	var all sync.WaitGroup
	for range max(p.Workers, 1) {
		all.Go(func() { p.keep(ctx) })
	}
	all.Wait()
}

// keep keeps one place filled. It starts no worker before the connection to the last worker
// is closed. Descriptors that a worker has left in it can make the close slow, and would add
// up.
func (p *Pool) keep(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		worker, err := p.Start(ctx)
		given := 0
		var closed <-chan struct{}
		if err == nil {
			given, err = p.employ(ctx, worker)
		}
		if worker != nil {
			closed = unixsock.HangUp(worker)
		}
		if p.Lost != nil && ctx.Err() == nil {
			p.Lost(worker, err)
		}
		if closed != nil {
			select {
			case <-closed:
			case <-ctx.Done():
			}
		}
		if given > 0 {
			pause = firstPause
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

// employ offers a worker to Send whenever it is ready, until it is lost. given is the number
// of contexts that it has taken.
func (p *Pool) employ(ctx context.Context, worker *net.UnixConn) (given int, err error) {
	w, err := newWaiter(worker)
	if err != nil {
		return 0, err
	}
	for {
		if err := p.await(ctx, w); err != nil {
			return given, err
		}
		a := &applicant{w, make(chan error, 1)}
		select {
		case p.applicants() <- a:
		case <-ctx.Done():
			return given, ctx.Err()
		}
		if err := <-a.done; err != nil {
			return given, err
		}
		given++
	}
}

// Send waits for a free worker and does what [Sender.Send] does. If the worker does not take
// the context, Send tries another, until ctx ends or it has tried once more than there are
// workers. ErrReturned means that no worker took the context; if ErrBusy is in the chain, no
// worker was free. The other errors are those of Sender.Send.
func (p *Pool) Send(ctx context.Context, sc gssapi.SecContext, conn net.Conn, read []byte) error {
	parcel, err := pack(sc, conn, read)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		a, err := p.take(ctx)
		if err != nil {
			return err
		}
		err = p.attempt(ctx, a, parcel)
		if !errors.Is(err, ErrReturned) || ctx.Err() != nil || try >= max(p.Workers, 1) {
			return err
		}
	}
}

// take waits for a worker that is ready and has not ended since, as far as can be seen.
func (p *Pool) take(ctx context.Context) (*applicant, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, returned(fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx)))
		case a := <-p.applicants():
			if a.silent() {
				return a, nil
			}
			a.done <- errGone
		}
	}
}

var errGone = errors.New("handoff: worker ended, or spoke out of turn")

// attempt offers the parcel to one worker.
func (p *Pool) attempt(ctx context.Context, a *applicant, parcel *parcel) error {
	patience := p.Patience
	if patience <= 0 {
		patience = DefaultPatience
	}
	left := errGone // in case a mechanism panics
	defer func() { a.done <- left }()
	err := a.give(ctx, time.Now().Add(patience), p.Verify, parcel)
	left = err
	if a.good {
		left = nil
	}
	return err
}

// silent reports whether nothing can be read from a worker that has said READY. If anything
// can, the worker has ended or breaks the protocol, and the context is better not exported.
func (w *waiter) silent() bool {
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return false
	}
	silent := false
	err = raw.Control(func(fd uintptr) {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		silent = errors.Is(err, unix.EAGAIN)
	})
	return err == nil && silent
}
