package permsg

import (
	"fmt"
	"sync"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// Params says what a context is made of once the exchange is over.
type Params struct {
	// Initiator is true on the side that started the context.
	Initiator bool
	// AcceptorSubkey is true if the acceptor asserted Key in its AP-REP.
	AcceptorSubkey bool
	// Etype is the type of Key.
	Etype etype.ID
	// Key is the acceptor's subkey, else the initiator's, else the ticket's
	// session key. New does not keep it; the caller wipes it.
	Key []byte
	// SendSeq is the number of the first message to send, RecvSeq of the first
	// to come: those of the Authenticator and the AP-REP.
	SendSeq, RecvSeq uint64
	// Seen says which numbers before RecvSeq have come, where the context goes on from
	// another implementation: bit i is RecvSeq-1-i. Zero for a new context.
	Seen uint64
	// Replay and Sequence turn on the services of GSS_C_REPLAY_FLAG and
	// GSS_C_SEQUENCE_FLAG for incoming messages.
	Replay, Sequence bool
}

// A Session protects the messages of one established context. It is safe for
// concurrent use and works on several messages at a time. It holds its keys in
// locked memory and, from the first message on, expanded keys on the heap, until
// Wipe or Export.
type Session struct {
	_ [0]func() // not comparable

	// life is held for reading by every message under way, and for writing by Wipe
	// and Export, which therefore wait for them.
	life sync.RWMutex
	mem  *memsafe.Secret // nil when the session has ended

	id             etype.ID
	initiator      bool
	acceptorSubkey bool
	out, in        direction
}

// New derives the keys of a context into memory of pool. The caller owns the
// Session and must Wipe or Export it. Errors: ErrParams, and those of
// pool.Alloc (memsafe.ErrLimit).
func New(pool *memsafe.Pool, p Params) (*Session, error) {
	if err := p.Etype.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}
	if len(p.Key) != p.Etype.KeySize() {
		return nil, ErrParams
	}
	mem, err := pool.Alloc(2 * keysSize(p.Etype))
	if err != nil {
		return nil, err
	}
	if err := deriveAll(mem.Bytes(), p.Etype, p.Key, p.Initiator); err != nil {
		mem.Wipe()
		return nil, ErrParams
	}
	return build(mem, p), nil
}

// build makes a session around its keys. It does not use p.Key.
func build(mem *memsafe.Secret, p Params) *Session {
	b := mem.Bytes()
	return &Session{
		mem:            mem,
		id:             p.Etype,
		initiator:      p.Initiator,
		acceptorSubkey: p.AcceptorSubkey,
		out:            direction{dir: etype.Sealing, keys: cut(b, p.Etype), next: p.SendSeq},
		in: direction{dir: etype.Opening, keys: cut(b[keysSize(p.Etype):], p.Etype),
			win: window{next: p.RecvSeq, seen: p.Seen, replay: p.Replay, sequence: p.Sequence}},
	}
}

// Wipe ends the session and wipes its keys. It waits for the messages under way.
// Later calls return gssapi.ErrNoContext. A second Wipe does nothing.
func (s *Session) Wipe() {
	s.life.Lock()
	defer s.life.Unlock()
	s.end()
}

// end wipes. The caller holds life for writing.
func (s *Session) end() {
	if s.mem == nil {
		return
	}
	s.out.wipe()
	s.in.wipe()
	s.mem.Wipe()
	s.mem = nil
}

// begin keeps the session alive until the caller unlocks s.life for reading. If
// the session has ended or may not be used, it returns an error and holds no lock.
func (s *Session) begin() error {
	s.life.RLock()
	if s.mem.Bytes() == nil { // wiped or exported, or its pool was closed
		s.life.RUnlock()
		return fatal(codeNoContext, errGone)
	}
	if err := s.id.Check(); err != nil { // made inside fips140.WithoutEnforcement, used outside
		s.life.RUnlock()
		return fatal(codeFailure, err)
	}
	return nil
}

// Initiator reports whether this side started the context.
func (s *Session) Initiator() bool { return s.initiator }

// Services reports which services are on for incoming messages.
func (s *Session) Services() (replay, sequence bool) { return s.in.win.replay, s.in.win.sequence }

// flags returns the flags of tokens sent by the initiator or the acceptor.
func (s *Session) flags(byInitiator bool) byte {
	var f byte
	if !byInitiator {
		f |= flagSentByAcceptor
	}
	if s.acceptorSubkey {
		f |= flagAcceptorSubkey
	}
	return f
}

// checkFlags returns an error unless a token with these flags can be the peer's.
// The flags select the token's key. A token with wrong ones is therefore not
// genuine rather than malformed: the C libraries answer BAD_SIG too.
func (s *Session) checkFlags(f byte) error {
	diff := f ^ s.flags(!s.initiator)
	switch {
	case diff&flagSentByAcceptor != 0:
		return fatal(codeBadMIC, errDirection)
	case diff&flagAcceptorSubkey != 0:
		return fatal(codeBadMIC, errWrongKey)
	}
	return nil
}
