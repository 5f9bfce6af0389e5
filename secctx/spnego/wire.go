package spnego

import (
	"bytes"

	"github.com/golang-auth/go-gssapi/v3"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// The tags of a negotiation token (RFC 4178 section 4.2, RFC 2743 section 3.1).
const (
	tagFrame   = asn1.Tag(0x60) // [APPLICATION 0]: initial context token
	tagString  = asn1.Tag(27)   // GeneralString
	initChoice = 0              // NegotiationToken: negTokenInit
	respChoice = 1              // NegotiationToken: negTokenResp
)

func field(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }

// Object identifiers, DER without tag and length.
var (
	oidSPNEGO  = gssapi.GSS_MECH_SPNEGO.Oid()
	oidKrb5    = gssapi.GSS_MECH_KRB5.Oid()
	oidWindows = gssapi.Oid("\x2a\x86\x48\x82\xf7\x12\x01\x02\x02") // 1.2.840.48018.1.2.2
)

// plainOID returns the identifier that oid stands for. Windows writes the one of
// Kerberos with an arc that was cut to 16 bits.
func plainOID(oid []byte) []byte {
	if bytes.Equal(oid, oidWindows) {
		return oidKrb5
	}
	return oid
}

// negState is the state of a NegTokenResp.
type negState int

const (
	acceptCompleted  negState = 0
	acceptIncomplete negState = 1
	reject           negState = 2
	requestMIC       negState = 3
	noState          negState = -1 // the field is absent
)

// initToken is a NegTokenInit. Its slices are parts of the token.
type initToken struct {
	mechTypes []byte // MechTypeList with its tag and length: what is signed
	mechToken []byte // nil: absent
	mic       []byte // nil: absent
}

// respToken is a NegTokenResp. Its slices are parts of the token.
type respToken struct {
	state negState
	mech  []byte // object identifier; nil: absent
	token []byte // nil: absent
	mic   []byte // nil: absent
}

// openFrame takes the frame of an initial context token apart (RFC 2743 section
// 3.1): the mechanism's object identifier, and what follows it.
func openFrame(b []byte) (oid, body []byte, ok bool) {
	s := cryptobyte.String(b)
	var in, id cryptobyte.String
	if !s.ReadASN1(&in, tagFrame) || !s.Empty() || !in.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) || id.Empty() {
		return nil, nil, false
	}
	return id, in, true
}

// choice reads the SEQUENCE of one alternative of NegotiationToken, which must be
// all of b.
func choice(b []byte, n uint8) (seq cryptobyte.String, ok bool) {
	s := cryptobyte.String(b)
	var in cryptobyte.String
	ok = s.ReadASN1(&in, field(n)) && s.Empty() && in.ReadASN1(&seq, asn1.SEQUENCE) && in.Empty()
	return seq, ok
}

// parseInit reads a NegTokenInit, the body of an initial token.
func parseInit(body []byte) (t initToken, ok bool) {
	seq, ok := choice(body, initChoice)
	var list, flags cryptobyte.String
	if !ok || !seq.ReadASN1(&list, field(0)) || !list.ReadASN1Element((*cryptobyte.String)(&t.mechTypes), asn1.SEQUENCE) || !list.Empty() {
		return initToken{}, false
	}
	var present bool
	if !seq.ReadOptionalASN1(&flags, &present, field(1)) || // reqFlags, to be ignored
		!octets(&seq, 2, &t.mechToken) {
		return initToken{}, false
	}
	micAt := uint8(3)
	if hinted(seq) { // NegTokenInit2 has its hints there (MS-SPNG section 2.2.1)
		var hints cryptobyte.String
		if !seq.ReadASN1(&hints, field(3)) {
			return initToken{}, false
		}
		micAt = 4
	}
	if !octets(&seq, micAt, &t.mic) || !onlyLater(seq, micAt) || !validMechs(t.mechTypes) {
		return initToken{}, false
	}
	return t, true
}

// hinted reports whether the next field is negHints rather than mechListMIC.
func hinted(seq cryptobyte.String) bool {
	var f cryptobyte.String
	return seq.ReadASN1(&f, field(3)) && f.PeekASN1Tag(asn1.SEQUENCE)
}

// parseResp reads a NegTokenResp.
func parseResp(b []byte) (t respToken, ok bool) {
	seq, ok := choice(b, respChoice)
	if !ok {
		return respToken{}, false
	}
	t.state = noState
	var f, oid cryptobyte.String
	var present bool
	if !seq.ReadOptionalASN1(&f, &present, field(0)) {
		return respToken{}, false
	}
	if present {
		var v int
		if !f.ReadASN1Enum(&v) || !f.Empty() || v < int(acceptCompleted) || v > int(requestMIC) {
			return respToken{}, false
		}
		t.state = negState(v)
	}
	if !seq.ReadOptionalASN1(&f, &present, field(1)) {
		return respToken{}, false
	}
	if present {
		if !f.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !f.Empty() || oid.Empty() {
			return respToken{}, false
		}
		t.mech = oid
	}
	if !octets(&seq, 2, &t.token) || !octets(&seq, 3, &t.mic) || !onlyLater(seq, 3) {
		return respToken{}, false
	}
	return t, true
}

// octets reads the optional field [n] with an OCTET STRING, which must not be
// empty. v is nil if the field is absent.
func octets(s *cryptobyte.String, n uint8, v *[]byte) bool {
	var f, o cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&f, &present, field(n)) {
		return false
	}
	if !present {
		return true
	}
	if !f.ReadASN1(&o, asn1.OCTET_STRING) || !f.Empty() || o.Empty() {
		return false
	}
	*v = o
	return true
}

// onlyLater reports whether what is left are fields after [n], in order: both
// tokens may be extended there.
func onlyLater(s cryptobyte.String, n uint8) bool {
	last := field(n)
	for !s.Empty() {
		var f cryptobyte.String
		var tag asn1.Tag
		if !s.ReadAnyASN1(&f, &tag) || tag <= last || tag > field(30) {
			return false
		}
		last = tag
	}
	return true
}

// nextMech takes the next object identifier off a list.
func nextMech(list *cryptobyte.String) (oid []byte, ok bool) {
	var id cryptobyte.String
	if !list.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) || id.Empty() {
		return nil, false
	}
	return id, true
}

// mechList is the content of a MechTypeList.
func mechList(mechTypes []byte) (list cryptobyte.String, ok bool) {
	s := cryptobyte.String(mechTypes)
	ok = s.ReadASN1(&list, asn1.SEQUENCE) && s.Empty()
	return list, ok
}

// validMechs reports whether a MechTypeList is one, with an entry at least.
func validMechs(mechTypes []byte) bool {
	list, ok := mechList(mechTypes)
	if !ok || list.Empty() || len(mechTypes) > maxMechTypes {
		return false
	}
	for !list.Empty() {
		if _, ok := nextMech(&list); !ok {
			return false
		}
	}
	return true
}
