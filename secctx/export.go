package secctx

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// tagSize is how much of a token's end tells it from every other: the tag of
// its AEAD.
const tagSize = 16

// Export is the Export method of a wrapped context, for a named audience (RFC
// 2743 2.2.8): the zero one is the exporting user, whatever the Config says. It
// waits for calls under way on the context. On success the handle has no
// context any more: every call but Delete answers GSS_S_NO_CONTEXT, and names
// that were obtained from it stay good until Delete. Of the plain token nothing
// is left in this package's hands. Delegated credentials do not travel.
//
// On an error there is no token. Errors that leave the context as it was:
//
//   - GSS_S_NO_CONTEXT: there is none (exported, lost or deleted before), or it
//     is not fully established
//   - GSS_S_UNAVAILABLE: the mechanism cannot transfer the context
//   - GSS_S_CONTEXT_EXPIRED; GSS_S_FAILURE where the mechanism tells no lifetime
//   - seal.ErrAudience, seal.ErrUnavailable and the like: GSS_S_FAILURE, or
//     GSS_S_UNAUTHORIZED with seal.ErrUnauthorized. If sealing failed after the
//     mechanism had given up the context, it was imported back: equivalent, but
//     without delegated credentials
//   - ErrFormatUnknown: GSS_S_FAILURE
//   - the mechanism's own, as it is: the context is as the mechanism left it
//
// And ErrLost (GSS_S_NO_CONTEXT): the mechanism gave up the context and could
// not take it back. A context that is not of a wrapped provider is
// ErrNotWrapped (GSS_S_FAILURE). The token is the caller's and no secret, see
// the package's comment. Safe for concurrent use: one caller gets it.
//
// A token is worth nothing once its epoch is retired or its agent has ended. If
// that happens before the token is sealed, Export fails and the context is here;
// through an agent, if it happened more than 50 microseconds before.
func Export(sc gssapi.SecContext, to seal.Audience) ([]byte, error) {
	c, err := unwrap(sc)
	if err != nil {
		return nil, err
	}
	return c.export(to)
}

// Exportable reports whether Export would find a context to export, without exporting
// it: it returns the error that Export would return before it asks the sealer, or nil.
// A caller that has to wait before it exports asks this first. Safe for concurrent use.
func Exportable(sc gssapi.SecContext) error {
	c, err := unwrap(sc)
	if err != nil {
		return err
	}
	if err := c.alone(); err != nil {
		return err
	}
	defer c.unalone()
	_, err = c.exportable()
	return err
}

// TakeBack brings an exported context back behind the same handle, if nobody
// has imported its token yet: of all imports and TakeBack one wins. Token is
// what Export made of sc. Whoever exported may take back, whatever the
// audience. Errors, as of ImportSecContext: seal.ErrSpent and seal.ErrExpired
// (GSS_S_NO_CONTEXT), seal.ErrDefective (GSS_S_DEFECTIVE_TOKEN), also for the
// token of another context, seal.ErrUnauthorized (GSS_S_UNAUTHORIZED) for another
// user than the one that exported, seal.ErrUnavailable (GSS_S_FAILURE); after
// these the handle is as it was. ErrLost (GSS_S_NO_CONTEXT) if the mechanism did
// not import its own token, or the claim came too late. A handle that has its
// context answers GSS_S_FAILURE, and so does ErrNotWrapped.
// Safe for concurrent use.
func TakeBack(sc gssapi.SecContext, token []byte) error {
	c, err := unwrap(sc)
	if err != nil {
		return err
	}
	return c.takeBack(token)
}

// Outstanding reports, asking nobody, whether the token of an exported context still
// has its place in the register: then nobody has imported it, though it may have
// expired. Known and not yes says that it was imported or taken back, or expired and
// lost its place. It is known only between Export and TakeBack or Delete of the
// handle, and where the sealer is a seal.Host whose epoch lives; yes and known are
// false for an agent's tokens and for what is not wrapped. It waits for calls that
// change the handle. Safe for concurrent use.
func Outstanding(sc gssapi.SecContext) (yes, known bool) {
	c, err := unwrap(sc)
	if err != nil {
		return false, false
	}
	c.gate.RLock()
	defer c.gate.RUnlock()
	if c.state != exported {
		return false, false
	}
	return c.slot.Outstanding()
}

func unwrap(sc gssapi.SecContext) (*secContext, error) {
	if w, ok := sc.(interface{ base() *secContext }); ok {
		return w.base(), nil
	}
	return nil, errNotWrapped
}

func (c *secContext) Export() ([]byte, error) { return c.export(c.p.audience) }

// export does everything that can fail before the mechanism gives up the
// context, and undoes what fails after.
func (c *secContext) export(to seal.Audience) ([]byte, error) {
	if err := c.alone(); err != nil {
		return nil, err
	}
	defer c.unalone()
	lifetime, err := c.exportable()
	if err != nil {
		return nil, err
	}
	formats, err := c.p.exportFormats()
	if err != nil {
		return nil, err
	}
	request := seal.Request{Format: formats[0], Audience: to, Lifetime: lifetime}
	if c.mech != nil {
		request.Mechanism = c.mech.Oid()
	}
	r, err := answer(c.p.sealer.Reserve(request))
	if err != nil {
		return nil, refused(err)
	}
	// For every way out but a successful Seal, a panic of the mechanism among
	// them. What cannot be cancelled expires, and no token of it exists.
	defer func() { _ = r.Cancel() }()

	c.settled = true // the mechanism may fail and be left without context
	c.state = gone   // for as long as the context is in nothing but plain
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

// exportable returns the longest lifetime of a token of the context.
func (c *secContext) exportable() (time.Duration, error) {
	if !c.established {
		return 0, errHalf
	}
	if !c.transferable {
		return 0, errUntransferable
	}
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

// restore brings the context back from its plain token after sealing failed. A
// failed Seal has let no sealed byte out, so nobody else can have it.
func (c *secContext) restore(plain []byte, why error) error {
	inner, err := answer(c.p.inner.ImportSecContext(plain))
	if err != nil {
		return lost(fmt.Errorf("sealing: %w; importing it back: %w", why, err))
	}
	c.replace(inner)
	return refused(why)
}

// replace puts a context in the place of the one that the mechanism gave up,
// whose leftovers must stay only where the caller may hold names of them.
func (c *secContext) replace(inner gssapi.SecContext) {
	if c.named {
		c.kept = append(c.kept, c.inner)
	} else {
		_ = deleteKept(c.inner) // the context is back; that is the news
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
		return errDefective // it would bring another context behind this handle
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
