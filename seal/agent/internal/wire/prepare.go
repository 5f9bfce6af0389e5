package wire

import (
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// MaxPrepared is how many reservations one prepare request may ask for, and how many
// a connection may hold unsealed.
const MaxPrepared = 16

// MaxFormats is how many plain formats one open-any request may name.
const MaxFormats = 4

// A PrepareRequest reserves tokens that the agent will seal: the client gets no key.
type PrepareRequest struct {
	Lifetime  time.Duration // zero: the agent's default
	Count     int           // 1 to MaxPrepared
	Mechanism []byte
	Format    []byte
	Audience  []byte // kind and value; empty: the peer's own user
}

// Marshal returns the request's frame, or ErrMalformed for a field out of range.
func (r *PrepareRequest) Marshal() ([]byte, error) {
	if r.Count < 1 || r.Count > MaxPrepared || r.Lifetime < 0 {
		return nil, ErrMalformed
	}
	return request(Prepare, func(b *cryptobyte.Builder) {
		b.AddUint64(uint64(r.Lifetime))
		b.AddUint8(uint8(r.Count))
		b.AddUint16LengthPrefixed(add(r.Mechanism))
		b.AddUint16LengthPrefixed(add(r.Format))
		b.AddUint16LengthPrefixed(add(r.Audience))
	})
}

// ParsePrepare reads the body of a prepare request. The slices point into it.
func ParsePrepare(body []byte) (r PrepareRequest, err error) {
	s := cryptobyte.String(body)
	var lifetime uint64
	var count uint8
	if !s.ReadUint64(&lifetime) || lifetime > math.MaxInt64 || !s.ReadUint8(&count) || count < 1 || count > MaxPrepared ||
		!read16(&s, &r.Mechanism) || !read16(&s, &r.Format) || !read16(&s, &r.Audience) || !s.Empty() {
		return PrepareRequest{}, ErrMalformed
	}
	r.Lifetime, r.Count = time.Duration(lifetime), int(count)
	return r, nil
}

// MarshalPrepared returns the frame of the answer to a prepare request.
func MarshalPrepared(starts [][]byte) []byte {
	b := cryptobyte.NewBuilder(nil)
	b.AddUint8(uint8(len(starts)))
	for _, start := range starts {
		b.AddUint16LengthPrefixed(add(start))
	}
	return Frame(Header{Op: Prepare, Reply: true}, b.BytesOrPanic())
}

// ParsePrepared reads the body of the answer to a prepare request.
func ParsePrepared(body []byte) (starts [][]byte, err error) {
	s := cryptobyte.String(body)
	var n uint8
	if !s.ReadUint8(&n) || n < 1 || n > MaxPrepared {
		return nil, ErrMalformed
	}
	for range n {
		var start []byte
		if !read16(&s, &start) {
			return nil, ErrMalformed
		}
		starts = append(starts, start)
	}
	if !s.Empty() {
		return nil, ErrMalformed
	}
	return starts, nil
}

// SealPrefix returns what goes before a plain token of n bytes in a seal request, so
// that the token itself is never copied into a frame.
func SealPrefix(start []byte, n int) ([]byte, error) {
	size := 2 + len(start) + 4 + n
	if len(start) > math.MaxUint16 || size > MaxBody {
		return nil, ErrMalformed
	}
	b := cryptobyte.NewBuilder(make([]byte, HeaderSize, HeaderSize+size-n))
	b.AddUint16LengthPrefixed(add(start))
	b.AddUint32(uint32(n))
	prefix := b.BytesOrPanic()
	Header{Op: Seal, Length: size}.Put(prefix)
	return prefix, nil
}

// ParseSeal reads the body of a seal request. plain points into it and is the
// caller's to wipe with it.
func ParseSeal(body []byte) (start, plain []byte, err error) {
	s := cryptobyte.String(body)
	if !read16(&s, &start) || !read32(&s, &plain) || !s.Empty() {
		return nil, nil, ErrMalformed
	}
	return start, plain, nil
}

// MarshalSealed returns the frame of the answer to a seal request.
func MarshalSealed(token []byte) []byte {
	b := cryptobyte.NewBuilder(make([]byte, 0, 4+len(token)))
	addLen32(b, token)
	return Frame(Header{Op: Seal, Reply: true}, b.BytesOrPanic())
}

// ParseSealed reads the body of the answer to a seal request.
func ParseSealed(body []byte) (token []byte, err error) {
	s := cryptobyte.String(body)
	if !read32(&s, &token) || !s.Empty() {
		return nil, ErrMalformed
	}
	return token, nil
}

// An OpenAnyRequest is an OpenRequest that takes a token of any of several formats.
type OpenAnyRequest struct {
	Formats   [][]byte // 1 to MaxFormats
	Token     []byte
	Exporters [][]byte // as in an OpenRequest
}

// Marshal returns the request's frame, or ErrMalformed for too many formats or too
// large a token.
func (r *OpenAnyRequest) Marshal() ([]byte, error) {
	if len(r.Formats) < 1 || len(r.Formats) > MaxFormats || !validExporters(OpenAny, r.Exporters) {
		return nil, ErrMalformed
	}
	return sizedRequest(OpenAny, 1+MaxFormats*66+4+len(r.Token), func(b *cryptobyte.Builder) {
		b.AddUint8(uint8(len(r.Formats)))
		for _, f := range r.Formats {
			b.AddUint16LengthPrefixed(add(f))
		}
		addLen32(b, r.Token)
		addExporters(b, r.Exporters)
	})
}

// ParseOpenAny reads the body of an open-any request.
func ParseOpenAny(body []byte) (r OpenAnyRequest, err error) {
	s := cryptobyte.String(body)
	var n uint8
	if !s.ReadUint8(&n) || n < 1 || n > MaxFormats {
		return OpenAnyRequest{}, ErrMalformed
	}
	for range n {
		var f []byte
		if !read16(&s, &f) {
			return OpenAnyRequest{}, ErrMalformed
		}
		r.Formats = append(r.Formats, f)
	}
	if !read32(&s, &r.Token) || !readExporters(&s, &r.Exporters) {
		return OpenAnyRequest{}, ErrMalformed
	}
	return r, nil
}
