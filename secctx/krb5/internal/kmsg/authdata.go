package kmsg

import (
	"encoding/binary"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Types of authorization data.
const (
	// adIfRelevant is the one type that may be ignored, with all that is in it
	// (RFC 4120 section 5.2.6.1). KDCs put PACs into it, and clients what they add
	// to authenticators.
	adIfRelevant = 1

	// adAPOptions is AD-AUTH-DATA-AP-OPTIONS of MS-KILE section 2.2.10: four bytes
	// of options, little-endian, inside AD-IF-RELEVANT.
	adAPOptions = 143
)

// apOptionBindings is KERB_AP_OPTIONS_CBT: the client sends channel bindings
// wherever it has a channel to bind.
const apOptionBindings = 0x4000

// readAuthData reads the field [n] that holds AuthorizationData, a SEQUENCE of
// elements, and looks into none of them. critical is the type of an element that
// must be understood, 0 for none. Type 0 itself is reserved and malformed.
func readAuthData(s *cryptobyte.String, n uint8, raw *[]byte, critical *int32) bool {
	var f cryptobyte.String
	if !s.ReadASN1(&f, field(n)) {
		return false
	}
	*raw = f
	return eachAuthData(f, func(kind int32, _ cryptobyte.String) {
		if kind != adIfRelevant {
			*critical = kind
		}
	})
}

// eachAuthData calls f with each element of the AuthorizationData that is all of
// b, and reports whether it is well formed.
func eachAuthData(b cryptobyte.String, f func(kind int32, data cryptobyte.String)) bool {
	var seq, elem, data cryptobyte.String
	if !b.ReadASN1(&seq, asn1.SEQUENCE) || !b.Empty() {
		return false
	}
	for !seq.Empty() {
		var kind int32
		if !seq.ReadASN1(&elem, asn1.SEQUENCE) || !readInt32(&elem, 0, &kind) ||
			!readOctets(&elem, 1, (*[]byte)(&data)) || !elem.Empty() || kind == 0 {
			return false
		}
		f(kind, data)
	}
	return true
}

// bindingsAware reports whether an authenticator's authorization data has
// KERB_AP_OPTIONS_CBT. AD-IF-RELEVANT may hold malformed data. What precedes it
// counts.
func bindingsAware(ad []byte) bool {
	aware := false
	eachAuthData(ad, func(kind int32, inner cryptobyte.String) {
		if kind != adIfRelevant {
			return
		}
		eachAuthData(inner, func(kind int32, data cryptobyte.String) {
			if kind == adAPOptions && len(data) == 4 && binary.LittleEndian.Uint32(data)&apOptionBindings != 0 {
				aware = true
			}
		})
	})
	return aware
}
