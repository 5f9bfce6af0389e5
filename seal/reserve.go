package seal

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// attempts is how often Reserve takes another epoch after the one that it had was
// retired or damaged.
const attempts = 4

// Reserve is described at Sealer.
func (h *Host) Reserve(req Request) (*Reservation, error) {
	if req.Audience == (Party{}) {
		req.Audience = h.user
	}
	if err := h.who.MayReserve(req.Audience.kind, req.Audience.value); err != nil {
		return nil, err
	}
	if err := req.check(); err != nil {
		return nil, err
	}
	head := req.header(h.who.User())
	for try := 1; ; try++ {
		r, err := h.reserve(head, req.Lifetime)
		if err == nil {
			h.reserved(&head)
			return r, nil
		}
		gone := errors.Is(err, keyring.ErrRetired) || errors.Is(err, keyring.ErrDamaged)
		if !gone || try == attempts {
			h.notReserved(&head, err)
			return nil, unavailable(err)
		}
	}
}

// check returns an error for a field that cannot stand in a token's header.
func (req *Request) check() error {
	switch {
	case !req.Audience.valid():
		return fmt.Errorf("%w: no such user, group, service or process", errAudience)
	case req.Lifetime < 0:
		return fmt.Errorf("%w: lifetime of %v", ErrRequest, req.Lifetime)
	case len(req.Mechanism) > token.MaxMechanism:
		return fmt.Errorf("%w: mechanism of %d bytes, at most %d", ErrRequest, len(req.Mechanism), token.MaxMechanism)
	case !token.ValidFormat([]byte(req.Format)):
		return fmt.Errorf("%w: plain format %q is not 1 to %d printable ASCII characters", ErrRequest, req.Format, token.MaxFormat)
	}
	return nil
}

// header returns the fields of a token's header that the request determines. The
// compiler inlines it, which keeps the slices that it makes on the stack.
func (req *Request) header(exporter uint32) token.Header {
	return token.Header{Mechanism: req.Mechanism, Format: []byte(req.Format), Exporter: exporter, Audience: req.Audience.wire()}
}

// A hostReservation is a reservation and its slot in one piece.
type hostReservation struct {
	Reservation
	slot hostSlot
}

// reserve tries the current epoch once.
func (h *Host) reserve(head token.Header, lifetime time.Duration) (*Reservation, error) {
	if lifetime == 0 {
		lifetime = defaultLifetime
	}
	e, lease, err := h.ring.Reserve(lifetime)
	if err != nil {
		return nil, err
	}
	r := &hostReservation{slot: hostSlot{h.ring, e, e.ID(), lease}}
	if err := h.prepare(r, head); err != nil {
		_ = r.slot.Cancel() // a slot that cannot be given back expires
		r.slot.Release()
		return nil, err
	}
	return &r.Reservation, nil
}

// prepare writes the header and derives the keys of a reserved slot.
func (h *Host) prepare(r *hostReservation, head token.Header) error {
	s := &r.slot
	head.Suite = s.epoch.Suite()
	head.Epoch = s.id
	head.Slot, head.Word = s.lease.Index, s.lease.Word
	head.Issued, head.Expires = s.lease.Issued, s.lease.Expires
	// The salt is drawn into the room of the header. Drawn into head, it would move
	// head to the heap.
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
	r.grant, r.random = ask.Grant{Start: start, Key: key, Slot: s}, h.random
	return nil
}

// hostSlot is a slot in a register that this process has mapped.
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

func (s *hostSlot) Cancel() error { return s.epoch.ClaimFresh(s.lease.Slot) }
func (s *hostSlot) Release()      { s.epoch.Release() }

// State looks into the register, if the ring still has the epoch.
func (s *hostSlot) State() ask.State {
	e, err := s.ring.Epoch(s.id)
	if err != nil {
		return ask.Unknown
	}
	defer e.Release()
	held, err := e.Holds(s.lease.Slot)
	if err != nil {
		return ask.Unknown
	}
	if !held {
		return ask.Gone
	}
	switch err := e.Valid(s.lease.Expires); {
	case err == nil:
		return ask.Outstanding
	case errors.Is(err, keyring.ErrExpired):
		return ask.Expired
	}
	return ask.Unknown
}
