package krb5

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"golang.org/x/crypto/cryptobyte"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/mitctx"
	"github.com/sealctx/sealctx/secctx/krb5/internal/permsg"
)

// The interprocess token; doc/krb5-context.md has it in full.
//
//	"SCK5" | version u8 = 1 | context flags u32 | expires i64 |
//	initiator's name | acceptor's name | session
//	name = type i32 | realm | components u8 | component*
//
// with big-endian integers, and a length u16 before realms and components.
const (
	tokenMagic   = "SCK5"
	tokenVersion = 1
	tokenHead    = len(tokenMagic) + 1 + 4 + 8

	// exportFlags are the flags that an imported context can have. Delegation is not
	// among them: the credential stays with the exporter.
	exportFlags = peerFlags | gssapi.ContextFlagChannelBound

	// maxTokenName is the largest name in bytes.
	maxTokenName = 4 + 2 + 1 + kmsg.MaxName + 2*kmsg.MaxParts

	// maxExpires is the latest expiry, in seconds since 1970: some 34,000 years.
	maxExpires = math.MaxUint32 << 8

	// MaxExport is the size in bytes of the largest interprocess token. Most
	// have some 350.
	MaxExport = tokenHead + 2*maxTokenName + permsg.MaxStateSize
)

// Export returns the interprocess token (RFC 2743 section 2.2.8), ends the context
// and wipes what it held. It waits for calls under way: each of them completes
// before the export or returns GSS_S_NO_CONTEXT.
//
// The token holds the context's keys in clear. It is one allocation of exactly its
// size, and the only copy. The caller seals it and wipes it. A delegated
// credential is not part of it.
//
// Errors: GSS_S_UNAVAILABLE for a context that waits for the AP-REP, or that could
// not be imported; GSS_S_CONTEXT_EXPIRED; GSS_S_NO_CONTEXT for a context that was
// not started or is gone. On an error the context is untouched.
func (c *secContext) Export() ([]byte, error) {
	c.gate.Lock()
	defer c.gate.Unlock()
	if c.state == stateWaiting {
		return nil, fail(gssapi.ErrUnavailable, ErrNotEstablished)
	}
	if err := c.unexpired(); err != nil {
		return nil, err
	}
	f, s := &c.facts, c.secrets.session
	for _, n := range []*name{f.initiator, f.acceptor} {
		if err := importable(n.principal); err != nil {
			return nil, fail(gssapi.ErrUnavailable, err)
		}
	}
	tok := make([]byte, 0, tokenHead+nameSize(f.initiator)+nameSize(f.acceptor)+s.StateSize())
	tok = append(tok, tokenMagic...)
	tok = append(tok, tokenVersion)
	tok = binary.BigEndian.AppendUint32(tok, uint32(f.flags&exportFlags))
	tok = binary.BigEndian.AppendUint64(tok, uint64(f.expires.Unix()))
	tok = appendName(tok, f.initiator)
	tok = appendName(tok, f.acceptor)
	tok, err := s.Export(tok)
	if err != nil {
		return nil, err
	}
	c.end()
	return tok, nil
}

// importable returns an error unless a context of this name can be imported.
func importable(p kmsg.Principal) error {
	if p.Realm == "" {
		return fmt.Errorf("%w: no realm", kmsg.ErrName)
	}
	return p.Check()
}

func nameSize(n *name) int {
	size := 4 + 2 + len(n.principal.Realm) + 1
	for _, p := range n.principal.Parts {
		size += 2 + len(p)
	}
	return size
}

