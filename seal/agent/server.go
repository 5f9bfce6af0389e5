package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/foreign"
	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// Options for NewServer. The zero value is the recommendation.
type Options struct {
	// Suites that the agent allows, by name, the preferred one first:
	// "AES-256-GCM", "ChaCha20-Poly1305". Each has keys of its own. Nil: both,
	// this processor's first.
	Suites []string

	// Ring says how epochs are made; its Suite is not used. Nil: the defaults of
	// package keyring.
	Ring *keyring.Options

	// Policy says who may reserve for whom. Nil: every user for itself.
	Policy *Policy

	// Log gets the audit events: who reserved, opened and was refused what, and
	// why; a second import at level Error. Never a secret. Nil: none.
	Log *slog.Logger

	// Observer counts what the agent does, see package metrics. Nil: nobody does.
	Observer Observer
}

// A Server is the agent: it holds keys and registers in locked memory of its
// process and serves them over a Unix socket. When it ends they are gone, and
// every outstanding token is worthless. Safe for concurrent use.
type Server struct {
	_ [0]func() // not comparable

	pool    *memsafe.Pool
	hosts   []suiteHost
	ns      *peer.Namespace
	uid     uint32 // of this process: an administrator, with root
	log     *slog.Logger
	observe Observer
	policy  atomic.Pointer[Policy]
	users   accounts

	strangers logBucket      // of peers that the kernel cannot name,
	nameless  foreign.Closer // and for what they send
	room      int            // for connections
	waiting   atomic.Int64   // bytes of locked memory in answers that peers do not read
	times     times

	mu       sync.Mutex
	conns    map[*conn]struct{}
	draining bool
	epochs   map[[16]byte]suite.Suite // as housekeeping last saw them
}

// times are limits of this package that tests make shorter.
type times struct{ idle, frame, drain time.Duration }

// A suiteHost is the keys and the register of one suite.
type suiteHost struct {
	suite suite.Suite
	*seal.Host
}

