// Package ccache reads and writes credential caches: the files, in the format
// that MIT and Heimdal share, in which a user's tickets and session keys lie.
//
// A cache is read through a small buffer, whatever its length. Session keys go
// into memory that the caller provides, and nowhere else. Reading never panics
// and allocates in proportion to the input.
//
// # Format
//
//	file       = 05 04 | header | principal | credential*
//	header     = length u16 | field*
//	field      = tag u16 | length u16 | value     tag 1: clock offset, two int32
//	principal  = name type u32 | components u32 | realm | component*
//	credential = client principal | server principal | enctype u16 | key |
//	             authtime, starttime, endtime, renew-till u32 each |
//	             is-skey u8 | ticket flags u32 | addresses | authdata |
//	             ticket | second ticket
//
// with big-endian integers; names, keys and tickets have a length u32 before
// them, the two lists a count u32. Version 3 has no header and writes the
// enctype twice. Versions 1 and 2, in native byte order, are refused.
//
// # What is left out
//
// A program that removes a credential overwrites its end time with zero; MIT's
// library writes -1 as its authentication time too. Removed credentials, notes
// that implementations keep for themselves, tickets for user-to-user
// authentication, and names that no peer could have are left out.
//
// MIT's library ends at the first credential that is cut off or malformed and
// uses those before it. So does Read. A cache in which that is the first one is
// ErrMalformed.
package ccache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/stream"
)

// ErrMalformed means that a file is no credential cache or is cut off before
// its first credential ends. GSS_S_DEFECTIVE_CREDENTIAL.
var ErrMalformed = errors.New("ccache: malformed credential cache")

// Limits of what is read.
const (
	// MaxSize is the longest cache in bytes. MIT's library has no limit. A cache
	// grows with each note and ticket until the next kinit: 7,000 tickets with a
	// PAC of 8 KiB come to 56 MiB.
	MaxSize = 256 << 20
	// maxKey is the longest session key in bytes. Those of the encryption types
	// in use have 32 or less.
	maxKey = 64
)

const (
	version3 = 0x0503
	version4 = 0x0504

	tagDeltaTime = 1
)

// configRealm marks entries in which implementations keep notes to themselves.
const configRealm = "X-CACHECONF:"

// A Cache is a client's tickets. Their times are by the KDC's clock.
type Cache struct {
	Client kmsg.Principal
	// Offset is how far the KDC's clock was ahead of this host's when the cache
	// was made, negative if it was behind. Zero: not known, or none.
	Offset      time.Duration
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
}

// Parse reads a cache that is in memory. Keys and tickets are copies. The error
// is ErrMalformed.
func Parse(b []byte) (*Cache, error) {
	buf := make([]byte, stream.MinBuffer)
	defer memsafe.Wipe(buf)
	return Read(stream.NewReader(bytes.NewReader(b), int64(len(b)), buf), func(n int) ([]byte, error) { return make([]byte, n), nil })
}

// Read reads a cache. It puts session keys into memory that alloc returns. The
// error is ErrMalformed, or wraps one of alloc or of the source.
func Read(src *stream.Reader, alloc func(n int) ([]byte, error)) (*Cache, error) {
	s := reader{Reader: src, alloc: alloc}
	c, err := s.cache()
	if s.Err() != nil {
		return nil, fmt.Errorf("ccache: %w", s.Err())
	}
	return c, err
}

type reader struct {
	*stream.Reader
	v3    bool
	alloc func(int) ([]byte, error)
}

