package kmsg

import (
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// AP options (RFC 4120 section 5.5.1).
const (
	OptUseSessionKey  uint32 = 1 << 30
	OptMutualRequired uint32 = 1 << 29
)

const (
	msgAPReq = 14
	msgAPRep = 15
	msgError = 30
)

// An APReq is a client's first message to a server (RFC 4120 section 5.5.1). Only
// the content of its two encrypted parts is authenticated.
type APReq struct {
	Options       uint32
	Ticket        Ticket
	Authenticator Encrypted
}

// ParseAPReq reads an AP-REQ that is all of b. The result aliases b.
func ParseAPReq(b []byte) (*APReq, error) {
	seq, ok := open(b, msgAPReq)
	if !ok {
		return nil, fmt.Errorf("%w: AP-REQ", ErrMalformed)
	}
	if err := readHead(&seq, msgAPReq); err != nil {
		return nil, fmt.Errorf("%w: AP-REQ", err)
	}
	r := new(APReq)
	if !readFlags(&seq, 2, &r.Options) {
		return nil, fmt.Errorf("%w: AP-REQ's options", ErrMalformed)
	}
	var f cryptobyte.String
	if !seq.ReadASN1(&f, field(3)) {
		return nil, fmt.Errorf("%w: AP-REQ's ticket", ErrMalformed)
	}
	t, err := ParseTicket(f)
	if err != nil {
		return nil, err
	}
	r.Ticket = *t
	if !readEncrypted(&seq, 4, &r.Authenticator) || !seq.Empty() {
		return nil, fmt.Errorf("%w: AP-REQ's authenticator", ErrMalformed)
	}
	return r, nil
}

// MarshalAPReq encodes an AP-REQ around an encoded ticket, as credential caches
// hold it.
func MarshalAPReq(options uint32, ticket []byte, auth Encrypted) ([]byte, error) {
	var b cryptobyte.Builder
	message(&b, msgAPReq, func(b *cryptobyte.Builder) {
		addHead(b, msgAPReq)
		addFlags(b, 2, options)
		b.AddASN1(field(3), func(b *cryptobyte.Builder) { b.AddBytes(ticket) })
		addEncrypted(b, 4, auth)
	})
	return b.Bytes()
}
