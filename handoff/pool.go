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

// DefaultPatience is how long a pool gives a worker that got a token. A healthy
// one needs less than a millisecond; a longer stop is a sick worker's.
const DefaultPatience = 2 * time.Second

// A worker that cannot be started, or ends without having taken a context, is
// replaced after a pause, which doubles each time.
const (
	firstPause   = 10 * time.Millisecond
	longestPause = 2 * time.Second
)

// A Pool keeps workers and gives each context to one that is free. A worker that
// does not say that it is ready counts as busy, however long that takes. Its
// fields are set before Run or Send and not changed after; its methods are safe
// for concurrent use.
type Pool struct {
	Sender

	// Workers is how many there are. Zero or less: 1.
	Workers int

	// Start starts a worker, with [Spawn] say, or takes one that has connected,
	// and returns the connection to it, which is the pool's to close. It is
	// called by several goroutines, and again for each worker that is lost.
	Start func(context.Context) (*net.UnixConn, error)

	// Patience is how long a worker may take to say that it has claimed a token
	// before it counts as lost. Zero: DefaultPatience.
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

// An applicant is a worker that waits for a context.
type applicant struct {
	*waiter
	done chan error // how it went; nil if the worker can go on
}

func (p *Pool) applicants() chan *applicant {
	p.once.Do(func() { p.ready = make(chan *applicant) })
	return p.ready
}

// Run starts the workers and replaces those that are lost, until ctx ends. Then
// it closes their connections and returns, when contexts that are just being
// handed over have come to their end; Send does not find a worker any more. It
// has one goroutine for each worker while it runs. Call it once.
func (p *Pool) Run(ctx context.Context) {
	var all sync.WaitGroup
	for range max(p.Workers, 1) {
		all.Go(func() { p.keep(ctx) })
	}
	all.Wait()
}

// keep keeps one place filled. It starts no worker before the connection to the last one is
// closed: descriptors that a worker has left in it can make that slow, and would add up.
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

// employ offers a worker to Send whenever it is ready, until it is lost.
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

// Send waits for a free worker and does what [Sender.Send] does; a worker that
// does not take the context is followed by another, as long as ctx lasts and at
// most once more than there are workers. So of its errors ErrReturned means that
// none took it, with ErrBusy that none was free. The others are as there.
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

// take waits for a worker that is ready and, as far as can be seen, alive.
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

// attempt gives one worker its chance.
func (p *Pool) attempt(ctx context.Context, a *applicant, parcel *parcel) error {
	patience := p.Patience
	if patience <= 0 {
		patience = DefaultPatience
	}
	left := errGone // should a mechanism panic
	defer func() { a.done <- left }()
	err := a.give(ctx, time.Now().Add(patience), p.Verify, parcel)
	left = err
	if a.good {
		left = nil
	}
	return err
}

// silent reports whether there is nothing to be read from a worker, which has
// said READY: neither a word nor its end. A context stays where it is then.
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