func (s *reader) cache() (*Cache, error) {
	var v uint16
	if s.Left() > MaxSize || !s.Uint16(&v) || v != version3 && v != version4 {
		return nil, fmt.Errorf("%w: not a cache of version 3 or 4 of at most %d bytes", ErrMalformed, MaxSize)
	}
	s.v3 = v == version3
	c := new(Cache)
	if !s.v3 && !s.header(&c.Offset) {
		return nil, fmt.Errorf("%w: header", ErrMalformed)
	}
	if ok, usable := s.principal(&c.Client); !ok || !usable {
		return nil, fmt.Errorf("%w: client", ErrMalformed)
	}
	if err := c.Client.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for first := true; s.Left() > 0; first = false {
		var cred Credential
		ok, usable, err := s.credential(&cred)
		switch {
		case err != nil:
			return nil, err
		case !ok && first:
			return nil, fmt.Errorf("%w: the first credential is cut off", ErrMalformed)
		case ok && usable:
			c.Credentials = append(c.Credentials, cred)
		}
	}
	return c, nil
}

// header reads the tagged fields. Those that are not known are passed over.
func (s *reader) header(offset *time.Duration) bool {
	var left uint16
	if !s.Uint16(&left) {
		return false
	}
	for left > 0 {
		var tag, n uint16
		if left < 4 || !s.Uint16(&tag) || !s.Uint16(&n) || n > left-4 {
			return false
		}
		if tag == tagDeltaTime {
			var sec, usec uint32
			if n != 8 || !s.Uint32(&sec) || !s.Uint32(&usec) {
				return false
			}
			*offset = time.Duration(int32(sec))*time.Second + time.Duration(int32(usec))*time.Microsecond
		} else if !s.Skip(int64(n)) {
			return false
		}
		left -= 4 + n
	}
	return true
}

// octets returns counted octets in memory of their own.
func (s *reader) octets(v *[]byte) bool {
	var n uint32
	if !s.Uint32(&n) || int64(n) > s.Left() {
		return false
	}
	*v = make([]byte, n)
	return s.Full(*v)
}

// skipOctets passes over counted octets.
func (s *reader) skipOctets() bool {
	var n uint32
	return s.Uint32(&n) && s.Skip(int64(n))
}

// text reads a part of a name. It is usable if a peer could have such a name.
func (s *reader) text(v *string) (ok, usable bool) {
	var n uint32
	if !s.Uint32(&n) {
		return false, false
	}
	if n > kmsg.MaxName {
		return s.Skip(int64(n)), false
	}
	b := make([]byte, n)
	ok = s.Full(b)
	*v = string(b)
	return ok, ok
}

func (s *reader) principal(p *kmsg.Principal) (ok, usable bool) {
	var nameType, parts uint32
	if !s.Uint32(&nameType) || !s.Uint32(&parts) {
		return false, false
	}
	if ok, usable = s.text(&p.Realm); !ok {
		return false, false
	}
	usable = usable && parts <= kmsg.MaxParts
	p.Type = int32(nameType)
	for range parts {
		var part string
		ok, fits := s.text(&part)
		if !ok {
			return false, false
		}
		if usable = usable && fits; usable {
			p.Parts = append(p.Parts, part)
		}
	}
	return true, usable
}

// list steps over a list of typed octets: addresses or authorization data.
func (s *reader) list() bool {
	var n uint32
	if !s.Uint32(&n) {
		return false
	}
	for range n {
		if !s.Skip(2) || !s.skipOctets() {
			return false
		}
	}
	return true
}

// credential reads one credential. Where it is not usable it is passed over,
// and its key and ticket are kept nowhere.
func (s *reader) credential(c *Credential) (ok, usable bool, err error) {
	ok, client := s.principal(&c.Client)
	if !ok {
		return false, false, nil
	}
	ok, server := s.principal(&c.Server)
	if !ok {
		return false, false, nil
	}
	usable = client && server && c.Server.Realm != configRealm && c.Server.Check() == nil && c.Client.Check() == nil
	if ok, err = s.keyAndTimes(c, &usable); err != nil || !ok {
		return false, false, err
	}
	for range 2 { // addresses and authorization data
		if !s.list() {
			return false, false, nil
		}
	}
	if usable {
		ok = s.octets(&c.Ticket)
	} else {
		ok = s.skipOctets()
	}
	return ok && s.skipOctets(), usable, nil
}

// afterKey is the length of what follows the key: four times, is-skey, flags.
const afterKey = 4*4 + 1 + 4

