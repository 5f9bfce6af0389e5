package seal

import (
	"errors"
	"fmt"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
)

// A State is how a token stands.
type State int

// The states of a token. The agent's protocol has the same numbers.
const (
	Unknown     State = iota // this process cannot tell without asking another
	Outstanding              // it can be opened
	Gone                     // it was opened, taken back or cancelled, or it expired and its slot was reused
	Expired                  // its time is over
)

var stateNames = [...]string{Unknown: "unknown", Outstanding: "outstanding", Gone: "gone", Expired: "expired"}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state %d", int(s))
	}
	return stateNames[s]
}

// Status authenticates a token and tells how it stands, without spending it. Of an
// expired token it does not tell whether it was opened before. An answer may be
// outdated when it is read. The error wraps ErrDefective, ErrUnavailable or, of an
// agent, ErrUnauthorized: an agent tells only the token's exporter, its audience, root
// and the agent's own user.
func (h *Host) Status(b []byte) (State, error) {
	t, err := token.Parse(b)
	if err != nil {
		return Unknown, ErrDefective
	}
	e, err := h.epochOf(&t)
	if err != nil {
		return Unknown, err
	}
	defer e.Release()
	plain, err := h.authenticate(e, &t)
	if err != nil {
		return Unknown, err
	}
	plain.Wipe()
	if err := h.authorize(inspecting, t.Header, nil); err != nil {
		return Unknown, err
	}
	return state(e, &t)
}

// state asks the clock before the register: a token that expires between the two is
// outstanding.
func state(e *keyring.Epoch, t *token.Token) (State, error) {
	timely := fromRing(e.Valid(t.Expires))
	if timely != nil && !errors.Is(timely, ErrExpired) {
		return Unknown, timely
	}
	held, err := e.Holds(keyring.Slot{Index: t.Slot, Word: t.Word})
	switch {
	case errors.Is(err, keyring.ErrRetired):
		return Unknown, ErrDefective
	case err != nil:
		return Unknown, unavailable(err)
	case timely != nil:
		return Expired, nil
	case held:
		return Outstanding, nil
	}
	return Gone, nil
}

// Cancel gives back the slot of a reservation that was not sealed, by the Start of
// its Grant, to the user who reserved. The commitment in it shows that it is one of
// ours. The error wraps ErrDefective, ErrUnauthorized, ErrSpent or ErrUnavailable.
// Package agent uses it; Reservation.Cancel does this for all others.
func (h *Host) Cancel(start []byte) error {
	head, commitment, err := token.ParseHeader(start)
	if err != nil || len(commitment) != token.CommitmentSize {
		return ErrDefective
	}
	t := &token.Token{Header: head, Bound: start[:len(start)-len(commitment)], Commitment: commitment}
	e, err := h.epochOf(t)
	if err != nil {
		return err
	}
	defer e.Release()
	err = genuine(e, t, nil)
	switch {
	case errors.Is(err, keyring.ErrRetired), errors.Is(err, errHeader):
		return ErrDefective
	case err != nil:
		return unavailable(err)
	}
	if err := h.authorize(cancelling, t.Header, nil); err != nil {
		return err
	}
	return fromRing(e.ClaimFresh(keyring.Slot{Index: t.Slot, Word: t.Word}))
}
