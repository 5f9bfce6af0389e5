package kmsg

import (
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// An Authenticator proves that the client holds the ticket's session key now
// (RFC 4120 section 5.5.1).
type Authenticator struct {
	Client       Principal
	ChecksumType int32
	Checksum     []byte // nil for none
	CTime        time.Time
	CUSec        int
	Subkey       Key // Value nil for none
	Seq          uint32
	HasSeq       bool

	// BindingsAware is set if the authorization data says that the client sends
	// channel bindings wherever it has a channel (KERB_AP_OPTIONS_CBT). MarshalTo
	// does not write it.
	BindingsAware bool
}

// ParseAuthenticator reads an Authenticator that is all of b. The result
// aliases b.
func ParseAuthenticator(b []byte) (*Authenticator, error) {
	bad := func(what string) (*Authenticator, error) {
		return nil, fmt.Errorf("%w: authenticator's %s", ErrMalformed, what)
	}
	seq, ok := open(b, 2)
	if !ok {
		return bad("content")
	}
	var vno int64
	if !readInt(&seq, 0, 0, 255, &vno) {
		return bad("version")
	}
	if vno != Version {
		return nil, fmt.Errorf("%w: authenticator", ErrVersion)
	}
	a := new(Authenticator)
	if !readRealm(&seq, 1, &a.Client.Realm) || !readName(&seq, 2, &a.Client) {
		return bad("client name")
	}
	if has(&seq, 3) {
		var ck cryptobyte.String
		if !sequence(&seq, 3, &ck) || !readInt32(&ck, 0, &a.ChecksumType) || !readOctets(&ck, 1, &a.Checksum) || !ck.Empty() {
			return bad("checksum")
		}
	}
	if !readMicros(&seq, 4, &a.CUSec) || !readTime(&seq, 5, &a.CTime) {
		return bad("time")
	}
	if has(&seq, 6) && !readKey(&seq, 6, &a.Subkey) {
		return bad("subkey")
	}
	if a.HasSeq = has(&seq, 7); a.HasSeq && !readUint32(&seq, 7, &a.Seq) {
		return bad("sequence number")
	}
	var ad []byte
	var critical int32
	if has(&seq, 8) && !readAuthData(&seq, 8, &ad, &critical) || !seq.Empty() {
		return bad("authorization data")
	}
	if critical != 0 {
		return nil, fmt.Errorf("%w: authenticator, type %d", ErrCritical, critical)
	}
	a.BindingsAware = bindingsAware(ad)
	return a, nil
}

// MarshalTo encodes a into buf, which holds a key afterwards and is the
// caller's to wipe. It is an error if buf is too short.
func (a *Authenticator) MarshalTo(buf []byte) ([]byte, error) {
	b := cryptobyte.NewFixedBuilder(buf[:0:len(buf)])
	message(b, 2, func(b *cryptobyte.Builder) {
		addInt(b, 0, Version)
		addRealm(b, 1, a.Client.Realm)
		addName(b, 2, a.Client)
		if a.Checksum != nil {
			b.AddASN1(field(3), func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					addInt(b, 0, int64(a.ChecksumType))
					addOctets(b, 1, a.Checksum)
				})
			})
		}
		addInt(b, 4, int64(a.CUSec))
		addTime(b, 5, a.CTime)
		if a.Subkey.Value != nil {
			addKey(b, 6, a.Subkey)
		}
		if a.HasSeq {
			addInt(b, 7, int64(a.Seq))
		}
	})
	return b.Bytes()
}
