package spnego

import (
	"reflect"
	"sync"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/internal/blind"
)

// phase is where a context is in its life. It only grows.
type phase uint8

const (
	phaseNew         phase = iota // no token yet
	phaseHinted                   // an acceptor that sent hints and waits for the initial token
	phaseMech                     // a mechanism is chosen and needs a token
	phaseMIC                      // the mechanism is done, and the peer's signature is awaited
	phaseEstablished              // calls go to the inner context
	phaseGone                     // exported, deleted or failed
)

// secContext is a gssapi.SecContext. Every call passes its gate. Per-message calls
// and questions share it; calls that change the phase hold it alone.
type secContext struct {
	p         *Provider
	initiator bool

	gate  sync.RWMutex
	phase phase
	inner gssapi.SecContext // nil until the chosen mechanism has its first token
	neg   *negotiation      // nil once established or gone
}

// negotiation is what only the establishment needs.
type negotiation struct {
	accept []gssapi.AcceptSecContextOption // an acceptor's
	target gssapi.GssName                  // an initiator's, a copy
	init   gssapi.InitSecContextOptions    // an initiator's

	mechTypes []byte         // the initiator's list, as it was sent
	mech      gssapi.GssMech // chosen
	wire      []byte         // the chosen mechanism's identifier, as the initiator wrote it
	raw       bool           // there is no negotiation around the mechanism's tokens
	legs      int            // tokens of the peer so far
	answered  bool           // an acceptor has sent its first answer, an initiator has read it
	info      gssapi.SecContextInfoPartial

	// Of the signatures over mechTypes.
	required bool // both sides must sign
	early    []byte
	sent     bool
	verified bool
}

// InitSecContext makes an initiator's context (RFC 2743 section 2.2.1) for the
// mechanism SPNEGO, which is the default. The first Continue, with an empty token,
// gives the initial token. Options are the inner provider's. GSS_S_BAD_MECH for
// another mechanism, and GSS_S_BAD_NAME without a name.
func (p *Provider) InitSecContext(name gssapi.GssName, opts ...gssapi.InitSecContextOption) (gssapi.SecContext, error) {
	var o gssapi.InitSecContextOptions
	for _, opt := range opts {
		opt(&o)
	}
	if o.Mech != nil && !isSPNEGO(o.Mech) {
		return nil, errOtherMech
	}
	if name == nil {
		return nil, status(gssapi.ErrBadName, errNoTarget)
	}
	target, err := name.Duplicate() // the caller may release its own
	if err != nil {
		return nil, err
	}
	return &secContext{p: p, initiator: true, neg: &negotiation{target: target, init: o}}, nil
}

// AcceptSecContext makes an acceptor's context (RFC 2743 section 2.2.2). Continue
// takes the initiator's token. An empty first token is answered with hints.
// Options are the inner provider's, which sees them when it gets its first token.
func (p *Provider) AcceptSecContext(opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	return &secContext{p: p, neg: &negotiation{accept: opts}}, nil
}

// ContinueNeeded reports whether the context waits for a token.
func (c *secContext) ContinueNeeded() bool {
	c.gate.RLock()
	defer c.gate.RUnlock()
	return c.phase < phaseEstablished
}

// Continue takes the negotiation a step further. An error ends the context. A
// token that comes with an error is for the peer. Errors are those of the inner
// context, and GSS_S_DEFECTIVE_TOKEN, GSS_S_BAD_MECH where no mechanism is common,
// GSS_S_BAD_MIC for a false signature of the mechanism list, GSS_S_FAILURE under
// a handler that would serve a half-open context, and GSS_S_NO_CONTEXT for a context that is gone. ErrRejected
// says that the peer ended the negotiation.
func (c *secContext) Continue(token []byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	c.gate.Lock()
	defer c.gate.Unlock()
	switch c.phase {
	case phaseEstablished:
		return nil, gssapi.SecContextInfoPartial{}, errEstablished
	case phaseGone:
		return nil, gssapi.SecContextInfoPartial{}, errGone
	}
	var out []byte
	var err error
	if c.neg.legs++; len(token) > c.p.maxToken {
		err = defective("token of %d bytes, at most %d are taken", len(token), c.p.maxToken)
	} else if c.neg.legs > maxLegs {
		err = defective("more than %d tokens", maxLegs)
	} else if c.initiator {
		out, err = c.initiate(token)
	} else {
		out, err = c.accept(token)
	}
	if err == nil && !c.initiator && c.phase < phaseEstablished && blind.Handler() {
		out, err = nil, errBlind
	}
	if err != nil {
		out = c.rejection(out)
		c.end()
		return out, gssapi.SecContextInfoPartial{}, err
	}
	if c.phase != phaseEstablished {
		return out, c.half(), nil
	}
	info := c.neg.info // a delegated credential is the caller's from here on
	c.neg = nil
	return out, info, nil
}

