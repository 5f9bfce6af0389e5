package secctx

import (
	"errors"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
)

var errNoHalf = status(gssapi.ErrUnavailable, errors.New("secctx: the inner provider has no half-open negotiations that can be exported"))

// ExportHalf is called by the function of that name of package spnego. A half-open
// negotiation leaves this handle sealed, and never as a plain token. Export refuses
// half-open contexts. ExportHalf returns GSS_S_UNAVAILABLE if the inner context has no
// half-open negotiation that can be exported.
func (c *secContext) ExportHalf(s seal.Sealer, bind []byte) ([]byte, error) {
	if err := c.lock(); err != nil {
		return nil, err
	}
	defer c.unlock()
	inner, ok := c.inner.(interface {
		ExportHalf(s seal.Sealer, bind []byte) ([]byte, error)
	})
	if !ok {
		return nil, errNoHalf
	}
	token, err := inner.ExportHalf(s, bind)
	if err == nil {
		c.state = deleted // nothing of the context is left here
	}
	return token, err
}

// ImportHalf is called by the function of that name of package spnego.
func (p *provider) ImportHalf(s seal.Sealer, token, bind []byte, opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	half, ok := p.inner.(interface {
		ImportHalf(s seal.Sealer, token, bind []byte, opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error)
	})
	if !ok {
		return nil, errNoHalf
	}
	if p.refusal != nil {
		return nil, p.refusal
	}
	inner, err := answer(half.ImportHalf(s, token, bind, acceptorOptions(opts)...))
	if err != nil {
		return nil, err
	}
	return (&secContext{p: p, inner: inner, acceptor: true}).combine(), nil
}
