package permsg

import (
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// Unwrap returns the message of a Wrap token of the peer, and whether it was
// encrypted. EC and RRC may have any value. The message is one allocation, no
// larger than the token, and the caller's. tok is not changed.
//
// Errors without a message: gssapi.ErrNoContext, ErrDefectiveToken, ErrBadMic,
// ErrFailure. An InfoStatus comes with the message, see the package documentation.
func (s *Session) Unwrap(tok []byte) (msg []byte, conf bool, err error) {
	return s.UnwrapAEAD(tok, nil)
}

// UnwrapAEAD is Unwrap with the associated data that WrapAEAD was given.
func (s *Session) UnwrapAEAD(tok, aad []byte) (msg []byte, conf bool, err error) {
	if err := s.begin(); err != nil {
		return nil, false, err
	}
	defer s.life.RUnlock()
	var h header
	if !h.parse(tok, idWrap) {
		return nil, false, fatal(codeDefectiveToken, errForm)
	}
	if err := s.checkFlags(h.flags); err != nil {
		return nil, false, err
	}
	l, err := s.in.lane(s.id)
	if err != nil {
		return nil, false, err
	}
	defer s.in.done(l)

	conf = h.flags&flagSealed != 0
	if conf {
		msg, err = s.open(l, &h, tok[headerSize:], aad)
	} else {
		msg, err = s.verify(l, &h, tok[headerSize:], aad)
	}
	if err != nil {
		return nil, false, err
	}
	return msg, conf, s.in.accept(h.seq)
}

// open decrypts the body of a sealed token: confounder | message | EC bytes of
// filler | header, and the MAC.
//
// The header inside is authenticated. It must equal the one outside, which is in
// clear: EC decides where the message ends. Only RRC may differ (RFC 4121 section
// 4.2.4).
func (s *Session) open(l *lane, h *header, body, aad []byte) ([]byte, error) {
	n := len(body) - s.id.MACSize() - headerSize - int(h.ec) // where the message ends
	if n < etype.BlockSize {
		return nil, fatal(codeDefectiveToken, errForm)
	}
	b := make([]byte, len(body))
	unrotate(b, body, h.rrc)
	var err error
	memsafe.Do(func() { err = l.cipher.Open(s.in.keys.ki, b, aad) })
	if err != nil {
		return nil, fatal(codeBadMIC, errNotEqual)
	}
	var inside header
	if !inside.parse(b[n+int(h.ec):], idWrap) || !inside.equal(h) {
		memsafe.Wipe(b)
		return nil, fatal(codeBadMIC, errNotEqual)
	}
	return b[etype.BlockSize:n:n], nil
}

// equal compares two headers without RRC, which is not authenticated.
func (h *header) equal(o *header) bool {
	return h.id == o.id && h.flags == o.flags && h.ec == o.ec && h.seq == o.seq
}

// verify checks the body of a token in clear: message | checksum of EC bytes.
func (s *Session) verify(l *lane, h *header, body, aad []byte) ([]byte, error) {
	n := len(body) - int(h.ec)
	if int(h.ec) != s.id.MACSize() || n < 0 {
		return nil, fatal(codeDefectiveToken, errForm)
	}
	b := make([]byte, len(body))
	unrotate(b, body, h.rrc)
	signed := header{id: idWrap, flags: h.flags, seq: h.seq}
	signed.put(l.head[:])
	var err error
	memsafe.Do(func() { err = l.cipher.Verify(b[n:], s.in.keys.kcSeal, aad, b[:n], l.head[:]) })
	if err != nil {
		memsafe.Wipe(b)
		return nil, fatal(codeBadMIC, errNotEqual)
	}
	return b[:n:n], nil
}
