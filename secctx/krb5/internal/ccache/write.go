package ccache

import (
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// MarshalTo writes a cache of version 4 into buf, which holds keys afterwards
// and is the caller's to wipe. It is an error if buf is too short.
func (c *Cache) MarshalTo(buf []byte) ([]byte, error) {
	b := cryptobyte.NewFixedBuilder(buf[:0:len(buf)])
	b.AddUint16(version4)
	addHeader(b, c.Offset)
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

func addHeader(b *cryptobyte.Builder, offset time.Duration) {
	if offset == 0 {
		b.AddUint16(0) // no fields
		return
	}
	b.AddUint16(12)
	b.AddUint16(tagDeltaTime)
	b.AddUint16(8)
	b.AddUint32(uint32(offset / time.Second))
	b.AddUint32(uint32(offset % time.Second / time.Microsecond))
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
