package seal

import (
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
	e, err := h.epochOf(&t)
	if err == ErrDefective { //nolint:errorlint // ours, unwrapped
		return nil, h.defective(&t, "epoch unknown or retired")
	}
	if err != nil {
		return nil, err
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

// Reasons for the audit log; the caller gets ErrDefective.
var (
	errHeader = errors.New("header not authentic")
	errBody   = errors.New("header genuine, body altered")
)

// authenticate returns the plain token of an authentic one, unclaimed yet.
func (h *Host) authenticate(e *keyring.Epoch, t *token.Token) (*memsafe.Secret, error) {
	if token.Suite(e.Suite()) != t.Suite {
		return nil, h.defective(t, "suite is not the epoch's")
	}
	var plain *memsafe.Secret
	err := genuine(e, t, func(key []byte) (err error) {
		plain, err = h.decrypt(t, key)
		return err
	})
	switch {
	case err == nil:
		return plain, nil
	case errors.Is(err, keyring.ErrRetired):
		return nil, h.defective(t, "epoch retired")
	case errors.Is(err, errHeader), errors.Is(err, errBody):
		return nil, h.defective(t, err.Error())
	}
	return nil, unavailable(err)
}

// genuine lends use, unless that is nil, the key of a token, as keyring.Epoch.Derive
// does, once the commitment has shown that the header is ours: else errHeader. What
// anybody can make up takes no memory of the pool.
func genuine(e *keyring.Epoch, t *token.Token, use func(key []byte) error) error {
	return e.Derive(token.EncLabel, t.Bound, func(key []byte) error {
		if !t.CommitsTo(key) {
			return errHeader
		}
		return nil
	}, use)
}

// decrypt returns the plain token of one whose header is authentic: else errBody.
func (h *Host) decrypt(t *token.Token, key []byte) (*memsafe.Secret, error) {
	plain, err := h.pool.Alloc(t.BodySize())
	if err != nil {
		return nil, err
	}
	n, err := t.Open(plain.Bytes(), key)
	if err != nil {
		plain.Wipe()
		if errors.Is(err, token.ErrOpen) {
			err = errBody
		}
		return nil, err // or a mode that forbids the suite
	}
	plain.Truncate(n)
	return plain, nil
}

// mayOpen checks that this process is the token's audience.
func (h *Host) mayOpen(_ uint32, to token.Audience) error {
	self, err := h.self.user, error(nil)
	if to.Kind == token.KindProcess {
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
	now, err := h.ring.Now()
	if err != nil {
		return unavailable(err)
	}
	if now >= t.Expires {
		return ErrExpired
	}
	if err := may(t.Exporter, t.Audience); err != nil {
		return err
	}
	if string(t.Format) != format {
		return fmt.Errorf("%w: it is %q, and %q was asked for", ErrFormat, t.Format, format)
	}
	if err := fromRing(e.ClaimAt(keyring.Slot{Index: t.Slot, Word: t.Word}, now)); err != nil {
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
