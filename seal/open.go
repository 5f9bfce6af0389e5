package seal

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
)

// Open is described at Sealer.
func (h *Host) Open(b []byte, formats ...string) (*memsafe.Secret, error) {
	return h.redeem(b, formats, eventOpened, h.mayOpen)
}

// OpenFrom is described at Sealer.
func (h *Host) OpenFrom(exporters []Party, b []byte, formats ...string) (*memsafe.Secret, error) {
	if err := checkExporters(exporters); err != nil {
		return nil, err
	}
	for _, e := range exporters {
		if e.kind != token.KindUser {
			return nil, fmt.Errorf("%w: %v as exporter needs the agent; here only a user can be demanded", ErrAudience, e)
		}
	}
	return h.redeem(b, formats, eventOpened, func(t token.Header) error {
		if err := h.mayOpen(t); err != nil {
			return err
		}
		return demand(t, exporters, func(p Party) (bool, error) { return p == User(t.Exporter), nil })
	})
}

// TakeBack is described at Sealer.
func (h *Host) TakeBack(b []byte, formats ...string) (*memsafe.Secret, error) {
	return h.redeem(b, formats, eventTakenBack, h.mayTakeBack)
}

// A permit says whether somebody may have a token, by what its header names.
// It takes a value, so that the token stays off the heap.
type permit func(token.Header) error

// checkExporters refuses a demand that no exporter can meet or that cannot be sent.
func checkExporters(exporters []Party) error {
	if n := len(exporters); n == 0 || n > token.MaxExporters {
		return fmt.Errorf("%w: %d exporters, 1 to %d can be demanded", ErrRequest, n, token.MaxExporters)
	}
	for _, e := range exporters {
		if !e.valid() || e.kind == token.KindProcess {
			return fmt.Errorf("%w: %v as exporter; a user, a group or a service can be demanded", ErrAudience, e)
		}
	}
	return nil
}

// demand returns nil if is reports one of exporters as the token's.
func demand(t token.Header, exporters []Party, is func(Party) (bool, error)) error {
	for _, e := range exporters {
		if yes, err := is(e); yes || err != nil {
			return err
		}
	}
	names := make([]string, len(exporters))
	for i, e := range exporters {
		names[i] = e.String()
	}
	return fmt.Errorf("%w: user %d exported it, and %s is demanded", ErrUnauthorized, t.Exporter, strings.Join(names, " or "))
}

// redeem authenticates, authorizes, claims: in this order, so that nothing but a
// token's own audience in its own time can spend it.
func (h *Host) redeem(b []byte, formats []string, event string, may permit) (*memsafe.Secret, error) {
	t, err := token.Parse(b)
	if err != nil {
		return nil, h.defective(nil, "malformed")
	}
	e, err := h.epochOf(&t)
	if errors.Is(err, ErrDefective) {
		h.refused(&t, "epoch unknown or retired")
	}
	if err != nil {
		return nil, err
	}
	defer e.Release()
	plain, err := h.authenticate(e, &t)
	if err != nil {
		return nil, err
	}
	if err := h.claim(e, &t, formats, may); err != nil {
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
	if suite.Suite(e.Suite()) != t.Suite {
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
func (h *Host) mayOpen(t token.Header) error {
	to := t.Audience
	self, err := h.self.user, error(nil)
	if to.Kind == token.KindProcess {
		self, err = h.self.process()
	}
	if err != nil {
		return err
	}
	return forAudience(to, self.kind == to.Kind && self.value == string(to.Value))
}

func (h *Host) mayTakeBack(t token.Header) error {
	return forExporter(t.Exporter, h.self.uid)
}

func forAudience(to token.Audience, is bool) error {
	if is {
		return nil
	}
	return fmt.Errorf("%w: token for another audience: it is for %v", ErrUnauthorized, fromWire(to))
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
func (h *Host) claim(e *keyring.Epoch, t *token.Token, formats []string, may permit) error {
	now, err := h.ring.Now()
	if err != nil {
		return unavailable(err)
	}
	if now >= t.Expires {
		return ErrExpired
	}
	if err := may(t.Header); err != nil {
		return err
	}
	if !isOneOf(t.Format, formats) {
		return fmt.Errorf("%w: it is %q, and %q was asked for", ErrFormat, t.Format, strings.Join(formats, " or "))
	}
	if err := fromRing(e.ClaimAt(keyring.Slot{Index: t.Slot, Word: t.Word}, now)); err != nil {
		return err
	}
	if err := h.inTime(e, t); err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return nil
}

func isOneOf(format []byte, formats []string) bool {
	for _, f := range formats {
		if f == string(format) {
			return true
		}
	}
	return false
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
