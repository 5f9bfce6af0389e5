package krb5

import (
	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5/internal/permsg"
)

// message opens the gate for a per-message call. Unless it returns an error, the
// caller unlocks c.gate for reading.
func (c *secContext) message(qop gssapi.QoP) (*permsg.Session, error) {
	if qop != 0 {
		return nil, fail(gssapi.ErrBadQop, nil)
	}
	c.gate.RLock()
	if err := c.unexpired(); err != nil {
		c.gate.RUnlock()
		return nil, err
	}
	return c.secrets.session, nil // written under the gate held alone
}

// Wrap signs msg, and encrypts it if conf is set (RFC 2743 section 2.3.3, RFC 4121
// section 4.2.6.2). msg is unchanged. Errors: GSS_S_BAD_QOP unless the quality of
// protection is zero, GSS_S_NO_CONTEXT, GSS_S_CONTEXT_EXPIRED.
func (c *secContext) Wrap(msg []byte, conf bool, qop gssapi.QoP) ([]byte, bool, error) {
	s, err := c.message(qop)
	if err != nil {
		return nil, false, err
	}
	defer c.gate.RUnlock()
	out, err := s.Wrap(msg, conf)
	return out, conf && err == nil, err
}

// Unwrap verifies a token of the peer's Wrap and returns its message (RFC 2743
// section 2.3.4). A gssapi.InfoStatus comes with a genuine message and says that
// it is a duplicate, old, out of sequence, or follows a gap. With any other error
// there is no message: GSS_S_DEFECTIVE_TOKEN, GSS_S_BAD_MIC, GSS_S_NO_CONTEXT,
// GSS_S_CONTEXT_EXPIRED.
func (c *secContext) Unwrap(tok []byte) ([]byte, bool, gssapi.QoP, error) {
	s, err := c.message(0)
	if err != nil {
		return nil, false, 0, err
	}
	defer c.gate.RUnlock()
	msg, conf, err := s.Unwrap(tok)
	return msg, conf, 0, err
}

// WrapAEAD is Wrap with additional data that is signed and not sent.
func (c *secContext) WrapAEAD(msg, aad []byte, conf bool, qop gssapi.QoP) ([]byte, bool, error) {
	s, err := c.message(qop)
	if err != nil {
		return nil, false, err
	}
	defer c.gate.RUnlock()
	out, err := s.WrapAEAD(msg, aad, conf)
	return out, conf && err == nil, err
}

// UnwrapAEAD is Unwrap for a token of WrapAEAD with the same additional data.
func (c *secContext) UnwrapAEAD(tok, aad []byte) ([]byte, bool, error) {
	s, err := c.message(0)
	if err != nil {
		return nil, false, err
	}
	defer c.gate.RUnlock()
	return s.UnwrapAEAD(tok, aad)
}

// GetMIC returns a token that signs msg (RFC 2743 section 2.3.1). Errors as of
// Wrap.
func (c *secContext) GetMIC(msg []byte, qop gssapi.QoP) ([]byte, error) {
	s, err := c.message(qop)
	if err != nil {
		return nil, err
	}
	defer c.gate.RUnlock()
	return s.GetMIC(msg)
}

// VerifyMIC checks a token of the peer's GetMIC (RFC 2743 section 2.3.2).
// Errors as of Unwrap.
func (c *secContext) VerifyMIC(msg, tok []byte) (gssapi.QoP, error) {
	s, err := c.message(0)
	if err != nil {
		return 0, err
	}
	defer c.gate.RUnlock()
	return 0, s.VerifyMIC(msg, tok)
}

// WrapSizeLimit returns the length of the largest message whose token has at most
// outSize bytes, zero if there is none (RFC 2743 section 2.2.7). Errors as of
// Wrap.
func (c *secContext) WrapSizeLimit(conf bool, outSize uint, qop gssapi.QoP) (uint, error) {
	s, err := c.message(qop)
	if err != nil {
		return 0, err
	}
	defer c.gate.RUnlock()
	return s.WrapSizeLimit(conf, outSize)
}
