package kmsg

import (
	"bytes"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A TokenID says what a context token carries (RFC 4121 section 4.1).
type TokenID uint16

// The context tokens.
const (
	TokenAPReq TokenID = 0x0100
	TokenAPRep TokenID = 0x0200
	TokenError TokenID = 0x0300
)

// initialToken is the tag of RFC 2743 section 3.1.
const initialToken = asn1.Tag(0x60)

var mechOID = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}

// ParseToken takes a context token apart: the frame of RFC 2743 section 3.1 with
// the mechanism's OID, the token's kind, and the Kerberos message, which aliases
// b. It returns ErrMech for a well-formed frame of another mechanism.
func ParseToken(b []byte) (TokenID, []byte, error) {
	if len(b) > MaxToken {
		return 0, nil, fmt.Errorf("%w: token of %d bytes", ErrMalformed, len(b))
	}
	s := cryptobyte.String(b)
	var body, oid cryptobyte.String
	if !s.ReadASN1(&body, initialToken) || !s.Empty() || !body.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) {
		return 0, nil, fmt.Errorf("%w: token frame", ErrMalformed)
	}
	if !bytes.Equal(oid, mechOID) {
		return 0, nil, ErrMech
	}
	var id uint16
	if !body.ReadUint16(&id) {
		return 0, nil, fmt.Errorf("%w: token frame", ErrMalformed)
	}
	return TokenID(id), body, nil
}

// MarshalToken frames msg as a context token.
func MarshalToken(id TokenID, msg []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(initialToken, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(mechOID) })
		b.AddUint16(uint16(id))
		b.AddBytes(msg)
	})
	return b.Bytes()
}
