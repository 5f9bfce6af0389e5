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
	return h.redeem(b, format, eventTakenBack, h.mayTakeBack)
}

// A permit says whether somebody may have a token, by what its header names.
// It takes values, so that the token stays off the heap.
type permit func(exporter uint32, to token.Audience) error

func (h *Host) open(b []byte, format string, may permit) (*memsafe.Secret, error) {
	return h.redeem(b, format, eventOpened, may)
}

// redeem authenticates, authorizes, claims: in this order, so that nothing but a
// token's own audience in its own time can spend it.
func (h *Host) redeem(b []byte, format, event string, may permit) (*memsafe.Secret, error) {
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
		h.unclaimed(&t, event, err)
		return nil, err
	}
	h.opened(&t, event)
	return plain, nil
}

// authenticate returns the plain token of an authentic one, unclaimed yet. The
// commitment is checked first, in little memory: what anybody can send takes no
// more of the pool than that.
func (h *Host) authenticate(e *keyring.Epoch, t *token.Token) (*memsafe.Secret, error) {
	if token.Suite(e.Suite()) != t.Suite {
		return nil, h.defective(t, "suite is not the epoch's")
	}
	key, err := h.keyOf(e, t)
	switch {
	case errors.Is(err, keyring.ErrRetired):
		return nil, h.defective(t, "epoch retired")
	case errors.Is(err, errHeader):
		return nil, h.defective(t, errHeader.Error())
	case err != nil:
		return nil, unavailable(err)
	}
	defer key.Wipe()
	return h.decrypt(t, key.Bytes())
}

// errHeader is the reason for the audit log; the caller gets ErrDefective.
var errHeader = errors.New("header not authentic")

// keyOf returns a token's key, which the caller wipes, once the commitment has
// shown that the header is ours: else errHeader. What the commitment should be
// is worth as much as a key where nobody has shown it.
func (h *Host) keyOf(e *keyring.Epoch, t *token.Token) (*memsafe.Secret, error) {
	keys, err := h.pool.Alloc(token.KeySize + token.CommitmentSize)
	if err != nil {
		return nil, err
	}
	enc, com := keys.Bytes()[:token.KeySize], keys.Bytes()[token.KeySize:]
	err = derive(e, t.Bound, enc, com)
	if err == nil && subtle.ConstantTimeCompare(com, t.Commitment) != 1 {
		err = errHeader
	}
	if err != nil {
		keys.Wipe()
		return nil, err
	}
	keys.Truncate(token.KeySize)
	return keys, nil
}

// derive fills in the key of a token with that header and context, and the
// commitment to it. The caller owns and wipes both.
func derive(e *keyring.Epoch, bound, enc, com []byte) error {
	return e.Derive(bound, keyring.Output{
		Label: token.EncLabel, Key: enc,
		Then: func() { token.Commit(com, enc) },
	})
}

// decrypt returns the plain token of one whose header is authentic.
func (h *Host) decrypt(t *token.Token, key []byte) (*memsafe.Secret, error) {
	plain, err := h.pool.Alloc(t.BodySize())
	if err != nil {
		return nil, unavailable(err)
	}
	n, err := t.Open(plain.Bytes(), key)
	if err != nil {
		plain.Wipe()
		if errors.Is(err, token.ErrOpen) {
			return nil, h.defective(t, "header genuine, body altered")
		}
		return nil, unavailable(err) // a mode that forbids the suite
	}
	plain.Truncate(n)
	return plain, nil
}

// mayOpen checks that this process is the token's audience.
func (h *Host) mayOpen(_ uint32, to token.Audience) error {
	self, err := h.self.user, error(nil)
	if to.Kind == kindProcess {
		self, err = h.self.process()
	}
	if err != nil {
		return err
	}
	return forAudience(to, self.kind == to.Kind && self.value == string(to.Value))
}

func (h *Host) mayTakeBack(exporter uint32, _ token.Audience) error {
	return forExporter(exporter, h.self.uid)
}

func forAudience(to token.Audience, is bool) error {
	if is {
		return nil
	}
	return fmt.Errorf("%w: it is for %v", ErrUnauthorized, fromWire(to))
}

func forExporter(exporter, uid uint32) error {
	if exporter == uid {
		return nil
	}
	return fmt.Errorf("%w: user %d reserved it", ErrUnauthorized, exporter)
}

// claim checks what is left to check of an authentic token and spends it. The
// clock is read again after the swap: a process that was stopped in between
// has spent the token and gets nothing.
func (h *Host) claim(e *keyring.Epoch, t *token.Token, format string, may permit) error {
	if err := h.inTime(e, t); err != nil {
		return err
	}
	if err := may(t.Exporter, t.Audience); err != nil {
		return err
	}
	if string(t.Format) != format {
		return fmt.Errorf("%w: it is %q, and %q was asked for", ErrFormat, t.Format, format)
	}
	if err := fromRing(e.Claim(keyring.Slot{Index: t.Slot, Word: t.Word})); err != nil {
		return err
	}
	if err := h.inTime(e, t); err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

func (h *Host) inTime(e *keyring.Epoch, t *token.Token) error {
	return fromRing(e.Valid(t.Expires))
}

// fromRing gives the keyring's answer about an epoch or a slot in the words of
// this package.
func fromRing(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keyring.ErrExpired):
		return ErrExpired
	case errors.Is(err, keyring.ErrSpent):
		return ErrSpent
	case errors.Is(err, keyring.ErrUnknown), errors.Is(err, keyring.ErrRetired):
		return ErrDefective
	}
	return unavailable(err)
}

// defective logs why and returns the one error that tells nobody.
func (h *Host) defective(t *token.Token, reason string) error {
	h.refused(t, reason)
	return ErrDefective
}