// rejection is the token that tells the initiator of an error. out is the
// mechanism's. An initiator has nothing to tell an acceptor.
func (c *secContext) rejection(out []byte) []byte {
	switch {
	case c.initiator:
		return nil
	case c.neg.raw:
		return out
	}
	resp := respToken{state: reject, token: out}
	return resp.build()
}

// end drops the context. The gate is held alone.
func (c *secContext) end() {
	c.dropInner()
	if c.neg != nil {
		c.neg.drop()
	}
	c.phase, c.neg = phaseGone, nil
}

// drop releases what the negotiation holds: the name of the target, and a delegated
// credential that was never handed out.
func (n *negotiation) drop() {
	if n.target != nil {
		_ = n.target.Release() // ours
	}
	if v := reflect.ValueOf(n.info.DelegatedCredential); v.IsValid() && (v.Kind() != reflect.Pointer || !v.IsNil()) {
		_ = n.info.DelegatedCredential.Release()
	}
}

func (c *secContext) dropInner() {
	if c.inner != nil {
		_, _ = c.inner.Delete() // it is not established for the peer
		c.inner = nil
	}
}

// half describes a context that is not established.
func (c *secContext) half() gssapi.SecContextInfoPartial {
	return gssapi.SecContextInfoPartial{
		Mech:             gssapi.GSS_MECH_SPNEGO,
		LocallyInitiated: c.initiator,
		ExpiresAt:        gssapi.GssLifetime{Status: gssapi.GssLifetimeIndefinite}, // not known yet
	}
}

// Inquire describes the context (RFC 2743 section 2.2.6). A half-open context has
// no names and no flags. GSS_S_NO_CONTEXT for a context that is gone.
func (c *secContext) Inquire() (*gssapi.SecContextInfo, error) {
	c.gate.RLock()
	defer c.gate.RUnlock()
	switch c.phase {
	case phaseEstablished:
		return c.inner.Inquire()
	case phaseGone:
		return nil, errGone
	}
	return &gssapi.SecContextInfo{SecContextInfoPartial: c.half()}, nil
}

// share admits a call on an established context. The caller must unlock the gate
// for reading if, and only if, the error is nil.
func (c *secContext) share() error {
	c.gate.RLock()
	if c.phase == phaseEstablished {
		return nil
	}
	defer c.gate.RUnlock()
	if c.phase == phaseGone {
		return errGone
	}
	return errHalf
}

// Delete ends the context (RFC 2743 section 2.2.3). A half-open context has no
// token for the peer. A second Delete does nothing.
func (c *secContext) Delete() ([]byte, error) {
	c.gate.Lock()
	defer c.gate.Unlock()
	if c.phase != phaseEstablished {
		c.end()
		return nil, nil
	}
	c.phase = phaseGone
	out, err := c.inner.Delete()
	c.inner = nil
	return out, err
}

// ProcessToken is the inner context's (RFC 2743 section 2.2.4).
func (c *secContext) ProcessToken(token []byte) error {
	if err := c.share(); err != nil {
		return err
	}
	defer c.gate.RUnlock()
	return c.inner.ProcessToken(token)
}

// ExpiresAt is the inner context's (RFC 2743 section 2.2.5).
func (c *secContext) ExpiresAt() (*gssapi.GssLifetime, error) {
	if err := c.share(); err != nil {
		return nil, err
	}
	defer c.gate.RUnlock()
	return c.inner.ExpiresAt()
}

