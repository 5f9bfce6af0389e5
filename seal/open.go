package seal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
)

// Open is described at Sealer.
func (h *Host) Open(b []byte, formats ...string) (*memsafe.Secret, error) {
	return h.open(opening, b, nil, formats)
}

// OpenFrom is described at Sealer.
func (h *Host) OpenFrom(exporters []Party, b []byte, formats ...string) (*memsafe.Secret, error) {
	if err := h.checkExporters(exporters); err != nil {
		return nil, err
	}
	return h.open(opening, b, exporters, formats)
}

// TakeBack is described at Sealer.
func (h *Host) TakeBack(b []byte, formats ...string) (*memsafe.Secret, error) {
	return h.open(takingBack, b, nil, formats)
}

// open is the way from a token's bytes to its plain token (doc/SPEC.md, section 9).
// Nothing before the claim changes anything, so only the token's audience can spend it,
// and only in its time. After the claim the token is spent. open refuses it then only if
// it came too late.
func (h *Host) open(op operation, b []byte, exporters []Party, formats []string) (*memsafe.Secret, error) {
	// The bytes are a token's.
	t, err := token.Parse(b)
	if err != nil {
		h.refused(nil, "malformed")
		return nil, ErrDefective
	}

	// Its key is alive.
	e, err := h.epochOf(&t)
	if err != nil {
		if errors.Is(err, ErrDefective) {
			h.refused(&t, "epoch unknown or retired")
		}
		return nil, err
	}
	defer e.Release()

	// It is authentic.
	plain, err := h.authenticate(e, &t)
	if err != nil {
		return nil, err
	}

	// It is in time. It is for the process that asks, of an exporter that this process
	// takes tokens from, and of a format that its mechanism reads.
	now, err := h.ring.Now()
	switch {
	case err != nil:
		err = unavailable(err)
	case now >= t.Expires:
		err = ErrExpired
	default:
		err = h.authorize(op, t.Header, exporters)
	}
	if err == nil && !slices.Contains(formats, string(t.Format)) {
		err = fmt.Errorf("%w: it is %q, and %q was asked for", ErrFormat, t.Format, strings.Join(formats, " or "))
	}

	// The claim. Of all calls that get here with the same token, one goes on.
	if err == nil {
		err = fromRing(e.ClaimRecent(keyring.Slot{Index: t.Slot, Word: t.Word}, now))
	}

	// It is still in time, and its key alive. This process may have been stopped before.
	if err == nil {
		if late := fromRing(e.Valid(t.Expires)); late != nil {
			err = fmt.Errorf("%w: %w", ErrLost, late)
		}
	}
	if err != nil {
		plain.Wipe()
		h.unclaimed(&t, op, err)
		return nil, err
	}
	h.opened(&t, op)
	return plain, nil
}

// Reasons for the audit log; the caller gets ErrDefective.
var (
	errHeader = errors.New("header not authentic")
	errBody   = errors.New("header genuine, body altered")
)

// authenticate returns the plain token of an authentic token. It passes a function to
// the keyring, which lends the key: the key stays in the keyring's locked memory, and is
// wiped there.
func (h *Host) authenticate(e *keyring.Epoch, t *token.Token) (*memsafe.Secret, error) {
	if e.Suite() != t.Suite {
		h.refused(t, "suite is not the epoch's")
		return nil, ErrDefective
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
		h.refused(t, "epoch retired")
		return nil, ErrDefective
	case errors.Is(err, errHeader), errors.Is(err, errBody):
		h.refused(t, err.Error())
		return nil, ErrDefective
	}
	return nil, unavailable(err)
}

// genuine derives the key of a token and returns errHeader unless the token's
// commitment is to this key, which shows that the header is ours. It then lends the
// key to use, unless that is nil. A header that anyone can make up takes no memory of
// the pool.
func genuine(e *keyring.Epoch, t *token.Token, use func(key []byte) error) error {
	return e.Derive(token.EncLabel, t.Bound, func(key []byte) error {
		if !t.CommitsTo(key) {
			return errHeader
		}
		return nil
	}, use)
}

// decrypt returns the plain token of a token whose header is authentic, or errBody.
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

// epochOf finds the epoch of a token. If none is alive, the error wraps ErrDefective
// and says where it looked. The epoch's id is in clear in the token, so this tells
// the token's sender nothing, and its reader which mistake of configuration it was.
func (h *Host) epochOf(t *token.Token) (*keyring.Epoch, error) {
	e, err := h.ring.Epoch(t.Epoch)
	if err = fromRing(err); err == ErrDefective { //nolint:errorlint // ours, unwrapped
		return nil, fmt.Errorf("%w: no living key %x in the %v of user %d; it was sealed elsewhere, or the key was retired", ErrDefective, t.Epoch, h, os.Geteuid())
	}
	return e, err
}

// fromRing gives the keyring's answer about an epoch or a slot in the words of this
// package.
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
