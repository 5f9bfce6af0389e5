package secctx

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// tagSize is the length of the AEAD's tag at the end of a token, in bytes. The tag
// tells a token from every other one.
const tagSize = 16

// Export is the Export method of a wrapped context for a named audience (RFC 2743
// 2.2.8). The zero audience is the exporting user, whatever the Config says. Export
// waits for the calls under way on the context.
//
// On success the handle has no context any more: every call but Delete returns
// GSS_S_NO_CONTEXT. Names that the handle gave out stay good until Delete. This package
// keeps nothing of the plain token. Delegated credentials do not travel.
//
// On an error there is no token. These errors leave the context as it was:
//
//   - GSS_S_NO_CONTEXT: the handle has no context (exported, lost or deleted before), or
//     the context is not fully established
//   - GSS_S_UNAVAILABLE: the mechanism cannot transfer the context
//   - GSS_S_CONTEXT_EXPIRED: the context has expired
//   - GSS_S_FAILURE: the mechanism does not tell the context's lifetime
//   - ErrFormatUnknown (GSS_S_FAILURE)
//   - seal.ErrUnauthorized (GSS_S_UNAUTHORIZED)
//   - seal.ErrRequest, seal.ErrUnavailable and others of package seal (GSS_S_FAILURE).
//     If sealing failed after the mechanism had given up the context, the context was
//     imported back. It is equivalent, but has no delegated credential.
//   - the mechanism's own errors, unchanged: the context is as the mechanism left it
//
// ErrLost (GSS_S_NO_CONTEXT) says that the mechanism gave up the context and could not
// take it back. ErrNotWrapped (GSS_S_FAILURE) says that sc does not come from a wrapped
// provider.
//
// The token belongs to the caller, and is no secret. Safe for concurrent use: one caller
// gets the token.
//
// A token is worth nothing once its epoch is retired or its agent has ended. If that
// happens before the token is sealed, Export fails and the context is here. Through an
// agent this holds if it happened more than 50 microseconds before.
func Export(sc gssapi.SecContext, to seal.Party) ([]byte, error) {
	c, err := unwrap(sc)
	if err != nil {
		return nil, err
	}
	return c.export(to)
}

// TakeBack brings an exported context back behind the same handle, if nobody has
// imported its token yet. Of all imports and TakeBack one wins. The token is the one
// that the export of sc returned. The exporting user may take it back, whatever its
// audience is.
//
// After these errors the handle is as it was:
//
//   - seal.ErrSpent, seal.ErrExpired (GSS_S_NO_CONTEXT)
//   - seal.ErrDefective (GSS_S_DEFECTIVE_TOKEN), also for the token of another context
//   - seal.ErrUnauthorized (GSS_S_UNAUTHORIZED): another user exported the token
//   - seal.ErrUnavailable (GSS_S_FAILURE)
//   - GSS_S_FAILURE: the handle has its context
//   - ErrNotWrapped (GSS_S_FAILURE)
//
// ErrLost (GSS_S_NO_CONTEXT) says that the mechanism did not import its own token, or
// that the claim came too late. Safe for concurrent use.
func TakeBack(sc gssapi.SecContext, token []byte) error {
	c, err := unwrap(sc)
	if err != nil {
		return err
	}
	return c.takeBack(token)
}

// Status reports how a context stands, and changes nothing. The error is nil if Export
// would find a context to export. Otherwise it is the error that Export would return
// before it asks the sealer. A caller that has to wait before it exports asks first.
//
// The state is that of the token, between Export and TakeBack or Delete of the handle:
//
//   - seal.Outstanding: nobody has imported the token
//   - seal.Expired: nobody has imported it, and its time is over
//   - seal.Gone: it was imported, or it expired and its slot was reused
//   - seal.Unknown, because the sealer is an agent or the token's key is gone
//
// The state of any other handle is seal.Unknown. Status asks no other process. It waits for the
// calls under way on the handle. Safe for concurrent use.
func Status(sc gssapi.SecContext) (seal.State, error) {
	c, err := unwrap(sc)
	if err != nil {
		return seal.Unknown, err
	}
	c.gate.Lock()
	defer c.gate.Unlock()
	if c.state == live {
		_, _, err := c.exportable()
		return seal.Unknown, err
	}
	if c.state == exported {
		return c.slot.State(), errExported
	}
	return seal.Unknown, c.refusal()
}

