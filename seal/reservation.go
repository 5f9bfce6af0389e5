package seal

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sealctx/sealctx/internal/token"
)

// A Reservation is a slot of the register and the keys of one token. It is good
// for one Seal or one Cancel; whoever does neither leaves a slot taken until
// the token would have expired. Safe for concurrent use. It holds a key and so
// prints none.
type Reservation struct {
	_ [0]func() // not comparable

	mu     sync.Mutex
	used   bool
	grant  *Grant
	random io.Reader
}

// Seal returns the sealed token of a plain one (doc/SPEC.md, section 8), of at
// most MaxToken bytes and the caller's. The caller wipes plain, whatever comes
// back; it should not lie on a goroutine's stack, which leaves a copy where it
// was when it grows. On an error no sealed byte has left: ErrTooLarge, ErrExpired
// when the token's time ran out, ErrUnavailable when its epoch was retired or
// the random source failed; the reservation is then cancelled, so that the slot
// comes back. ErrUsed after a Seal or a Cancel. A reservation of an agent that is
// older than 50 microseconds costs a question to the agent, which may have been
// restarted or have retired the epoch; without an answer the error is
// ErrUnavailable (doc/adr/0018).
func (r *Reservation) Seal(plain []byte) ([]byte, error) {
	if err := r.use(); err != nil {
		return nil, err
	}
	defer r.end()
	sealed, err := token.Seal(r.grant.suite(), r.grant.Start, r.grant.Key.Bytes(), plain, r.random)
	if err == nil {
		err = r.grant.Slot.Valid(sealed)
	}
	if err == nil {
		return sealed, nil
	}
	_ = r.grant.Slot.Cancel() // the sealed bytes are dropped here, whoever has the slot
	switch {
	case errors.Is(err, token.ErrTooLarge):
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(plain), MaxPlain)
	case errors.Is(err, ErrExpired):
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// Cancel gives the slot back. It returns ErrUsed after a Seal or a Cancel, and
// the keyring's error where the slot could not be given back: it expires then,
// and no token of it exists.
func (r *Reservation) Cancel() error {
	if err := r.use(); err != nil {
		return err
	}
	defer r.end()
	return r.grant.Slot.Cancel()
}

// Outstanding reports whether the reservation, or the token of a Seal, still holds
// its slot: then nobody has opened it, taken it back or cancelled it, though it may
// have expired. Known and not yes says that somebody has, or that it expired and
// another has the slot. It asks nobody, so that it is known only where this process
// has the register mapped and the epoch lives; never of an agent. The answer may be
// over when it is read. Safe for concurrent use.
func (r *Reservation) Outstanding() (yes, known bool) { return r.grant.Slot.Outstanding() }

func (r *Reservation) use() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used {
		return ErrUsed
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