func appendName(b []byte, n *name) []byte {
	p := &n.principal
	b = binary.BigEndian.AppendUint32(b, uint32(p.Type))
	b = appendText(b, p.Realm)
	b = append(b, byte(len(p.Parts)))
	for _, part := range p.Parts {
		b = appendText(b, part)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// ImportSecContext makes the context of an interprocess token (RFC 2743 section
// 2.2.9): one that Export wrote, or one that MIT's library exported. b stays the
// caller's, to wipe.
//
// The caller vouches for b. A token is as good as the keys in it, and nothing in
// it is signed. Two imports of one token make two contexts that the peer cannot
// tell apart. Package secctx seals tokens and opens each once.
//
// Errors: GSS_S_DEFECTIVE_TOKEN unless b is such a token to its last byte;
// GSS_S_CONTEXT_EXPIRED; GSS_S_FAILURE if its encryption type may not be used.
func (p *Provider) ImportSecContext(b []byte) (gssapi.SecContext, error) {
	if err := p.alive(); err != nil {
		return nil, err
	}
	if p.ImportFormats() != nil && mitctx.Is(b) {
		return p.importMIT(b)
	}
	f, state, err := parseExported(b)
	if err != nil {
		return nil, err
	}
	if !p.now().Before(f.expires) {
		return nil, fail(gssapi.ErrContextExpired, nil)
	}
	var s *permsg.Session
	err = p.arena.try(0, func(pool *memsafe.Pool) error {
		s, err = permsg.Restore(pool, state)
		return err
	})
	switch {
	case errors.Is(err, permsg.ErrState):
		return nil, failf(gssapi.ErrDefectiveToken, "%w: %w", ErrFormat, err)
	case err != nil:
		return nil, fail(gssapi.ErrFailure, err)
	}
	if replay, sequence := s.Services(); replay != (f.flags&gssapi.ContextFlagReplay != 0) ||
		sequence != (f.flags&gssapi.ContextFlagSequence != 0) {
		s.Wipe()
		return nil, failf(gssapi.ErrDefectiveToken, "%w: flags do not match", ErrFormat)
	}
	c := p.newContext(s.Initiator())
	c.establish(f, s)
	return c, nil
}

// parseExported takes a token apart. state aliases b and holds the keys.
func parseExported(b []byte) (f facts, state []byte, err error) {
	bad := func(what string) (facts, []byte, error) {
		return facts{}, nil, fail(gssapi.ErrDefectiveToken, fmt.Errorf("%w: %s", ErrFormat, what))
	}
	s := cryptobyte.String(b)
	var magic []byte
	var version uint8
	var flags uint32
	var expires uint64
	if len(b) > MaxExport || !s.ReadBytes(&magic, len(tokenMagic)) || string(magic) != tokenMagic ||
		!s.ReadUint8(&version) || version != tokenVersion {
		return bad("head")
	}
	if !s.ReadUint32(&flags) || gssapi.ContextFlag(flags)&^exportFlags != 0 {
		return bad("flags")
	}
	if !s.ReadUint64(&expires) || expires == 0 || expires > maxExpires {
		return bad("expiry")
	}
	f.flags, f.expires = gssapi.ContextFlag(flags), time.Unix(int64(expires), 0)
	names := readNames(&s)
	if names == nil {
		return bad("names")
	}
	f.initiator, f.acceptor = &names[0], &names[1]
	return f, s, nil
}

// readNames reads the initiator's and the acceptor's name. It returns nil if they
// are not there. The names share one string, because allocations are most of an
// import's cost.
func readNames(s *cryptobyte.String) *[2]name {
	rest := *s
	for range 2 {
		if !skipName(&rest) {
			return nil
		}
	}
	text := string((*s)[:len(*s)-len(rest)]) // keys follow: no further
	*s = rest
	names := new([2]name)
	for i := range names {
		names[i].mn = true
		p := &names[i].principal
		text = cutName(p, text)
		if importable(*p) != nil {
			return nil
		}
	}
	return names
}

func skipName(s *cryptobyte.String) bool {
	var text cryptobyte.String
	var parts uint8
	ok := s.Skip(4) && s.ReadUint16LengthPrefixed(&text) && s.ReadUint8(&parts) && parts <= kmsg.MaxParts
	for range parts {
		ok = ok && s.ReadUint16LengthPrefixed(&text)
	}
	return ok
}

// cutName takes a name from the front of text, which skipName has checked.
func cutName(p *kmsg.Principal, text string) (rest string) {
	p.Type = int32(uint32(text[0])<<24 | uint32(text[1])<<16 | uint32(text[2])<<8 | uint32(text[3]))
	p.Realm, text = cutText(text[4:])
	p.Parts = make([]string, text[0])
	text = text[1:]
	for i := range p.Parts {
		p.Parts[i], text = cutText(text)
	}
	return text
}

func cutText(text string) (s, rest string) {
	n := 2 + int(text[0])<<8 + int(text[1])
	return text[2:n], text[n:]
}
