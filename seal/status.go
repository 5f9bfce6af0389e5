package seal

import (
	"errors"
	"fmt"
	"os"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
)

// A State is how an authentic token stands.
type State uint8

// The states of a token.
const (
	Outstanding State = 1 // it can be opened
	Spent       State = 2 // it was opened, cancelled or taken back
	Expired     State = 3 // its time is over; whether it was opened before is not told any more
)

func (s State) String() string {
	switch s {
	case Outstanding:
		return "outstanding"
	case Spent:
		return "spent"
	case Expired:
		return "expired"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Status authenticates a token and tells how it stands, without spending it and
// whoever it is for. What it says of an outstanding token may be over by the
// time it is read. Errors: ErrDefective, ErrUnavailable.
func (h *Host) Status(b []byte) (Header, State, error) {
	return h.status(b, func(token.Header) error { return nil })
}

// StatusFor is Status for a peer of the agent: ErrUnauthorized unless it is the
// token's exporter or audience.
func (h *Host) StatusFor(p Peer, b []byte) (Header, State, error) {
	return h.status(b, func(t token.Header) error {
		return forAudience(t.Audience, t.Exporter == p.UID || p.is(t.Audience))
	})
}

func (h *Host) status(b []byte, may permit) (Header, State, error) {
	t, err := token.Parse(b)
	if err != nil {
		return Header{}, 0, ErrDefective
	}
	e, err := h.epochOf(&t)
	if err != nil {
		return Header{}, 0, err
	}
	defer e.Release()
	plain, err := h.authenticate(e, &t)
	if err != nil {
		return Header{}, 0, err
	}
	plain.Wipe()
	if err := may(t.Header); err != nil {
		return Header{}, 0, err
	}
	head, err := Inspect(b)
	if err != nil {
		return Header{}, 0, err
	}
	state, err := h.state(e, &t)
	return head, state, err
}

// state asks the clock before the register: a token that expires between the
// two is outstanding.
func (h *Host) state(e *keyring.Epoch, t *token.Token) (State, error) {
	timely := h.inTime(e, t)
	if timely != nil && !errors.Is(timely, ErrExpired) {
		return 0, timely
	}
	held, err := e.Holds(keyring.Slot{Index: t.Slot, Word: t.Word})
	switch {
	case errors.Is(err, keyring.ErrRetired):
		return 0, ErrDefective
	case err != nil:
		return 0, unavailable(err)
	case timely != nil:
		return Expired, nil
	case held:
		return Outstanding, nil
	}
	return Spent, nil
}

// epochOf finds the epoch of a token. If none is alive, the error wraps
// ErrDefective and says where it looked: the id is in clear in the token, so this
// tells its sender nothing, and the reader which mistake of configuration it was.
func (h *Host) epochOf(t *token.Token) (*keyring.Epoch, error) {
	e, err := h.ring.Epoch(t.Epoch)
	if err = fromRing(err); err == ErrDefective { //nolint:errorlint // ours, unwrapped
		return nil, fmt.Errorf("%w: no living key %x in %s; it was sealed elsewhere, or the key was retired",
			ErrDefective, t.Epoch, h.place())
	}
	return e, err
}

// place says where the host's keys are, for people.
func (h *Host) place() string {
	if dir := h.ring.Dir(); dir != "" {
		return fmt.Sprintf("%s, the keyring of user %d", dir, h.self.uid)
	}
	return fmt.Sprintf("the memory of process %d", os.Getpid())
}

// CancelFor gives back the slot of a reservation that was never sealed, for the
// peer of the agent that made it. start is the Grant's. The commitment in it
// shows that it is one of ours. Errors: ErrDefective, ErrUnauthorized,
// ErrSpent, ErrUnavailable.
func (h *Host) CancelFor(p Peer, start []byte) error {
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
	if err := forExporter(t.Exporter, p.UID); err != nil {
		return err
	}
	return fromRing(e.Claim(keyring.Slot{Index: t.Slot, Word: t.Word}))
}
