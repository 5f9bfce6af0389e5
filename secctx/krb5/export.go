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

	// exportFlags are the flags that an established context can have.
	exportFlags = peerFlags | gssapi.ContextFlagChannelBound

	// maxTokenName is the largest name in bytes.
	maxTokenName = 4 + 2 + 1 + kmsg.MaxName + 2*kmsg.MaxParts

	// MaxExport is the size in bytes of the largest interprocess token. Most
	// have some 350.
	MaxExport = tokenHead + 2*maxTokenName + permsg.MaxStateSize
)

// Export returns the interprocess token (RFC 2743 section 2.2.8) and ends the
// context: what it held is wiped. It waits for calls under way, each of which
// has its message out before or answers GSS_S_NO_CONTEXT.
//
// The token holds the context's keys in clear. It is one allocation of exactly
// its size and the only copy: seal it, and wipe it. Errors: GSS_S_UNAVAILABLE
// for a context that is not established yet, GSS_S_CONTEXT_EXPIRED,
// GSS_S_NO_CONTEXT. On an error the context is untouched.
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
	tok := make([]byte, 0, tokenHead+nameSize(f.initiator)+nameSize(f.acceptor)+s.StateSize())
	tok = append(tok, tokenMagic...)
	tok = append(tok, tokenVersion)
	tok = binary.BigEndian.AppendUint32(tok, uint32(f.flags))
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
// 2.2.9). b stays the caller's, to wipe.
//
// Whoever calls it vouches for b: a token is as good as the keys in it, and
// nothing in it is signed. Import one twice and there are two contexts, which
// the peer cannot tell apart. Package secctx seals tokens and opens each once.
// Errors: GSS_S_DEFECTIVE_TOKEN for anything but what Export wrote, to the last
// byte; GSS_S_CONTEXT_EXPIRED.
func (p *Provider) ImportSecContext(b []byte) (gssapi.SecContext, error) {
	if err := p.alive(); err != nil {
		return nil, err
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
	if !s.ReadUint64(&expires) || expires == 0 || expires > math.MaxUint32<<8 { // some 34,000 years
		return bad("expiry")
	}
	f.flags, f.expires = gssapi.ContextFlag(flags), time.Unix(int64(expires), 0)
	if f.initiator = readExportedName(&s); f.initiator == nil {
		return bad("initiator's name")
	}
	if f.acceptor = readExportedName(&s); f.acceptor == nil {
		return bad("acceptor's name")
	}
	return f, s, nil
}

// readExportedName returns nil if there is no name.
func readExportedName(s *cryptobyte.String) *name {
	n := &name{mn: true}
	p := &n.principal
	var nameType uint32
	var parts uint8
	if !s.ReadUint32(&nameType) || !readText(s, &p.Realm) || p.Realm == "" ||
		!s.ReadUint8(&parts) || parts == 0 || parts > kmsg.MaxParts {
		return nil
	}
	p.Type = int32(nameType)
	p.Parts = make([]string, parts)
	for i := range p.Parts {
		if !readText(s, &p.Parts[i]) {
			return nil
		}
	}
	if p.Check() != nil {
		return nil
	}
	return n
}

func readText(s *cryptobyte.String, v *string) bool {
	var n uint16
	var b []byte
	if !s.ReadUint16(&n) || n > kmsg.MaxName || !s.ReadBytes(&b, int(n)) {
		return false
	}
	*v = string(b)
	return true
}
