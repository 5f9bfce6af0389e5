package krb5

import (
	"github.com/golang-auth/go-gssapi/v3"
)

// partial describes the context as far as it is known. The gate is held.
func (c *secContext) partial() gssapi.SecContextInfoPartial {
	info := gssapi.SecContextInfoPartial{Mech: gssapi.GSS_MECH_KRB5, LocallyInitiated: c.initiator}
	f := &c.facts
	switch c.state {
	case stateEstablished:
		info.FullyEstablished, info.ProtectionReady, info.Transferrable = true, true, true
	case stateWaiting:
		f = &c.setup.result
	default:
		info.ExpiresAt.Status = gssapi.GssLifetimeIndefinite // not known yet
		return info
	}
	if f.initiator != nil {
		info.InitiatorName = f.initiator
	}
	if f.delegated != nil {
		info.DelegatedCredential = f.delegated
	}
	info.Flags = f.flags
	info.ExpiresAt = lifetime(f.expires, c.p.now())
	return info
}

// Inquire describes the context (RFC 2743 section 2.2.6). The names and the
// delegated credential stay good after Export and Delete. A context that is gone
// is GSS_S_NO_CONTEXT.
func (c *secContext) Inquire() (*gssapi.SecContextInfo, error) {
	c.gate.RLock()
	defer c.gate.RUnlock()
	if c.state == stateGone {
		return nil, fail(gssapi.ErrNoContext, ErrGone)
	}
	info := &gssapi.SecContextInfo{SecContextInfoPartial: c.partial()}
	switch {
	case c.state == stateEstablished && c.facts.acceptor != nil:
		info.AcceptorName = c.facts.acceptor
	case c.setup != nil && c.setup.target != nil:
		info.AcceptorName = c.setup.target
	}
	return info, nil
}

// ExpiresAt returns when the context expires (RFC 2743 section 2.2.5): with its
// ticket, and for an acceptor the clock skew later. It is GSS_S_NO_CONTEXT unless
// the context is established.
func (c *secContext) ExpiresAt() (*gssapi.GssLifetime, error) {
	c.gate.RLock()
	defer c.gate.RUnlock()
	if err := c.live(); err != nil {
		return nil, err
	}
	l := lifetime(c.facts.expires, c.p.now())
	return &l, nil
}
