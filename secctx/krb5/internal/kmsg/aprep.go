package kmsg

import (
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// ParseAPRep reads an AP-REP that is all of b (RFC 4120 section 5.5.2). The
// result aliases b.
func ParseAPRep(b []byte) (*Encrypted, error) {
	seq, ok := open(b, msgAPRep)
	if !ok {
		return nil, fmt.Errorf("%w: AP-REP", ErrMalformed)
	}
	if err := readHead(&seq, msgAPRep); err != nil {
		return nil, fmt.Errorf("%w: AP-REP", err)
	}
	e := new(Encrypted)
	if !readEncrypted(&seq, 2, e) || !seq.Empty() {
		return nil, fmt.Errorf("%w: AP-REP's encrypted part", ErrMalformed)
	}
	return e, nil
}

// MarshalAPRep encodes an AP-REP.
func MarshalAPRep(e Encrypted) ([]byte, error) {
	var b cryptobyte.Builder
	message(&b, msgAPRep, func(b *cryptobyte.Builder) {
		addHead(b, msgAPRep)
		addEncrypted(b, 2, e)
	})
	return b.Bytes()
}

// APRepPart is the encrypted part of an AP-REP.
type APRepPart struct {
	CTime  time.Time
	CUSec  int
	Subkey Key // Value nil for none
	Seq    uint32
	HasSeq bool
}

// ParseAPRepPart reads an EncAPRepPart that is all of b. The result aliases b.
func ParseAPRepPart(b []byte) (*APRepPart, error) {
	bad := func(what string) (*APRepPart, error) {
		return nil, fmt.Errorf("%w: AP-REP's %s", ErrMalformed, what)
	}
	seq, ok := open(b, 27)
	if !ok {
		return bad("content")
	}
	r := new(APRepPart)
	if !readTime(&seq, 0, &r.CTime) || !readMicros(&seq, 1, &r.CUSec) {
		return bad("time")
	}
	if has(&seq, 2) && !readKey(&seq, 2, &r.Subkey) {
		return bad("subkey")
	}
	if r.HasSeq = has(&seq, 3); r.HasSeq && !readUint32(&seq, 3, &r.Seq) || !seq.Empty() {
		return bad("sequence number")
	}
	return r, nil
}

// MarshalTo encodes r into buf, which holds a key afterwards and is the
// caller's to wipe. It is an error if buf is too short.
func (r *APRepPart) MarshalTo(buf []byte) ([]byte, error) {
	b := cryptobyte.NewFixedBuilder(buf[:0:len(buf)])
	message(b, 27, func(b *cryptobyte.Builder) {
		addTime(b, 0, r.CTime)
		addInt(b, 1, int64(r.CUSec))
		if r.Subkey.Value != nil {
			addKey(b, 2, r.Subkey)
		}
		if r.HasSeq {
			addInt(b, 3, int64(r.Seq))
		}
	})
	return b.Bytes()
}