func unwrap(sc gssapi.SecContext) (*secContext, error) {
	if w, ok := sc.(interface{ base() *secContext }); ok {
		return w.base(), nil
	}
	return nil, errNotWrapped
}

func (c *secContext) Export() ([]byte, error) { return c.export(c.p.audience) }

// export does everything that can fail before the mechanism gives up the context. If
// something fails afterwards, export undoes it.
func (c *secContext) export(to seal.Party) ([]byte, error) {
	if err := c.lock(); err != nil {
		return nil, err
	}
	defer c.unlock()
	format, lifetime, err := c.exportable()
	if err != nil {
		return nil, err
	}
	request := seal.Request{Format: format, Audience: to, Lifetime: lifetime}
	if c.mech != nil {
		request.Mechanism = c.mech.Oid()
	}
	r, err := answer(c.p.sealer.Reserve(request))
	if err != nil {
		return nil, refused(err)
	}
	// For every way out except a successful Seal; a panic of the mechanism is one. A
	// reservation that cannot be cancelled expires, and has no token.
	defer func() { _ = r.Cancel() }()

	c.settled = true // the mechanism may fail and be left without context
	c.state = gone   // while the context is in the plain token alone
	plain, err := c.inner.Export()
	defer memsafe.Wipe(plain)
	if err != nil {
		c.state = live
		return nil, err
	}
	if len(plain) == 0 {
		return nil, lost(errEmptyToken)
	}
	token, err := r.Seal(plain)
	if err != nil {
		return nil, c.restore(plain, err)
	}
	c.state, c.slot = exported, r
	copy(c.sealed[:], token[len(token)-tagSize:])
	return token, nil
}

// exportable returns the plain format of a token of the context, and the longest
// lifetime of the token.
func (c *secContext) exportable() (format string, lifetime time.Duration, err error) {
	if !c.established {
		return "", 0, errHalf
	}
	if !c.transferable {
		return "", 0, errUntransferable
	}
	if lifetime, err = c.lifetime(); err != nil {
		return "", 0, err
	}
	formats, err := c.p.exportFormats()
	if err != nil {
		return "", 0, err
	}
	return formats[0], lifetime, nil
}

// lifetime returns the configured lifetime of tokens, cut to the context's own.
func (c *secContext) lifetime() (time.Duration, error) {
	expiry, err := answer(c.inner.ExpiresAt())
	if err != nil {
		return 0, err
	}
	switch expiry.Status {
	case gssapi.GssLifetimeIndefinite:
		return c.p.lifetime, nil
	case gssapi.GssLifetimeAvailable:
		if left := time.Until(expiry.ExpiresAt); left > 0 {
			return min(left, c.p.lifetime), nil
		}
	}
	return 0, errExpired
}

// restore brings the context back from its plain token after sealing failed. A failed
// Seal has let no sealed byte out, so no other process can have the context.
func (c *secContext) restore(plain []byte, why error) error {
	inner, err := answer(c.p.inner.ImportSecContext(plain))
	if err != nil {
		return lost(fmt.Errorf("sealing: %w; importing it back: %w", why, err))
	}
	c.replace(inner)
	return refused(why)
}

// replace puts a context in the place of the one that the mechanism gave up. What is
// left of that one stays only if the caller may hold names of it.
func (c *secContext) replace(inner gssapi.SecContext) {
	if c.named {
		c.kept = append(c.kept, c.inner)
	} else {
		_ = deleteKept(c.inner) // an error here does not matter: the context is back
	}
	c.inner, c.state, c.named = inner, live, false
}

func (c *secContext) takeBack(token []byte) error {
	c.gate.Lock()
	defer c.gate.Unlock()
	switch {
	case c.state == live:
		return errNotExported
	case c.state != exported:
		return c.refusal()
	case len(token) < tagSize || [tagSize]byte(token[len(token)-tagSize:]) != c.sealed:
		return errDefective // another token would bring another context behind this handle
	}
	formats, err := c.p.exportFormats() // known since the export
	if err != nil {
		return err
	}
	plain, err := c.p.sealer.TakeBack(token, formats[0])
	if errors.Is(err, seal.ErrLost) {
		c.state = gone
	}
	if err != nil {
		return unopened(err)
	}
	c.state = gone
	inner, err := c.p.importPlain(plain)
	if err != nil {
		return lost(err)
	}
	c.replace(inner)
	return nil
}
