package kmsg

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A textForm is one of the two ways to write a principal as text. Both are
// primary/instance@REALM. In a component and in a realm, '/', '@' and '\' have a
// backslash in front, and newline, tab and backspace are \n, \t and \b.
type textForm int

const (
	// formSafe is for people, logs and terminals. Characters that a terminal obeys
	// or hides are written as \xHH, byte by byte.
	formSafe textForm = iota
	// formExported is the form of RFC 1964 section 2.1.3 and of the C libraries. All
	// other bytes stand for themselves.
	formExported
)

// String returns the text form that is safe for logs and terminals. Control and
// format characters, white space other than the blank, and bytes that are not
// UTF-8 are written as \xHH, byte by byte. [ParsePrincipal] reads the same
// principal back. A principal without a realm has no '@'.
func (p Principal) String() string { return p.text(formSafe) }

// Exported returns the text form of an exported name (RFC 1964 section 2.1.3),
// which holds the name's bytes as they are. [ParseExported] reads the same
// principal back.
func (p Principal) Exported() string { return p.text(formExported) }

func (p Principal) text(form textForm) string {
	var b strings.Builder
	for i, s := range p.Parts {
		if i > 0 {
			b.WriteByte('/')
		}
		form.quote(&b, s)
	}
	if p.Realm != "" {
		b.WriteByte('@')
		form.quote(&b, p.Realm)
	}
	return b.String()
}

func (form textForm) quote(b *strings.Builder, s string) {
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
		case form == formSafe && (r == utf8.RuneError && n == 1 || !unicode.IsPrint(r)):
			for i := range n {
				fmt.Fprintf(b, `\x%02x`, s[i])
			}
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
}

// ParsePrincipal reads the text form that String writes. The realm follows the
// first '@' that is not escaped. Without that '@' Realm is empty. The error is
// ErrName.
func ParsePrincipal(text string) (Principal, error) {
	p, err := parsePrincipal(text, formSafe, 0)
	if err == nil && len(p.Parts) == 1 && p.Parts[0] == "" {
		return Principal{}, fmt.Errorf("%w: empty", ErrName)
	}
	return p, err
}

// ParseEnterprise reads the text form of an enterprise name (RFC 6806 section
// 5): one component, which may hold one '@' of its own. The error is ErrName.
func ParseEnterprise(text string) (Principal, error) {
	p, err := parsePrincipal(text, formSafe, 1)
	if err == nil && p.Parts[0] == "" {
		return Principal{}, fmt.Errorf("%w: empty", ErrName)
	}
	p.Type = NTEnterprise
	return p, err
}

// ParseExported reads the text form that Exported writes. A backslash before any
// other character stands for that character (RFC 1964 section 2.1.3): Heimdal
// escapes blanks. The error is ErrName, also for a name without a realm.
func ParseExported(text string) (Principal, error) {
	p, err := parsePrincipal(text, formExported, 0)
	if err == nil && p.Realm == "" {
		return Principal{}, fmt.Errorf("%w: no realm", ErrName)
	}
	return p, err
}

// parsePrincipal takes the first ats '@' for part of the name. With ats > 0 every
// '/' is part of the name too.
func parsePrincipal(text string, form textForm, ats int) (Principal, error) {
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
			if c, ok := unhex(text[i:]); ok && form == formSafe {
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
		case c == '/' && inRealm && form == formExported:
			return bad("a realm with a slash that is not escaped")
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
