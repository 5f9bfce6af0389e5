package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
)

// Options for NewServer. The zero value is the recommendation.
type Options struct {
	// Suites that the agent allows, by name, the preferred one first:
	// "AES-256-GCM", "ChaCha20-Poly1305". Each has keys of its own. Nil: both,
	// this processor's first.
	Suites []string

	// Capacity, Age and MaxLifetime are as in seal.Options.
	Capacity         int
	Age, MaxLifetime time.Duration

	// Policy says who may reserve for whom. Nil: every user for itself.
	Policy *Policy

	// Log receives the audit events: which process reserved, opened or was refused
	// what, and why. A second import has level Error. No event has a secret. Nil: no log.
	Log *slog.Logger

	// Observer counts what the agent does, see package metrics. Nil: no counts.
	Observer Observer
}

// A Server is the agent. It holds keys and registers in locked memory of its process
// and serves them over a Unix socket. When it ends the keys are gone and every
// outstanding token is worthless. Safe for concurrent use.
type Server struct {
	_ [0]func() // not comparable

	pool    *memsafe.Pool
	hosts   []suiteHost
	ns      *peer.Namespace
	clock   *boottime.Clock // of tokens
	uid     uint32          // of this process: an administrator, with root
	log     *slog.Logger
	observe Observer
	policy  atomic.Pointer[Policy]
	users   accounts

	nameless *account      // of peers that the kernel cannot name
	closing  chan struct{} // one in it for each refused connection that waits to be closed
	prepared atomic.Int64  // bytes of locked memory in keys that are not used yet
	waiting  atomic.Int64  // bytes of locked memory in answers that peers do not read
	times    times

	mu       sync.Mutex
	conns    map[*conn]struct{}
	draining bool
	epochs   map[[16]byte]suite.Suite // as housekeeping last saw them
}

// times are limits of this package that tests make shorter.
type times struct{ idle, frame, drain, prepared time.Duration }

// A suiteHost is the keys and the register of one suite.
type suiteHost struct {
	suite suite.Suite
	*seal.Host
}

// NewServer returns an agent with new keys. Close destroys them. NewServer locks all
// memory that the agent will use. Call memsafe.Harden before it and sandbox.Enter after
// it. Errors: memsafe.ErrLimit, seal.ErrUnavailable, and those for what Options names.
func NewServer(o *Options) (*Server, error) { return newServer(o, 0) }

// newServer is NewServer with a pool of a size, as memsafe.NewPool has it.
func newServer(o *Options, pool int) (*Server, error) {
	if o == nil {
		o = &Options{}
	}
	s := &Server{
		log: o.Log, observe: o.Observer, uid: uint32(os.Geteuid()),
		conns: map[*conn]struct{}{}, epochs: map[[16]byte]suite.Suite{},
		times: times{idleTimeout, frameTimeout, drainTimeout, housekeeping},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.observe == nil {
		s.observe = unobserved{}
	}
	s.policy.Store(o.Policy)
	if err := s.start(o, pool); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.logPolicy(o.Policy)
	return s, nil
}

func (s *Server) start(o *Options, pool int) (err error) {
	if s.ns, err = peer.NewNamespace(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if s.clock, err = boottime.New(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	bounds, err := boundsHere()
	if err != nil {
		return err
	}
	s.bound(bounds)
	if s.pool, err = memsafe.NewPool(pool); err != nil {
		return err
	}
	suites, err := suitesOf(o.Suites)
	if err != nil {
		return err
	}
	for _, one := range suites {
		host, err := seal.OpenHost(&seal.Options{
			Private: true, Suite: one.String(), Capacity: o.Capacity, Age: o.Age, MaxLifetime: o.MaxLifetime, Pool: s.pool, Log: s.log,
		})
		if err != nil {
			return err
		}
		s.hosts = append(s.hosts, suiteHost{one, host})
	}
	return nil
}

// bound sets what there are descriptors for, before the first connection.
func (s *Server) bound(b bounds) {
	s.users.bounds = b
	s.closing = make(chan struct{}, b.closing)
	s.nameless = s.users.newAccount(math.MaxUint32)
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

// SetPolicy replaces the policy for all requests from now on.
func (s *Server) SetPolicy(p *Policy) {
	s.policy.Store(p)
	s.logPolicy(p)
}

// logPolicy says which policy is in force: its file, if ReadPolicy read it, and how many
// lines it has that are neither empty nor a comment.
func (s *Server) logPolicy(p *Policy) {
	switch {
	case p == nil:
		s.log.Info(eventPolicy, "policy", "none: every user for itself")
	case p.path == "":
		s.log.Info(eventPolicy, "lines", p.lines)
	default:
		s.log.Info(eventPolicy, "policy", p.path, "lines", p.lines)
	}
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
