package kmsg

import (
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// An Error is a KRB-ERROR (RFC 4120 section 5.9.1). It is not authenticated.
type Error struct {
	Code    int32
	STime   time.Time
	SUSec   int
	Service Principal
}

// ParseError reads a KRB-ERROR that is all of b. It passes over text and data,
// since anyone may have written them.
func ParseError(b []byte) (*Error, error) {
	seq, ok := open(b, msgError)
	if !ok {
		return nil, fmt.Errorf("%w: KRB-ERROR", ErrMalformed)
	}
	if err := readHead(&seq, msgError); err != nil {
		return nil, fmt.Errorf("%w: KRB-ERROR", err)
	}
	e := new(Error)
	ok = skip(&seq, 2) && skip(&seq, 3) &&
		readTime(&seq, 4, &e.STime) && readMicros(&seq, 5, &e.SUSec) && readInt32(&seq, 6, &e.Code) &&
		skip(&seq, 7) && skip(&seq, 8) &&
		readRealm(&seq, 9, &e.Service.Realm) && readName(&seq, 10, &e.Service) &&
		skip(&seq, 11) && skip(&seq, 12) && seq.Empty()
	if !ok {
		return nil, fmt.Errorf("%w: KRB-ERROR", ErrMalformed)
	}
	return e, nil
}

// Marshal encodes e.
func (e *Error) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	message(&b, msgError, func(b *cryptobyte.Builder) {
		addHead(b, msgError)
		addTime(b, 4, e.STime)
		addInt(b, 5, int64(e.SUSec))
		addInt(b, 6, int64(e.Code))
		addRealm(b, 9, e.Service.Realm)
		addName(b, 10, e.Service)
	})
	return b.Bytes()
}
