package kmsg

import (
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const msgCred = 22

// EtypeNone is the encryption type of a KRB-CRED that is not encrypted by itself.
// Clients send one inside an authenticator, which is encrypted.
const EtypeNone int32 = 0

// MaxForwarded is how many tickets a KRB-CRED may hold. Clients forward one.
const MaxForwarded = 8

// A Cred is a KRB-CRED (RFC 4120 section 5.8.1): tickets that a client hands to a
// server, and their session keys encrypted.
type Cred struct {
	Tickets [][]byte // the DER of each
	Enc     Encrypted
}

// ParseCred reads a KRB-CRED that is all of b. The result aliases b.
func ParseCred(b []byte) (*Cred, error) {
	seq, ok := open(b, msgCred)
	if !ok {
		return nil, fmt.Errorf("%w: KRB-CRED", ErrMalformed)
	}
	if err := readHead(&seq, msgCred); err != nil {
		return nil, fmt.Errorf("%w: KRB-CRED", err)
	}
	var list cryptobyte.String
	if !sequence(&seq, 2, &list) {
		return nil, fmt.Errorf("%w: KRB-CRED's tickets", ErrMalformed)
	}
	c := new(Cred)
	for !list.Empty() {
		var ticket cryptobyte.String
		if len(c.Tickets) == MaxForwarded || !list.ReadASN1Element(&ticket, application(1)) {
			return nil, fmt.Errorf("%w: KRB-CRED's tickets", ErrMalformed)
		}
		if _, err := ParseTicket(ticket); err != nil {
			return nil, fmt.Errorf("KRB-CRED: %w", err)
		}
		c.Tickets = append(c.Tickets, ticket)
	}
	if len(c.Tickets) == 0 || !readEncrypted(&seq, 3, &c.Enc) || !seq.Empty() {
		return nil, fmt.Errorf("%w: KRB-CRED's encrypted part", ErrMalformed)
	}
	return c, nil
}

// Marshal encodes c.
func (c *Cred) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	message(&b, msgCred, func(b *cryptobyte.Builder) {
		addHead(b, msgCred)
		b.AddASN1(field(2), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, t := range c.Tickets {
					b.AddBytes(t)
				}
			})
		})
		addEncrypted(b, 3, c.Enc)
	})
	return b.Bytes()
}

// A CredPart is the encrypted part of a KRB-CRED: what its tickets are.
type CredPart struct{ Infos []CredInfo }

// A CredInfo is the client's word for one ticket. All but the key may be missing:
// then a name has no components, and a time is zero.
type CredInfo struct {
	Key       Key
	Client    Principal
	Flags     uint32
	AuthTime  time.Time
	StartTime time.Time
	EndTime   time.Time
	RenewTill time.Time
	Service   Principal
}

// ParseCredPart reads an EncKrbCredPart that is all of b. It passes over nonce,
// time and addresses: the authenticator around it has a time of its own. The
// result aliases b.
func ParseCredPart(b []byte) (*CredPart, error) {
	seq, ok := open(b, 29)
	if !ok {
		return nil, fmt.Errorf("%w: KRB-CRED's content", ErrMalformed)
	}
	var list cryptobyte.String
	if !sequence(&seq, 0, &list) {
		return nil, fmt.Errorf("%w: KRB-CRED's ticket information", ErrMalformed)
	}
	p := new(CredPart)
	for !list.Empty() {
		if len(p.Infos) == MaxForwarded {
			return nil, fmt.Errorf("%w: KRB-CRED with more than %d tickets", ErrMalformed, MaxForwarded)
		}
		var c CredInfo
		if !readCredInfo(&list, &c) {
			return nil, fmt.Errorf("%w: KRB-CRED's ticket information", ErrMalformed)
		}
		p.Infos = append(p.Infos, c)
	}
	if len(p.Infos) == 0 || !skip(&seq, 1) || !skip(&seq, 2) || !skip(&seq, 3) || !skip(&seq, 4) || !skip(&seq, 5) || !seq.Empty() {
		return nil, fmt.Errorf("%w: KRB-CRED's content", ErrMalformed)
	}
	return p, nil
}

func readCredInfo(list *cryptobyte.String, c *CredInfo) bool {
	var s cryptobyte.String
	return list.ReadASN1(&s, asn1.SEQUENCE) && readKey(&s, 0, &c.Key) &&
		(!has(&s, 1) || readRealm(&s, 1, &c.Client.Realm)) &&
		(!has(&s, 2) || readName(&s, 2, &c.Client)) &&
		(!has(&s, 3) || readFlags(&s, 3, &c.Flags)) &&
		(!has(&s, 4) || readTime(&s, 4, &c.AuthTime)) &&
		(!has(&s, 5) || readTime(&s, 5, &c.StartTime)) &&
		(!has(&s, 6) || readTime(&s, 6, &c.EndTime)) &&
		(!has(&s, 7) || readTime(&s, 7, &c.RenewTill)) &&
		(!has(&s, 8) || readRealm(&s, 8, &c.Service.Realm)) &&
		(!has(&s, 9) || readName(&s, 9, &c.Service)) &&
		skip(&s, 10) && s.Empty()
}

// MarshalTo encodes p into buf, which holds keys afterwards and is the caller's to
// wipe. It is an error if buf is too short.
func (p *CredPart) MarshalTo(buf []byte) ([]byte, error) {
	b := cryptobyte.NewFixedBuilder(buf[:0:len(buf)])
	message(b, 29, func(b *cryptobyte.Builder) {
		b.AddASN1(field(0), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for i := range p.Infos {
					b.AddASN1(asn1.SEQUENCE, p.Infos[i].add)
				}
			})
		})
	})
	return b.Bytes()
}

func (c *CredInfo) add(b *cryptobyte.Builder) {
	addKey(b, 0, c.Key)
	if c.Client.Realm != "" {
		addRealm(b, 1, c.Client.Realm)
	}
	if c.Client.Parts != nil {
		addName(b, 2, c.Client)
	}
	addFlags(b, 3, c.Flags)
	for i, t := range []time.Time{c.AuthTime, c.StartTime, c.EndTime, c.RenewTill} {
		if !t.IsZero() {
			addTime(b, uint8(4+i), t)
		}
	}
	if c.Service.Realm != "" {
		addRealm(b, 8, c.Service.Realm)
	}
	if c.Service.Parts != nil {
		addName(b, 9, c.Service)
	}
}
