package kmsg

import (
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Ticket flags (RFC 4120 section 2.9 and 5.3) that an application server looks at.
const (
	FlagForwardable          uint32 = 1 << 30
	FlagForwarded            uint32 = 1 << 29
	FlagInvalid              uint32 = 1 << 24
	FlagInitial              uint32 = 1 << 22
	FlagPreAuthent           uint32 = 1 << 21
	FlagAnonymous            uint32 = 1 << 15 // RFC 8062
	FlagTransitPolicyChecked uint32 = 1 << 19
	FlagOKAsDelegate         uint32 = 1 << 18
)

// A Ticket is what a client shows a server (RFC 4120 section 5.3). Service, and
// Enc's enctype and kvno, are in clear and not authenticated: the carrier of a
// ticket can rewrite them.
type Ticket struct {
	Service Principal
	Enc     Encrypted
}

// ParseTicket reads a Ticket that is all of b.
func ParseTicket(b []byte) (*Ticket, error) {
	seq, ok := open(b, 1)
	if !ok {
		return nil, fmt.Errorf("%w: ticket", ErrMalformed)
	}
	var vno int64
	if !readInt(&seq, 0, 0, 255, &vno) {
		return nil, fmt.Errorf("%w: ticket version", ErrMalformed)
	}
	if vno != Version {
		return nil, fmt.Errorf("%w: ticket", ErrVersion)
	}
	t := new(Ticket)
	if !readRealm(&seq, 1, &t.Service.Realm) || !readName(&seq, 2, &t.Service) {
		return nil, fmt.Errorf("%w: ticket's service name", ErrMalformed)
	}
	if !readEncrypted(&seq, 3, &t.Enc) || !seq.Empty() {
		return nil, fmt.Errorf("%w: ticket's encrypted part", ErrMalformed)
	}
	return t, nil
}

// Marshal encodes t.
func (t *Ticket) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	message(&b, 1, func(b *cryptobyte.Builder) {
		addInt(b, 0, Version)
		addRealm(b, 1, t.Service.Realm)
		addName(b, 2, t.Service)
		addEncrypted(b, 3, t.Enc)
	})
	return b.Bytes()
}

// A TicketPart is the encrypted part of a ticket: the KDC's word for who the
// client is. AD-IF-RELEVANT among the authorization data, with a PAC inside say,
// is passed over. Any other type is ErrCritical.
type TicketPart struct {
	Flags     uint32
	Key       Key
	Client    Principal
	Transited []byte // names of the realms passed through, empty for none
	AuthTime  time.Time
	StartTime time.Time // zero: AuthTime
	EndTime   time.Time
	RenewTill time.Time // zero: not renewable
	AuthData  []byte    // the AuthorizationData as it stands, nil for none
}

// ParseTicketPart reads an EncTicketPart that is all of b. The result aliases b.
func ParseTicketPart(b []byte) (*TicketPart, error) {
	bad := func(what string) (*TicketPart, error) {
		return nil, fmt.Errorf("%w: ticket's %s", ErrMalformed, what)
	}
	seq, ok := open(b, 3)
	if !ok {
		return bad("content")
	}
	t := new(TicketPart)
	if !readFlags(&seq, 0, &t.Flags) || !readKey(&seq, 1, &t.Key) {
		return bad("flags or key")
	}
	if !readRealm(&seq, 2, &t.Client.Realm) || !readName(&seq, 3, &t.Client) {
		return bad("client name")
	}
	if t.Client.Check() != nil {
		return bad("client name")
	}
	if !readTransited(&seq, 4, &t.Transited) {
		return bad("transited realms")
	}
	if !readTime(&seq, 5, &t.AuthTime) ||
		has(&seq, 6) && !readTime(&seq, 6, &t.StartTime) ||
		!readTime(&seq, 7, &t.EndTime) ||
		has(&seq, 8) && !readTime(&seq, 8, &t.RenewTill) {
		return bad("times")
	}
	var critical int32
	if !skip(&seq, 9) || has(&seq, 10) && !readAuthData(&seq, 10, &t.AuthData, &critical) || !seq.Empty() {
		return bad("addresses or authorization data")
	}
	if critical != 0 {
		return nil, fmt.Errorf("%w: ticket, type %d", ErrCritical, critical)
	}
	return t, nil
}

// MarshalTo encodes t into buf, which holds a key afterwards and is the
// caller's to wipe. It is an error if buf is too short.
func (t *TicketPart) MarshalTo(buf []byte) ([]byte, error) {
	b := cryptobyte.NewFixedBuilder(buf[:0:len(buf)])
	message(b, 3, func(b *cryptobyte.Builder) {
		addFlags(b, 0, t.Flags)
		addKey(b, 1, t.Key)
		addRealm(b, 2, t.Client.Realm)
		addName(b, 3, t.Client)
		addTransited(b, 4, t.Transited)
		addTime(b, 5, t.AuthTime)
		if !t.StartTime.IsZero() {
			addTime(b, 6, t.StartTime)
		}
		addTime(b, 7, t.EndTime)
		if !t.RenewTill.IsZero() {
			addTime(b, 8, t.RenewTill)
		}
		if t.AuthData != nil {
			b.AddASN1(field(10), func(b *cryptobyte.Builder) { b.AddBytes(t.AuthData) })
		}
	})
	return b.Bytes()
}

// transitX500 is DOMAIN-X500-COMPRESS, the only encoding of transited realms.
const transitX500 = 1

func readTransited(s *cryptobyte.String, n uint8, contents *[]byte) bool {
	var seq cryptobyte.String
	var kind int32
	return sequence(s, n, &seq) && readInt32(&seq, 0, &kind) && readOctets(&seq, 1, contents) && seq.Empty() &&
		(kind == transitX500 || len(*contents) == 0)
}

func addTransited(b *cryptobyte.Builder, n uint8, contents []byte) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, transitX500)
			addOctets(b, 1, contents)
		})
	})
}