// keyAndTimes looks at the fields behind the key before it takes the key out of
// the buffer.
func (s *reader) keyAndTimes(c *Credential, usable *bool) (ok bool, err error) {
	var etype uint16
	var n uint32
	if !s.Uint16(&etype) || s.v3 && !s.Uint16(&etype) || !s.Uint32(&n) {
		return false, nil
	}
	c.Key.EType = int32(int16(etype))
	if n > maxKey {
		*usable = false
		if !s.Skip(int64(n)) {
			return false, nil
		}
		n = 0
	}
	b, ok := s.Peek(int(n) + afterKey)
	if !ok {
		return false, nil
	}
	key, rest := b[:n], b[n:]
	for i, t := range []*time.Time{&c.AuthTime, &c.StartTime, &c.EndTime, &c.RenewTill} {
		if v := binary.BigEndian.Uint32(rest[4*i:]); v != 0 {
			*t = time.Unix(int64(v), 0)
		}
	}
	userToUser := rest[16] != 0
	c.Flags = binary.BigEndian.Uint32(rest[17:])
	removed := c.EndTime.IsZero()
	if *usable = *usable && !userToUser && !removed; *usable {
		if c.Key.Value, err = s.alloc(len(key)); err != nil {
			return false, err
		}
		memsafe.Do(func() { copy(c.Key.Value, key) })
	}
	return s.Skip(int64(len(b))), nil
}

// New makes a cache without tickets from its client's name, in the format above.
// Key rings and credential servers keep a cache in such pieces. The error is
// ErrMalformed.
func New(client []byte) (*Cache, error) {
	s := reader{Reader: stream.NewReader(bytes.NewReader(client), int64(len(client)), make([]byte, stream.MinBuffer))}
	c := new(Cache)
	if ok, usable := s.principal(&c.Client); !ok || !usable || c.Client.Check() != nil {
		return nil, fmt.Errorf("%w: client", ErrMalformed)
	}
	return c, nil
}

// Add reads one credential in the format above and adds it if it is of use. The
// error is as of Read.
func (c *Cache) Add(src *stream.Reader, alloc func(n int) ([]byte, error)) error {
	s := reader{Reader: src, alloc: alloc}
	var cred Credential
	ok, usable, err := s.credential(&cred)
	switch {
	case err != nil:
		return err
	case s.Err() != nil:
		return fmt.Errorf("ccache: %w", s.Err())
	case !ok:
		return fmt.Errorf("%w: a credential is cut off", ErrMalformed)
	case usable:
		c.Credentials = append(c.Credentials, cred)
	}
	return nil
}

// Granting returns the best ticket-granting ticket of the client's realm, nil if
// none is alive at now, by the KDC's clock: one of a preferred encryption type if
// there is one, and the one that lasts longest.
func (c *Cache) Granting(now time.Time, preferred func(etype int32) bool) (best *Credential) {
	for i := range c.Credentials {
		cr := &c.Credentials[i]
		switch {
		case !cr.Server.IsTGS() || cr.Server.Parts[1] != c.Client.Realm || !cr.Client.Equal(c.Client):
		case !now.Before(cr.EndTime) || cr.Flags&kmsg.FlagInvalid != 0:
		case best == nil, preferred(cr.Key.EType) && !preferred(best.Key.EType):
			best = cr
		case preferred(cr.Key.EType) == preferred(best.Key.EType) && cr.EndTime.After(best.EndTime):
			best = cr
		}
	}
	return best
}

// Clone returns a copy. It puts session keys into memory that alloc returns.
func (c *Cache) Clone(alloc func(n int) ([]byte, error)) (*Cache, error) {
	d := *c
	d.Credentials = slices.Clone(c.Credentials)
	for i := range d.Credentials {
		key := d.Credentials[i].Key.Value
		mem, err := alloc(len(key))
		if err != nil {
			return nil, err
		}
		memsafe.Do(func() { copy(mem, key) })
		d.Credentials[i].Key.Value = mem
	}
	return &d, nil
}