// WrapSizeLimit is the inner context's (RFC 2743 section 2.2.7).
func (c *secContext) WrapSizeLimit(conf bool, outSize uint, qop gssapi.QoP) (uint, error) {
	if err := c.share(); err != nil {
		return 0, err
	}
	defer c.gate.RUnlock()
	return c.inner.WrapSizeLimit(conf, outSize, qop)
}

// GetMIC is the inner context's (RFC 2743 section 2.3.1).
func (c *secContext) GetMIC(msg []byte, qop gssapi.QoP) ([]byte, error) {
	if err := c.share(); err != nil {
		return nil, err
	}
	defer c.gate.RUnlock()
	return c.inner.GetMIC(msg, qop)
}

// VerifyMIC is the inner context's (RFC 2743 section 2.3.2).
func (c *secContext) VerifyMIC(msg, mic []byte) (gssapi.QoP, error) {
	if err := c.share(); err != nil {
		return 0, err
	}
	defer c.gate.RUnlock()
	return c.inner.VerifyMIC(msg, mic)
}

// Wrap is the inner context's (RFC 2743 section 2.3.3).
func (c *secContext) Wrap(msg []byte, conf bool, qop gssapi.QoP) ([]byte, bool, error) {
	if err := c.share(); err != nil {
		return nil, false, err
	}
	defer c.gate.RUnlock()
	return c.inner.Wrap(msg, conf, qop)
}

// Unwrap is the inner context's (RFC 2743 section 2.3.4).
func (c *secContext) Unwrap(msg []byte) ([]byte, bool, gssapi.QoP, error) {
	if err := c.share(); err != nil {
		return nil, false, 0, err
	}
	defer c.gate.RUnlock()
	return c.inner.Unwrap(msg)
}

// WrapAEAD is the inner context's. GSS_S_UNAVAILABLE if it has none.
func (c *secContext) WrapAEAD(msg, associated []byte, conf bool, qop gssapi.QoP) ([]byte, bool, error) {
	if err := c.share(); err != nil {
		return nil, false, err
	}
	defer c.gate.RUnlock()
	inner, ok := c.inner.(gssapi.SecContextExtRFC4121)
	if !ok {
		return nil, false, errNoExtension
	}
	return inner.WrapAEAD(msg, associated, conf, qop)
}

// UnwrapAEAD is the inner context's. GSS_S_UNAVAILABLE if it has none.
func (c *secContext) UnwrapAEAD(msg, associated []byte) ([]byte, bool, error) {
	if err := c.share(); err != nil {
		return nil, false, err
	}
	defer c.gate.RUnlock()
	inner, ok := c.inner.(gssapi.SecContextExtRFC4121)
	if !ok {
		return nil, false, errNoExtension
	}
	return inner.UnwrapAEAD(msg, associated)
}

// InquireByOid is the inner context's (GFD.24 section 2.3.1). What it returns may
// hold keys; package secctx lets only harmless inquiries pass. GSS_S_UNAVAILABLE
// if the inner context has no inquiries.
func (c *secContext) InquireByOid(oid gssapi.Oid) ([][]byte, error) {
	if err := c.share(); err != nil {
		return nil, err
	}
	defer c.gate.RUnlock()
	inner, ok := c.inner.(gssapi.SecContextExtGGF)
	if !ok {
		return nil, errNoExtension
	}
	return inner.InquireByOid(oid)
}

// SetOption is the inner context's (GFD.24 section 2.4.1). GSS_S_UNAVAILABLE if it
// has none.
func (c *secContext) SetOption(option gssapi.Oid, value []byte) error {
	if err := c.share(); err != nil {
		return err
	}
	defer c.gate.RUnlock()
	inner, ok := c.inner.(gssapi.SecContextExtGGF)
	if !ok {
		return errNoExtension
	}
	return inner.SetOption(option, value)
}

var (
	_ gssapi.SecContextExtGGF     = (*secContext)(nil)
	_ gssapi.SecContextExtRFC4121 = (*secContext)(nil)
)
