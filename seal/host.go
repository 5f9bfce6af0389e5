package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
)

// A Host seals and opens in this process, under the keys of this host's ring.
// It is a Sealer; safe for concurrent use. All processes of the ring's user
// hold the same keys, so an audience within that user guards against mistakes
// and not against malice; doc/THREATS.md says more.
type Host struct {
	_ [0]func() // not comparable

	ring   *keyring.Ring
	pool   *memsafe.Pool
	owned  bool // the pool is the host's to close
	random io.Reader
	log    *slog.Logger
	self   self
}

// self is this process, for audiences.
type self struct {
	uid     uint32
	user    Audience
	process func() (Audience, error)
}

// Options for NewHost. The zero value is the recommendation.
type Options struct {
	// Pool is the locked memory for keys and opened tokens. Nil: one of
	// memsafe.NewPool(0), which the Host's Close closes.
	Pool *memsafe.Pool

	// Log gets the audit events: what was reserved, opened and refused, and the
	// reason that the caller of Open is not told. Never a secret. Nil: none.
	Log *slog.Logger
}

// OpenHost opens this user's keyring in the runtime directory, see
// [keyring.Open], with locked memory of its own. It returns an error that wraps
// ErrUnavailable and says what is missing.
func OpenHost() (*Host, error) {
	ring, err := keyring.Open("", nil)
	if err != nil {
		return nil, unavailable(err)
	}
	h, err := NewHost(ring, nil)
	if err != nil {
		return nil, errors.Join(err, ring.Close())
	}
	return h, nil
}

// NewHost returns a Host over a ring, which it owns from now on; on an error,
// which wraps ErrUnavailable, the ring stays the caller's.
func NewHost(ring *keyring.Ring, o *Options) (*Host, error) {
	if o == nil {
		o = &Options{}
	}
	h := &Host{ring: ring, pool: o.Pool, random: rand.Reader, log: o.Log}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	uid := uint32(os.Geteuid())
	h.self = self{
		uid:     uid,
		user:    User(uid),
		process: thisProcess(),
	}
	if h.pool == nil {
		pool, err := memsafe.NewPool(0)
		if err != nil {
			return nil, unavailable(err)
		}
		h.pool, h.owned = pool, true
	}
	return h, nil
}

// Ring returns the host's keyring, to rotate and retire.
func (h *Host) Ring() *keyring.Ring { return h.ring }

// Close closes the ring, and the pool unless the caller brought it; outstanding
// tokens stay good for other processes. It must not run beside other calls, and
// secrets that Open returned are gone with their pool.
func (h *Host) Close() error {
	err := h.ring.Close()
	if h.owned {
		err = errors.Join(err, h.pool.Close())
	}
	return err
}

// thisProcess returns a function that tells this process as an audience. It
// reads that once; an error is not kept, since a lack of descriptors passes.
func thisProcess() func() (Audience, error) {
	var known atomic.Pointer[Audience]
	return func() (Audience, error) {
		if a := known.Load(); a != nil {
			return *a, nil
		}
		a, err := Process(os.Getpid())
		if err != nil {
			return Audience{}, unavailable(err)
		}
		known.Store(&a)
		return a, nil
	}
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }

func suiteName(s suite.Suite) string { return suite.Suite(s).String() }

// attempts is how often Reserve takes another epoch when the one it had was
// rotated away or retired under its hands.
const attempts = 4

// Reserve is described at Sealer.
func (h *Host) Reserve(req Request) (*Reservation, error) {
	if a := req.Audience; a == (Audience{}) {
		req.Audience = h.self.user
	} else if a.kind != token.KindProcess && a != h.self.user {
		return nil, fmt.Errorf("%w: this process can hold a token only to its own user (%d) or to one process; %v needs the agent",
			ErrAudience, h.self.uid, a)
	}
	g, err := h.grant(h.self.uid, req)
	if err != nil {
		return nil, err
	}
	return g.reservation(h.random), nil
}

// grant reserves for a user, in whatever epoch is current.
func (h *Host) grant(exporter uint32, req Request) (*Grant, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	head := req.header(exporter)
	for try := 1; ; try++ {
		g, err := h.reserve(head, req.Lifetime)
		if err == nil {
			h.reserved(&head)
			return g, nil
		}
		rotated := errors.Is(err, keyring.ErrNotOpen) || errors.Is(err, keyring.ErrRetired) || errors.Is(err, keyring.ErrDamaged)
		if !rotated || try == attempts {
			h.notReserved(&head, err)
			return nil, unavailable(err)
		}
	}
}