// NewServer returns an agent with new keys, which Close destroys. All memory that
// it locks is locked now. Call memsafe.Harden before it, and sandbox.Enter after it.
// Errors: memsafe.ErrLimit, those of Options, seal.ErrUnavailable.
func NewServer(o *Options) (*Server, error) {
	if o == nil {
		o = &Options{}
	}
	s := &Server{
		log: o.Log, observe: o.Observer, uid: uint32(os.Geteuid()),
		conns: map[*conn]struct{}{}, epochs: map[[16]byte]suite.Suite{},
		times: times{idleTimeout, frameTimeout, drainTimeout},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.observe == nil {
		s.observe = unobserved{}
	}
	s.policy.Store(o.Policy)
	if err := s.start(o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) start(o *Options) (err error) {
	if s.ns, err = peer.NewNamespace(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if s.room, err = room(); err != nil {
		return err
	}
	if s.pool, err = memsafe.NewPool(0); err != nil {
		return err
	}
	suites, err := suitesOf(o.Suites)
	if err != nil {
		return err
	}
	for _, one := range suites {
		if err := s.addSuite(one, o.Ring); err != nil {
			return err
		}
	}
	return nil
}

// suitesOf returns the suites with these names, or all if there are none.
func suitesOf(names []string) ([]suite.Suite, error) {
	if names == nil {
		return suite.All(), nil
	}
	var suites []suite.Suite
	for _, name := range names {
		one, ok := suite.ByName(name)
		if !ok {
			return nil, fmt.Errorf("agent: no suite %q; there are %v", name, suite.All())
		}
		if slices.Contains(suites, one) {
			return nil, fmt.Errorf("agent: %v is named twice", one)
		}
		suites = append(suites, one)
	}
	return suites, nil
}

func (s *Server) addSuite(one suite.Suite, o *keyring.Options) error {
	var opts keyring.Options
	if o != nil {
		opts = *o
	}
	opts.Suite = one
	ring, err := keyring.New(&opts)
	if err != nil {
		return err
	}
	host, err := seal.NewHost(ring, &seal.Options{Pool: s.pool, Log: s.log})
	if err != nil {
		return errors.Join(err, ring.Close())
	}
	s.hosts = append(s.hosts, suiteHost{one, host})
	return nil
}

// room is how many connections this process has descriptors for.
func room() (int, error) {
	var rl unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &rl); err != nil {
		return 0, fmt.Errorf("agent: RLIMIT_NOFILE: %w", err)
	}
	n := min(rl.Cur, 2*maxConnections+spareDescriptors)
	if n < spareDescriptors+2 {
		return 0, fmt.Errorf("agent: RLIMIT_NOFILE allows %d descriptors, at least %d are needed", rl.Cur, spareDescriptors+2)
	}
	return int(n-spareDescriptors) / 2, nil
}

// host returns the host of a suite, or nil.
func (s *Server) host(one suite.Suite) *seal.Host {
	for _, h := range s.hosts {
		if h.suite == one {
			return h.Host
		}
	}
	return nil
}

// SetPolicy replaces the policy for all requests from now on.
func (s *Server) SetPolicy(p *Policy) {
	s.policy.Store(p)
	s.log.Info(eventPolicy)
}

// Reload reads a policy and puts it in force. On an error, which wraps ErrPolicy
// where a line is wrong, the old one stays.
func (s *Server) Reload(r io.Reader) error {
	p, err := ParsePolicy(r)
	if err != nil {
		s.log.Error(eventNoPolicy, "reason", err)
		return err
	}
	s.SetPolicy(p)
	return nil
}

// Close destroys the keys: every outstanding token is worthless from now on. It
// must not run beside Serve.
func (s *Server) Close() error {
	var errs []error
	for _, h := range s.hosts {
		errs = append(errs, h.Close())
	}
	if s.pool != nil {
		errs = append(errs, s.pool.Close())
	}
	return errors.Join(errs...)
}

// Serve serves the connections that l accepts, each in a goroutine, until ctx is
// done or accepting fails. It then waits for the requests under way, a few
// seconds at most, closes all connections and returns nil, or why accepting
// failed. It runs one goroutine more, which retires epochs in time. When it returns
// none is left but of connections whose descriptors wait to be closed, see package
// internal/foreign. It does not close l. One Serve runs at a time.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	if err := foreign.Prepare(l); err != nil {
		return err
	}
	if err := l.SetDeadline(time.Time{}); err != nil { // of another Serve, which had ended
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { s.housekeep(ctx) })
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	var conns sync.WaitGroup
	err := s.accept(ctx, l, &conns)
	s.drain(&conns)
	return err
}

// accept accepts until ctx is done.
func (s *Server) accept(ctx context.Context, l *net.UnixListener, conns *sync.WaitGroup) error {
	pause := acceptPause
	for {
		sock, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				foreign.HangUp(sock)
			}
			return nil
		case err == nil:
			pause = acceptPause
			conns.Go(func() { s.serve(sock) })
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOBUFS):
			s.log.Error(eventNoDescriptor, "reason", err)
			s.observe.Refused("accept", wire.Unavailable.String())
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, acceptPauseMax)
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("agent: accepting: %w", err)
		}
	}
}

// drain ends the connections: those without a request at once, the others when
// they have answered it or their time is up.
func (s *Server) drain(conns *sync.WaitGroup) {
	s.mu.Lock()
	s.draining = true
	for c := range s.conns {
		c.interrupt()
	}
	s.mu.Unlock()

	late := time.AfterFunc(s.times.drain, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			c.cut()
		}
	})
	ended := make(chan struct{})
	go func() {
		conns.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(s.times.drain + closeTimeout):
	}
	late.Stop()
	s.mu.Lock()
	s.draining = false
	s.mu.Unlock()
}

// admit counts a connection in, unless there are too many or the server stops.
func (s *Server) admit(c *conn) wire.Code {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return wire.Stopping
	case len(s.conns) >= s.room:
		return wire.Unavailable
	}
	s.conns[c] = struct{}{}
	return wire.OK
}

func (s *Server) dismiss(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// connections counts those that are open.
func (s *Server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}
