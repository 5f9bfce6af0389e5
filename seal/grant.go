package seal

import (
	"crypto/rand"
	"io"
	"log/slog"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
)

// A Grant is what a Reservation is made of. Only the agent needs it: its server
// takes a Grant apart for the wire, and its client puts one together again.
type Grant struct {
	_ [0]func() // not comparable

	Start []byte          // header, context and commitment of the token, as they will stand
	Key   *memsafe.Secret // the token's encryption key; whoever has the Grant wipes it
	Slot  Slot

	made Reservation // what Reservation returns, in the same piece
}

// A Slot is what a Reservation holds in a register, here or at the agent. It is
// used by one goroutine at a time, but for Outstanding.
type Slot interface {
	// Valid returns nil if the sealed token may leave the process, and else
	// ErrExpired or why not.
	Valid(sealed []byte) error

	// Cancel returns nil if nobody can open the token any more.
	Cancel() error

	// Outstanding reports whether the slot still holds the token's word, so that
	// nobody has claimed it, though its time may be over; and whether that is known
	// here, with nobody asked. It may be called at any time, after Release too.
	Outstanding() (yes, known bool)

	// Release lets go of whatever keeps the register at hand. It is called once.
	Release()
}

// Reservation makes a reservation of a grant, which it owns from now on. It
// returns ErrRequest for a Start that no token begins with, or a Key of another
// length; the grant stays the caller's then.
func (g *Grant) Reservation() (*Reservation, error) {
	_, rest, err := token.ParseHeader(g.Start)
	if err != nil || len(rest) != token.CommitmentSize || g.Key.Len() != token.KeySize {
		return nil, ErrRequest
	}
	return g.reservation(rand.Reader), nil
}

func (g *Grant) reservation(random io.Reader) *Reservation {
	g.made.grant, g.made.random = g, random
	return &g.made
}

func (g *Grant) suite() suite.Suite { return token.SuiteOf(g.Start) }

// A Peer is somebody for whom the agent asks: what the kernel and the policy
// say of the process at the other end.
type Peer struct {
	UID      uint32
	Groups   []uint32 // the primary one and the others
	Services []string // the names that the policy gives it
	Process  Audience // of kind Process; zero if unknown

	// Exporter reports whether the exporter of an authentic token that is in time
	// is a user, a group or a service. Its error refuses the token.
	Exporter func(token.Header, Party) (bool, error)

	// Imports returns an error that wraps ErrUnauthorized if what the peer is may
	// not open what that exporter reserved. Nil: it may.
	Imports func(token.Header) error

	// Log gets the audit events of what this peer asks. Nil: the host's log.
	Log *slog.Logger
}

// logging is the host with its events going to the peer's log.
func (h *Host) logging(p *Peer) *Host {
	if p.Log == nil {
		return h
	}
	c := *h
	c.log = p.Log
	return &c
}

// is reports whether the peer belongs to an audience.
func (p *Peer) is(a token.Audience) bool {
	switch who := fromWire(a); who.kind {
	case token.KindUser:
		return who == User(p.UID)
	case token.KindGroup:
		for _, g := range p.Groups {
			if who == Group(g) {
				return true
			}
		}
	case token.KindService:
		for _, name := range p.Services {
			if who.value == name {
				return true
			}
		}
	case token.KindProcess:
		return who == p.Process
	}
	return false
}

// ReserveFor is Reserve for a peer of the agent, without the limits of a single
// process: the caller has decided that the peer may name that audience, and
// OpenFor holds the token to it. A zero audience is the peer's user. The Grant is
// the caller's: to make a Reservation of, or to wipe its Key and Release its Slot.
func (h *Host) ReserveFor(p Peer, req Request) (*Grant, error) {
	if req.Audience == (Audience{}) {
		req.Audience = User(p.UID)
	}
	return h.logging(&p).grant(p.UID, req)
}

// OpenFor is OpenFrom for a peer of the agent; no exporters demand none.
func (h *Host) OpenFor(p Peer, exporters []Party, b []byte, formats ...string) (*memsafe.Secret, error) {
	if len(exporters) > 0 {
		if err := checkExporters(exporters); err != nil {
			return nil, err
		}
	}
	return h.logging(&p).redeem(b, formats, eventOpened, func(t token.Header) error {
		if err := forAudience(t.Audience, p.is(t.Audience)); err != nil {
			return err
		}
		if p.Imports != nil {
			if err := p.Imports(t); err != nil {
				return err
			}
		}
		if len(exporters) == 0 {
			return nil
		}
		return demand(t, exporters, func(e Party) (bool, error) { return p.Exporter(t, e) })
	})
}

// TakeBackFor is TakeBack for a peer of the agent.
func (h *Host) TakeBackFor(p Peer, b []byte, formats ...string) (*memsafe.Secret, error) {
	return h.logging(&p).redeem(b, formats, eventTakenBack, func(t token.Header) error { return forExporter(t.Exporter, p.UID) })
}
