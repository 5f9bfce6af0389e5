package kmsg

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A Principal is a Kerberos principal: a name in a realm (RFC 4120 section 6). The
// name type is a hint. Realm is empty if it is not known yet.
type Principal struct {
	Type  int32
	Realm string
	Parts []string
}

// Equal reports whether p and q are the same principal. Realm and components must
// be equal byte for byte. The name type does not count (RFC 4120 section 6.2).
func (p Principal) Equal(q Principal) bool {
	return p.Realm == q.Realm && slices.Equal(p.Parts, q.Parts)
}

// SameName compares without the realms.
func (p Principal) SameName(q Principal) bool { return slices.Equal(p.Parts, q.Parts) }

// IsAnonymous reports whether p is the anonymous principal or in the anonymous
// realm (RFC 8062 section 3).
func (p Principal) IsAnonymous() bool {
	return p.Realm == "WELLKNOWN:ANONYMOUS" || slices.Equal(p.Parts, []string{"WELLKNOWN", "ANONYMOUS"})
}

// IsTGS reports whether p is a ticket-granting service.
func (p Principal) IsTGS() bool { return len(p.Parts) == 2 && p.Parts[0] == "krbtgt" }

// Check returns ErrName unless p has between one and MaxParts components, no
// NUL byte and no more than MaxName bytes.
func (p Principal) Check() error {
	if len(p.Parts) == 0 || len(p.Parts) > MaxParts {
		return fmt.Errorf("%w: %d components", ErrName, len(p.Parts))
	}
	size := len(p.Realm)
	for _, s := range p.Parts {
		size += len(s)
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("%w: NUL byte", ErrName)
		}
	}
	if strings.IndexByte(p.Realm, 0) >= 0 {
		return fmt.Errorf("%w: NUL byte", ErrName)
	}
	if size > MaxName {
		return fmt.Errorf("%w: %d bytes", ErrName, size)
	}
	return nil
}

// readString reads a KerberosString. It refuses NUL: a program in C behind this
// one would see another name.
func readString(s *cryptobyte.String, v *string) bool {
	var g cryptobyte.String
	if !s.ReadASN1(&g, generalString) || len(g) > MaxName || slices.Contains(g, 0) {
		return false
	}
	*v = string(g)
	return true
}

func readRealm(s *cryptobyte.String, n uint8, realm *string) bool {
	var f cryptobyte.String
	return s.ReadASN1(&f, field(n)) && readString(&f, realm) && f.Empty() && *realm != ""
}

// readName reads the field [n] that holds a PrincipalName, with at least one
// component.
func readName(s *cryptobyte.String, n uint8, p *Principal) bool {
	var seq, list cryptobyte.String
	if !sequence(s, n, &seq) || !readInt32(&seq, 0, &p.Type) || !sequence(&seq, 1, &list) || !seq.Empty() {
		return false
	}
	p.Parts = nil
	size := 0
	for !list.Empty() {
		var part string
		if len(p.Parts) == MaxParts || !readString(&list, &part) {
			return false
		}
		p.Parts = append(p.Parts, part)
		if size += len(part); size > MaxName {
			return false
		}
	}
	return len(p.Parts) > 0
}

func addRealm(b *cryptobyte.Builder, n uint8, realm string) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) { addString(b, realm) })
}

func addName(b *cryptobyte.Builder, n uint8, p Principal) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, int64(p.Type))
			b.AddASN1(field(1), func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, s := range p.Parts {
						addString(b, s)
					}
				})
			})
		})
	})
}
