package permsg

import (
	"crypto/rand"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// Wrap returns the Wrap token of msg (RFC 4121 section 4.2.4), encrypted if conf
// is set, else in clear with a checksum. The token takes a sequence number. An
// error takes none. One allocation. msg is not changed. Errors:
// gssapi.ErrNoContext, ErrFailure.
func (s *Session) Wrap(msg []byte, conf bool) ([]byte, error) { return s.WrapAEAD(msg, nil, conf) }

// WrapAEAD is Wrap with associated data, which is authenticated and does not
// travel in the token: gss_wrap_aead of the C libraries. No aad and an empty
// one are the same.
func (s *Session) WrapAEAD(msg, aad []byte, conf bool) ([]byte, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	l, err := s.out.lane(s.id)
	if err != nil {
		return nil, err
	}
	defer s.out.done(l)
	if conf {
		return s.seal(l, msg, aad)
	}
	return s.sign(l, msg, aad)
}

// seal makes header | E(confounder | msg | header) | MAC, with EC and RRC 0.
func (s *Session) seal(l *lane, msg, aad []byte) ([]byte, error) {
	tok := make([]byte, headerSize+etype.BlockSize+len(msg)+headerSize+s.id.MACSize())
	body := tok[headerSize:]
	rand.Read(body[:etype.BlockSize]) // never fails
	n := etype.BlockSize + copy(body[etype.BlockSize:], msg)

	h := header{id: idWrap, flags: s.flags(s.initiator) | flagSealed, seq: s.out.take()}
	h.put(tok)
	h.put(body[n:])
	var err error
	memsafe.Do(func() { err = l.cipher.Seal(s.out.keys.ki, body, aad) })
	if err != nil {
		memsafe.Wipe(tok) // plaintext
		return nil, fatal(codeFailure, err)
	}
	return tok, nil
}

// sign makes header | msg | checksum. EC is the checksum's size, and 0 in the
// header that the checksum covers, RFC 4121 section 4.2.4.
func (s *Session) sign(l *lane, msg, aad []byte) ([]byte, error) {
	mac := s.id.MACSize()
	tok := make([]byte, headerSize+len(msg)+mac)
	n := headerSize + copy(tok[headerSize:], msg)

	h := header{id: idWrap, flags: s.flags(s.initiator), seq: s.out.take()}
	h.put(l.head[:])
	h.ec = uint16(mac)
	h.put(tok)
	var err error
	memsafe.Do(func() { err = l.cipher.Sum(tok[n:], s.out.keys.kcSeal, aad, msg, l.head[:]) })
	if err != nil {
		return nil, fatal(codeFailure, err)
	}
	return tok, nil
}

// WrapSizeLimit returns the length of the longest message whose Wrap token has at
// most max bytes (RFC 2743 section 2.2.7), 0 if no token fits. Errors:
// gssapi.ErrNoContext.
func (s *Session) WrapSizeLimit(conf bool, max uint) (uint, error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	defer s.life.RUnlock()
	overhead := uint(headerSize + s.id.MACSize())
	if conf {
		overhead += etype.BlockSize + headerSize
	}
	if max < overhead {
		return 0, nil
	}
	return max - overhead, nil
}
