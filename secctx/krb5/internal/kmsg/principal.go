package kmsg

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A Principal is a Kerberos principal: a name in a realm (RFC 4120 section 6).
// The name type is a hint. Realm is empty where it is not known yet.
type Principal struct {
	Type  int32
	Realm string
	Parts []string
}

// Equal reports whether p and q are the same principal: realm and components
// equal byte for byte, the name type left aside (RFC 4120 section 6.2).
func (p Principal) Equal(q Principal) bool {
	return p.Realm == q.Realm && slices.Equal(p.Parts, q.Parts)
}

// SameName compares without the realms.
func (p Principal) SameName(q Principal) bool { return slices.Equal(p.Parts, q.Parts) }

// IsAnonymous reports whether p is the principal or of the realm of clients that
// do not say who they are (RFC 8062 section 3).
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

// String returns the text form, primary/instance@REALM, in which '/', '@' and
// '\' inside a component are escaped, so that [ParsePrincipal] reads the same
// principal back. So is, as \xHH byte by byte, what a log or a terminal would
// obey or hide: control and format characters and what is no UTF-8. Newline, tab
// and backspace have the letters of RFC 1964 section 2.1.3, which knows no
// more. A principal without realm has no '@'.
func (p Principal) String() string {
	var b strings.Builder
	for i, s := range p.Parts {
		if i > 0 {
			b.WriteByte('/')
		}
		quote(&b, s)
	}
	if p.Realm != "" {
		b.WriteByte('@')
		quote(&b, p.Realm)
	}
	return b.String()
}

func quote(b *strings.Builder, s string) {
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '/' || r == '@' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == utf8.RuneError && n == 1 || !unicode.IsPrint(r):
			for i := range n {
				fmt.Fprintf(b, `\x%02x`, s[i])
			}
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
}

// ParsePrincipal reads the text form. A realm is what stands after the first
// '@' that is not escaped; without one Realm is empty. The error is ErrName.
func ParsePrincipal(text string) (Principal, error) {
	return parsePrincipal(text, 0)
}

// ParseEnterprise reads the text form of an enterprise name (RFC 6806 section
// 5): one component, which may hold one '@' of its own.
func ParseEnterprise(text string) (Principal, error) {
	p, err := parsePrincipal(text, 1)
	p.Type = NTEnterprise
	return p, err
}

// parsePrincipal takes the first ats '@' for part of the name, and with them
// every '/'.
func parsePrincipal(text string, ats int) (Principal, error) {
	bad := func(what string) (Principal, error) { return Principal{}, fmt.Errorf("%w: %s", ErrName, what) }
	if len(text) > 4*MaxName+MaxParts { // all of it escaped
		return bad("too long")
	}
	p := Principal{Type: NTPrincipal}
	enterprise := ats > 0
	inRealm := false
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\':
			if i++; i == len(text) {
				return bad("ends in an escape")
			}
			if c, ok := unhex(text[i:]); ok {
				b.WriteByte(c)
				i += 2
			} else {
				b.WriteByte(unescape(text[i]))
			}
		case c == '@' && ats > 0:
			ats--
			b.WriteByte(c)
		case c == '@' && inRealm:
			return bad("two realms")
		case c == '@':
			p.Parts = append(p.Parts, b.String())
			b.Reset()
			inRealm = true
		case c == '/' && !inRealm && !enterprise:
			p.Parts = append(p.Parts, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	if inRealm {
		if p.Realm = b.String(); p.Realm == "" {
			return bad("empty realm")
		}
	} else {
		p.Parts = append(p.Parts, b.String())
	}
	if len(p.Parts) == 1 && p.Parts[0] == "" {
		return bad("empty")
	}
	if err := p.Check(); err != nil {
		return Principal{}, err
	}
	return p, nil
}

// unhex reads the byte of xHH, two digits as String writes them.
func unhex(s string) (byte, bool) {
	if len(s) < 3 || s[0] != 'x' || s[1:3] != strings.ToLower(s[1:3]) {
		return 0, false
	}
	c, err := strconv.ParseUint(s[1:3], 16, 8)
	return byte(c), err == nil
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case '0':
		return 0
	}
	return c
}

// readString reads a KerberosString. A NUL in it is refused: a program in C
// behind us would see another name.
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
