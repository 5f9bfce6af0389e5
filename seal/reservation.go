package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// A Reservation is a slot of the register and the keys of one token. It is good for
// one Seal or one Cancel. A Reservation that gets neither keeps its slot until the
// token would have expired. It is safe for concurrent use. It holds a key, and
// prints none.
type Reservation struct {
	_ [0]func() // not comparable

	mu     sync.Mutex
	used   bool
	grant  ask.Grant
	random io.Reader
}

// Seal returns the sealed token of a plain one (doc/SPEC.md, section 8). The token
// has at most 49,497 bytes and is the caller's. The caller wipes plain, whatever
// Seal returns; plain should not lie on a goroutine's stack, which leaves a copy
// behind when it grows. On an error no sealed byte has left, and the reservation is
// cancelled, so that the slot comes back. The error wraps
//
//   - ErrRequest, if plain is longer than 49,151 bytes, or after a Seal or a Cancel
//   - ErrExpired, if the token's time ran out
//   - ErrUnavailable, if its key was retired or the random source failed
//
// A reservation of an agent that is older than 50 microseconds costs a question to
// the agent, which may have restarted or have retired the key. Without an answer the
// error wraps ErrUnavailable (doc/adr/0018).
func (r *Reservation) Seal(plain []byte) ([]byte, error) {
	if err := r.use(); err != nil {
		return nil, err
	}
	defer r.end()
	sealed, err := token.Seal(token.SuiteOf(r.grant.Start), r.grant.Start, r.grant.Key.Bytes(), plain, r.random)
	if err == nil {
		err = r.grant.Slot.Valid(sealed)
	}
	if err == nil {
		return sealed, nil
	}
	_ = r.grant.Slot.Cancel() // whether it can be given back or not: no sealed byte leaves
	switch {
	case errors.Is(err, token.ErrTooLarge):
		return nil, fmt.Errorf("%w: a plain token of %d bytes, at most %d", ErrRequest, len(plain), token.MaxPlain)
	case errors.Is(err, ErrExpired):
		return nil, err
	}
	return nil, unavailable(err)
}

// Cancel gives the slot back. The error wraps ErrRequest after a Seal or a Cancel.
// Any other error says that the slot could not be given back: it expires then, and
// no token of it exists.
func (r *Reservation) Cancel() error {
	if err := r.use(); err != nil {
		return err
	}
	defer r.end()
	return r.grant.Slot.Cancel()
}

// State tells how the reservation stands, or the token of a Seal, without asking
// another process. Outstanding and Expired mean that no process has opened, taken
// back or cancelled it. Unknown means that this process has not mapped the register,
// or that the key is retired; an agent's reservation is always Unknown. The answer
// may be outdated when it is read. State is safe for concurrent use.
func (r *Reservation) State() State { return State(r.grant.Slot.State()) }

// Grant takes the reservation apart. The caller wipes the Grant's Key and releases
// its Slot. The error wraps ErrRequest after a Seal, a Cancel or another Grant. Package
// agent uses it.
func (r *Reservation) Grant() (*ask.Grant, error) {
	if err := r.use(); err != nil {
		return nil, err
	}
	return &r.grant, nil
}

// Adopt makes a new Reservation one of a Grant, which it owns from now on. For a
// Start that no token begins with, or a Key of another length, the error wraps
// ErrRequest, and the Grant stays the caller's. Package agent uses it.
func (r *Reservation) Adopt(g ask.Grant) error {
	_, rest, err := token.ParseHeader(g.Start)
	if err != nil || len(rest) != token.CommitmentSize || g.Key.Len() != token.KeySize {
		return fmt.Errorf("%w: a grant of which no token can be made", ErrRequest)
	}
	r.grant, r.random = g, rand.Reader
	return nil
}

func (r *Reservation) use() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used {
		return errUsed
	}
	r.used = true
	return nil
}

func (r *Reservation) end() {
	r.grant.Key.Wipe()
	r.grant.Slot.Release()
}

// String says that this is a reservation, and nothing of its key.
func (r *Reservation) String() string { return "seal.Reservation" }
