package spnego

import (
	"bytes"
	"slices"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
)

// The interprocess token of an established context is
//
//	"SCSN" | version u8 = 1 | role u8 | the inner provider's token
//
// role is 1 for an initiator and 0 for an acceptor. Nothing of the negotiation is
// needed any more.
const (
	plainFormat = "sealctx-spnego/1"
	plainMagic  = "SCSN\x01"
	plainHead   = len(plainMagic) + 1
)

// Export returns the interprocess token of an established context (RFC 2743
// section 2.2.8) and ends the context. The token holds the inner context's keys in
// clear and is the only copy: seal it, and wipe it. Package secctx does both.
// Errors are the inner context's, and GSS_S_NO_CONTEXT for a context that is half
// open or gone.
func (c *secContext) Export() ([]byte, error) {
	c.gate.Lock()
	defer c.gate.Unlock()
	switch c.phase {
	case phaseEstablished:
	case phaseGone:
		return nil, errGone
	default:
		return nil, errHalf
	}
	inner, err := c.inner.Export()
	if err != nil {
		return nil, err
	}
	defer memsafe.Wipe(inner)
	c.phase = phaseGone
	out := make([]byte, 0, plainHead+len(inner))
	out = append(out, plainMagic...)
	out = append(out, role(c.initiator))
	return append(out, inner...), nil
}

func role(initiator bool) byte {
	if initiator {
		return 1
	}
	return 0
}

// ImportSecContext makes the context of an interprocess token of Export (RFC 2743
// section 2.2.9). b stays the caller's, to wipe. The caller vouches for b: package
// secctx seals tokens and opens each once. GSS_S_DEFECTIVE_TOKEN for another
// token, and the inner provider's errors.
func (p *Provider) ImportSecContext(b []byte) (gssapi.SecContext, error) {
	if len(b) <= plainHead || !bytes.HasPrefix(b, []byte(plainMagic)) || b[plainHead-1] > 1 {
		return nil, errPlain
	}
	inner, err := p.inner.ImportSecContext(slices.Clip(b[plainHead:]))
	if err != nil {
		return nil, err
	}
	return &secContext{p: p, initiator: b[plainHead-1] == 1, phase: phaseEstablished, inner: inner}, nil
}
