// Package ccache reads and writes credential caches: the files, in the format
// that MIT and Heimdal share, in which a user's tickets and session keys lie.
//
// Credentials alias the bytes that they were read from, so that a cache read
// into locked memory leaves no key elsewhere. Reading never panics and
// allocates in proportion to the input.
//
// # Format
//
//	file       = 05 04 | header u16-counted | principal | credential*
//	principal  = name type u32 | components u32 | realm | component*
//	credential = client principal | server principal | enctype u16 | key |
//	             authtime, starttime, endtime, renew-till u32 each |
//	             is-skey u8 | ticket flags u32 | addresses | authdata |
//	             ticket | second ticket
//
// with big-endian integers; names, keys and tickets have a length u32 before
// them, the two lists a count u32. Version 3 has no header and writes the
// enctype twice. Versions 1 and 2, in native byte order, are refused.
package ccache

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// ErrMalformed means that the cache is cut off or no cache at all.
// GSS_S_DEFECTIVE_CREDENTIAL.
var ErrMalformed = errors.New("ccache: malformed credential cache")

// MaxSize is the largest cache in bytes that is read: some hundred tickets
// with a PAC each.
const MaxSize = 1 << 20

const (
	version3 = 0x0503
	version4 = 0x0504
)

// configRealm marks entries in which implementations keep notes to themselves.
const configRealm = "X-CACHECONF:"

// A Cache is a client's tickets.
type Cache struct {
	Client      kmsg.Principal
	Credentials []Credential
}

// A Credential is one ticket with its session key.
type Credential struct {
	Client    kmsg.Principal
	Server    kmsg.Principal
	Key       kmsg.Key
	AuthTime  time.Time
	StartTime time.Time
	EndTime   time.Time
	RenewTill time.Time
	Flags     uint32 // kmsg's ticket flags
	Ticket    []byte // encoded, as it goes into an AP-REQ

	userToUser bool // is-skey: encrypted in another ticket's session key
}

// Parse reads a cache, without tickets for user-to-user authentication and
// without what implementations keep there for themselves. Keys and tickets alias b.
// The error is ErrMalformed.
func Parse(b []byte) (*Cache, error) {
	s := reader{String: cryptobyte.String(b)}
	var v uint16
	if len(b) > MaxSize || !s.ReadUint16(&v) || v != version3 && v != version4 {
		return nil, fmt.Errorf("%w: not a cache of version 3 or 4 of at most %d bytes", ErrMalformed, MaxSize)
	}
	s.v3 = v == version3
	var header cryptobyte.String
	if !s.v3 && !s.ReadUint16LengthPrefixed(&header) {
		return nil, fmt.Errorf("%w: header", ErrMalformed)
	}
	c := new(Cache)
	if !s.principal(&c.Client) {
		return nil, fmt.Errorf("%w: client", ErrMalformed)
	}
	if err := c.Client.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for n := 1; !s.Empty(); n++ {
		var cred Credential
		if !s.credential(&cred) {
			return nil, fmt.Errorf("%w: credential %d", ErrMalformed, n)
		}
		if !cred.userToUser && cred.Server.Realm != configRealm && cred.Server.Check() == nil && cred.Client.Check() == nil {
			c.Credentials = append(c.Credentials, cred)
		}
	}
	return c, nil
}

type reader struct {
	cryptobyte.String
	v3 bool
}

func (s *reader) octets(v *[]byte) bool {
	var n uint32
	return s.ReadUint32(&n) && uint64(n) <= uint64(len(s.String)) && s.ReadBytes(v, int(n))
}

func (s *reader) text(v *string) bool {
	var b []byte
	if !s.octets(&b) || len(b) > kmsg.MaxName {
		return false
	}
	*v = string(b)
	return true
}

