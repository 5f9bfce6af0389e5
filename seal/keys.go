package seal

import (
	"errors"
	"fmt"
	"time"

	"github.com/sealctx/sealctx/keyring"
)

// A Key says how a host key stands. None of it is secret.
type Key struct {
	ID          [16]byte
	Suite       string        // its AEAD
	Seals       bool          // new tokens are sealed under it; false: it only opens
	Age         time.Duration // since it was made
	Outstanding int           // tokens that can still be opened
	Capacity    int           // tokens that can be outstanding
	MaxLifetime time.Duration // the longest lifetime of a token
}

// Keys lists the living keys, the oldest first. It makes none, and retires those
// whose last token has expired. It reads every register whole. Its error wraps
// ErrUnavailable.
func (h *Host) Keys() ([]Key, error) {
	infos, err := h.ring.Epochs()
	if err != nil {
		return nil, unavailable(err)
	}
	keys := make([]Key, len(infos))
	for i, e := range infos {
		keys[i] = Key{
			ID: e.ID, Suite: e.Suite.String(), Seals: e.Seals, Age: e.Age,
			Outstanding: e.Outstanding, Capacity: e.Capacity, MaxLifetime: e.MaxLifetime,
		}
	}
	return keys, nil
}

// Rotate makes the next key. The one before it still opens its outstanding tokens.
// Reserve rotates by itself when a key is old enough. The error wraps
// ErrUnavailable, also if 16 keys are alive.
func (h *Host) Rotate() error {
	if err := h.ring.Rotate(); err != nil {
		return unavailable(err)
	}
	return nil
}

// Retire ends a key now. Its outstanding tokens are worthless from now on. The
// error wraps ErrRequest if no living key has this id. Any other error wraps
// ErrUnavailable.
func (h *Host) Retire(id [16]byte) error {
	err := h.ring.Retire(id)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keyring.ErrUnknown), errors.Is(err, keyring.ErrRetired):
		return fmt.Errorf("%w: no living key %x in the %v", ErrRequest, id, h)
	}
	return unavailable(err)
}

// Refresh rotates and retires what is due, if there is a key. Reserve does so too:
// Refresh is for a program that holds keys for others and may not be asked for
// long, such as the agent. Its error wraps ErrUnavailable.
func (h *Host) Refresh() error {
	epochs, err := h.ring.Epochs()
	if err == nil && len(epochs) > 0 {
		var e *keyring.Epoch
		if e, err = h.ring.Current(); err == nil {
			e.Release()
		}
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}
