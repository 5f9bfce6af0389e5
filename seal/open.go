package seal

import (
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
)

// Open is described at Sealer.
func (h *Host) Open(b []byte, format string) (*memsafe.Secret, error) {
	return h.open(b, format, h.mayOpen)
}

// TakeBack is described at Sealer.
func (h *Host) TakeBack(b []byte, format string) (*memsafe.Secret, error) {
	return h.open(b, format, h.mayTakeBack)
}

func (h *Host) mayOpen(t *token.Token) error {
	audience := fromWire(t.Audience)
	switch audience.kind {
	case kindUser:
		if audience == User(h.self.uid) {
			return nil
		}
	case kindProcess:
		self, err := h.self.process()
		if err != nil {
			return err
		}
		if audience == self {
			return nil
		}
	}
	return fmt.Errorf("%w: it is for %v", ErrUnauthorized, audience)
}

func (h *Host) mayTakeBack(t *token.Token) error {
	if t.Exporter == h.self.uid {
		return nil
	}
	return fmt.Errorf("%w: user %d reserved it", ErrUnauthorized, t.Exporter)
}

// open authenticates, authorizes, claims: in this order, so that nothing but a
// token's own audience in its own time can spend it.
func (h *Host) open(b []byte, format string, may func(*token.Token) error) (*memsafe.Secret, error) {
	t, err := token.Parse(b)
	if err != nil {
		return nil, h.defective(nil, "malformed")
	}
	e, err := h.ring.Epoch(t.Epoch)
	if err != nil {
		if errors.Is(err, keyring.ErrUnknown) || errors.Is(err, keyring.ErrRetired) {
			return nil, h.defective(&t, "epoch unknown or retired")
		}
		return nil, unavailable(err)
	}
	defer e.Release()
	plain, err := h.authenticate(e, &t)
	if err != nil {
		return nil, err
	}
	if err := h.claim(e, &t, format, may); err != nil {
		plain.Wipe()
		h.refused(&t, err.Error())
		return nil, err
	}
	h.opened(&t)
	return plain, nil
}

// authenticate returns the plain token of an authentic one, unclaimed yet.
func (h *Host) authenticate(e *keyring.Epoch, t *token.Token) (*memsafe.Secret, error) {
	if token.Suite(e.Suite()) != t.Suite {
		return nil, h.defective(t, "suite is not the epoch's")
	}
	keys, err := h.pool.Alloc(token.KeySize + token.CommitmentSize)
	if err != nil {
		return nil, unavailable(err)
	}
	defer keys.Wipe()
	enc, com := keys.Bytes()[:token.KeySize], keys.Bytes()[token.KeySize:]
	err = e.Derive(t.Bound,
		keyring.Output{Label: token.EncLabel, Key: enc},
		keyring.Output{Label: token.ComLabel, Key: com})
	switch {
	case errors.Is(err, keyring.ErrRetired):
		return nil, h.defective(t, "epoch retired")
	case err != nil:
		return nil, unavailable(err)
	case subtle.ConstantTimeCompare(com, t.Commitment) != 1:
		return nil, h.defective(t, "header not authentic")
	}
	plain, err := h.pool.Alloc(t.BodySize())
	if err != nil {
		return nil, unavailable(err)
	}
	n, err := t.Open(plain.Bytes(), enc)
	if err != nil {
		plain.Wipe()
		return nil, h.defective(t, "header genuine, body altered")
	}
	plain.Truncate(n)
	return plain, nil
}

// claim checks what is left to check of an authentic token and spends it. The
// clock is read again after the swap: a process that was stopped in between
// has spent the token and gets nothing.
func (h *Host) claim(e *keyring.Epoch, t *token.Token, format string, may func(*token.Token) error) error {
	if err := h.inTime(e, t); err != nil {
		return err
	}
	if err := may(t); err != nil {
		return err
	}
	if t.Format != format {
		return fmt.Errorf("%w: it is %q, and %q was asked for", ErrFormat, t.Format, format)
	}
	err := e.Claim(keyring.Slot{Index: t.Slot, Word: t.Word})
	switch {
	case errors.Is(err, keyring.ErrSpent):
		return ErrSpent
	case errors.Is(err, keyring.ErrRetired):
		return ErrDefective
	case err != nil:
		return unavailable(err)
	}
	return h.inTime(e, t)
}

func (h *Host) inTime(e *keyring.Epoch, t *token.Token) error {
	err := e.Valid(t.Expires)
	switch {
	case errors.Is(err, keyring.ErrSpent):
		return ErrExpired
	case errors.Is(err, keyring.ErrRetired):
		return ErrDefective
	case err != nil:
		return unavailable(err)
	}
	return nil
}

// defective logs why and returns the one error that tells nobody.
func (h *Host) defective(t *token.Token, reason string) error {
	h.refused(t, reason)
	return ErrDefective
}
