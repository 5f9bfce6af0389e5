package keyring

import (
	"errors"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
)

// Info says how an epoch stands. None of it is secret.
type Info struct {
	ID          [16]byte
	Suite       suite.Suite
	Seals       bool          // tokens are sealed under it; else it only opens what is outstanding
	Age         time.Duration // since it was made
	Outstanding int           // tokens that can still be claimed
	Capacity    int           // tokens that can be outstanding
	MaxLifetime time.Duration // the longest lifetime of a token
}

// Epochs lists the epochs that are alive, oldest first. It makes none, and
// retires those whose time is over. It reads every register whole. Errors:
// ErrClosed, ErrOtherBoot, and those of reading the directory.
func (r *Ring) Epochs() ([]Info, error) {
	now, err := r.clock.Now()
	if err != nil {
		return nil, err
	}
	if err := r.lockFresh(now); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	if err := r.makeable(); err != nil {
		return nil, err
	}
	var list []Info
	for _, e := range r.sorted() {
		n, err := e.Outstanding()
		switch {
		case errors.Is(err, ErrDamaged): // truncated this moment; the next refresh drops it
			continue
		case err != nil:
			return nil, err
		}
		list = append(list, Info{
			ID: e.id, Suite: e.suite, Seals: e == r.latest, Age: now - e.birth,
			Outstanding: n, Capacity: e.fixed.outstanding, MaxLifetime: e.maxLifetime,
		})
	}
	return list, nil
}
