package permsg

import "github.com/sealctx/sealctx/memsafe"

// GetMIC returns the MIC token of msg (RFC 4121 section 4.2.6.1): header |
// checksum of msg | header. It takes a sequence number as Wrap does. One
// allocation. Errors: gssapi.ErrNoContext, ErrFailure.
func (s *Session) GetMIC(msg []byte) ([]byte, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.life.RUnlock()
	l, err := s.out.lane(s.id)
	if err != nil {
		return nil, err
	}
	defer s.out.done(l)

	tok := make([]byte, headerSize+s.id.MACSize())
	h := header{id: idMIC, flags: s.flags(s.initiator), seq: s.out.take()}
	h.put(tok)
	memsafe.Do(func() {
		err = l.cipher.Sum(tok[headerSize:], s.out.keys.kcSign, msg, tok[:headerSize])
	})
	if err != nil {
		return nil, fatal(codeFailure, err)
	}
	return tok, nil
}

// VerifyMIC checks the peer's MIC token of msg. It allocates only for an error.
// Errors are those of Unwrap. An InfoStatus means that the MIC is right.
func (s *Session) VerifyMIC(msg, tok []byte) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.life.RUnlock()
	var h header
	if !h.parse(tok, idMIC) || len(tok) != headerSize+s.id.MACSize() {
		return fatal(codeDefectiveToken, errForm)
	}
	if err := s.checkFlags(h.flags); err != nil {
		return err
	}
	l, err := s.in.lane(s.id)
	if err != nil {
		return err
	}
	defer s.in.done(l)
	memsafe.Do(func() {
		err = l.cipher.Verify(tok[headerSize:], s.in.keys.kcSign, msg, tok[:headerSize])
	})
	if err != nil {
		return fatal(codeBadMIC, errNotEqual)
	}
	return s.in.accept(h.seq)
}