// check refuses what cannot stand in a token's header.
func (req *Request) check() error {
	switch {
	case !req.Audience.valid():
		return fmt.Errorf("%w: no such audience", ErrAudience)
	case req.Lifetime < 0:
		return fmt.Errorf("%w: lifetime of %v", ErrRequest, req.Lifetime)
	case len(req.Mechanism) > token.MaxMechanism:
		return fmt.Errorf("%w: mechanism of %d bytes, at most %d", ErrRequest, len(req.Mechanism), token.MaxMechanism)
	case !token.ValidFormat([]byte(req.Format)):
		return fmt.Errorf("%w: plain format %q is not 1 to %d printable ASCII characters", ErrRequest, req.Format, token.MaxFormat)
	}
	return nil
}

// header is what the request says of a token's header. It is small enough to be
// inlined, which keeps what it makes on the stack.
func (req *Request) header(exporter uint32) token.Header {
	return token.Header{Mechanism: req.Mechanism, Format: []byte(req.Format), Exporter: exporter, Audience: req.Audience.wire()}
}

// reserve tries the current epoch once.
func (h *Host) reserve(head token.Header, lifetime time.Duration) (*Grant, error) {
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	e, lease, err := h.ring.Reserve(lifetime)
	if err != nil {
		return nil, err
	}
	g := &hostGrant{slot: hostSlot{h.ring, e, e.ID(), lease}}
	if err := h.prepare(g, head); err != nil {
		_ = g.slot.Cancel() // a slot that cannot be given back expires
		g.slot.Release()
		return nil, err
	}
	return &g.Grant, nil
}

// A hostGrant is a grant and its slot in one piece.
type hostGrant struct {
	Grant
	slot hostSlot
}

// prepare writes the header and derives the keys of a reserved slot.
func (h *Host) prepare(g *hostGrant, head token.Header) error {
	s := &g.slot
	head.Suite = suite.Suite(s.epoch.Suite())
	head.Epoch = s.epoch.ID()
	head.Slot, head.Word = s.lease.Index, s.lease.Word
	head.Issued, head.Expires = s.lease.Issued, s.lease.Expires
	// The salt is drawn where the header will be written over it: drawn into
	// head it would take head to the heap.
	room := make([]byte, token.SaltSize, head.Size()+token.CommitmentSize)
	if _, err := io.ReadFull(h.random, room); err != nil {
		return fmt.Errorf("random source: %w", err)
	}
	head.Salt = [token.SaltSize]byte(room)
	bound, err := head.Append(room[:0])
	if err != nil {
		return err
	}
	key, err := h.pool.Alloc(token.KeySize)
	if err != nil {
		return err
	}
	start := bound[:len(bound)+token.CommitmentSize]
	err = s.epoch.Derive(token.EncLabel, bound, func(enc []byte) error {
		copy(key.Bytes(), enc)
		token.Commit(start[len(bound):], enc)
		return nil
	}, nil)
	if err != nil {
		key.Wipe()
		return err
	}
	g.Start, g.Key, g.Slot = start, key, s
	return nil
}

// hostSlot is a slot in a register that this process has mapped; a Slot.
type hostSlot struct {
	ring  *keyring.Ring
	epoch *keyring.Epoch // until Release
	id    [16]byte       // the epoch's
	lease keyring.Lease
}

func (s *hostSlot) Valid([]byte) error {
	err := s.epoch.Valid(s.lease.Expires)
	if errors.Is(err, keyring.ErrExpired) {
		return fmt.Errorf("%w: before it was sealed", ErrExpired)
	}
	return err
}

func (s *hostSlot) Cancel() error { return s.epoch.Claim(s.lease.Slot) }
func (s *hostSlot) Release()      { s.epoch.Release() }

// Outstanding looks into the register, should the ring have the epoch still.
func (s *hostSlot) Outstanding() (yes, known bool) {
	e, err := s.ring.Epoch(s.id)
	if err != nil {
		return false, false
	}
	defer e.Release()
	held, err := e.Holds(s.lease.Slot)
	return held, err == nil
}