func (s *reader) principal(p *kmsg.Principal) bool {
	var nameType, parts uint32
	if !s.ReadUint32(&nameType) || !s.ReadUint32(&parts) || parts > kmsg.MaxParts || !s.text(&p.Realm) {
		return false
	}
	p.Type = int32(nameType)
	for range parts {
		var part string
		if !s.text(&part) {
			return false
		}
		p.Parts = append(p.Parts, part)
	}
	return true
}

func (s *reader) key(k *kmsg.Key) bool {
	var etype uint16
	if !s.ReadUint16(&etype) || s.v3 && !s.ReadUint16(&etype) {
		return false
	}
	k.EType = int32(int16(etype))
	return s.octets(&k.Value)
}

func (s *reader) time(t *time.Time) bool {
	var v uint32
	ok := s.ReadUint32(&v)
	if v != 0 {
		*t = time.Unix(int64(v), 0)
	}
	return ok
}

// list steps over a list of typed octets: addresses or authorization data.
func (s *reader) list() bool {
	var n uint32
	if !s.ReadUint32(&n) {
		return false
	}
	for range n {
		var kind uint16
		var b []byte
		if !s.ReadUint16(&kind) || !s.octets(&b) {
			return false
		}
	}
	return true
}

func (s *reader) credential(c *Credential) bool {
	var skey uint8
	var second []byte
	ok := s.principal(&c.Client) && s.principal(&c.Server) && s.key(&c.Key) &&
		s.time(&c.AuthTime) && s.time(&c.StartTime) && s.time(&c.EndTime) && s.time(&c.RenewTill) &&
		s.ReadUint8(&skey) && s.ReadUint32(&c.Flags) && s.list() && s.list() &&
		s.octets(&c.Ticket) && s.octets(&second)
	c.userToUser = skey != 0
	return ok
}

// MarshalTo writes a cache of version 4 into buf, which holds keys afterwards
// and is the caller's to wipe. It is an error if buf is too short.
func (c *Cache) MarshalTo(buf []byte) ([]byte, error) {
	b := cryptobyte.NewFixedBuilder(buf[:0:len(buf)])
	b.AddUint16(version4)
	b.AddUint16(0) // no header fields
	addPrincipal(b, c.Client)
	for _, cred := range c.Credentials {
		addPrincipal(b, cred.Client)
		addPrincipal(b, cred.Server)
		b.AddUint16(uint16(cred.Key.EType))
		addOctets(b, cred.Key.Value)
		for _, t := range []time.Time{cred.AuthTime, cred.StartTime, cred.EndTime, cred.RenewTill} {
			addTime(b, t)
		}
		b.AddUint8(0)
		b.AddUint32(cred.Flags)
		b.AddUint32(0) // addresses
		b.AddUint32(0) // authorization data
		addOctets(b, cred.Ticket)
		addOctets(b, nil)
	}
	return b.Bytes()
}

// Size returns at least the length that MarshalTo needs.
func (c *Cache) Size() int {
	const fixed = 128 // integers of one credential
	n := fixed + principalSize(c.Client)
	for _, cred := range c.Credentials {
		n += fixed + principalSize(cred.Client) + principalSize(cred.Server) + len(cred.Key.Value) + len(cred.Ticket)
	}
	return n
}

func principalSize(p kmsg.Principal) int {
	n := 12 + len(p.Realm)
	for _, s := range p.Parts {
		n += 4 + len(s)
	}
	return n
}

func addOctets(b *cryptobyte.Builder, v []byte) {
	b.AddUint32(uint32(len(v)))
	b.AddBytes(v)
}

func addTime(b *cryptobyte.Builder, t time.Time) {
	if t.IsZero() {
		b.AddUint32(0)
		return
	}
	b.AddUint32(uint32(t.Unix()))
}

func addPrincipal(b *cryptobyte.Builder, p kmsg.Principal) {
	b.AddUint32(uint32(p.Type))
	b.AddUint32(uint32(len(p.Parts)))
	addOctets(b, []byte(p.Realm))
	for _, s := range p.Parts {
		addOctets(b, []byte(s))
	}
}
