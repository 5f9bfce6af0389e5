package seal

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
)

// A Reservation is a slot of the register and the keys of one token. It is good
// for one Seal or one Cancel; whoever does neither leaves a slot taken until
// the token would have expired. Safe for concurrent use. It holds a key and so
// prints none.
type Reservation struct {
	_ [0]func() // not comparable

	mu     sync.Mutex
	used   bool
	suite  token.Suite
	start  []byte          // header, context and commitment, with room for the rest
	key    *memsafe.Secret // K_enc
	random io.Reader
	slot   slot
}

// slot is what a reservation holds in a register.
type slot interface {
	valid() error  // nil while the token may still leave this process
	cancel() error // nil if nobody can open the token any more
	release()      // lets go of whatever keeps the register at hand
}

// init fills a reservation with its parts; key and s are its own now.
func (r *Reservation) init(suite token.Suite, start []byte, key *memsafe.Secret, random io.Reader, s slot) {
	r.suite, r.start, r.key, r.random, r.slot = suite, start, key, random, s
}

// Seal returns the sealed token of a plain one. The caller wipes plain, whatever
// comes back. On an error no sealed byte has left: ErrTooLarge, ErrExpired when
// the token's time ran out, ErrUnavailable when its epoch was retired. The
// reservation is then cancelled, so that the slot comes back.
func (r *Reservation) Seal(plain []byte) ([]byte, error) {
	if err := r.use(); err != nil {
		return nil, err
	}
	defer r.end()
	sealed, err := r.suite.Seal(r.start, r.key.Bytes(), plain, r.random)
	if err == nil {
		err = r.slot.valid()
	}
	if err == nil {
		return sealed, nil
	}
	_ = r.slot.cancel() // the sealed bytes are dropped here, whoever has the slot
	switch {
	case errors.Is(err, token.ErrTooLarge):
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(plain), MaxPlain)
	case errors.Is(err, ErrExpired):
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// Cancel gives the slot back. It returns ErrUsed after a Seal or a Cancel.
func (r *Reservation) Cancel() error {
	if err := r.use(); err != nil {
		return err
	}
	defer r.end()
	return r.slot.cancel()
}

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
	r.key.Wipe()
	r.slot.release()
}

// String says that this is a reservation, and nothing of its key.
func (r *Reservation) String() string { return "seal.Reservation" }
