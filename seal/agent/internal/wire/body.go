package wire

import (
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// A ReserveRequest asks for a slot and the keys of one token.
type ReserveRequest struct {
	Lifetime  time.Duration // zero: the agent's default
	Suites    []byte        // the suites that the client can seal with; the agent chooses
	Mechanism []byte
	Format    []byte
	Audience  []byte // kind and value; empty: the peer's own user
}

// Marshal returns the request's frame. It returns ErrMalformed for a field that
// is too long.
func (r *ReserveRequest) Marshal() ([]byte, error) {
	return request(Reserve, func(b *cryptobyte.Builder) {
		b.AddUint64(uint64(r.Lifetime))
		b.AddUint8LengthPrefixed(add(r.Suites))
		b.AddUint16LengthPrefixed(add(r.Mechanism))
		b.AddUint16LengthPrefixed(add(r.Format))
		b.AddUint16LengthPrefixed(add(r.Audience))
	})
}

// ParseReserve reads the body of a reserve request. The slices point into it.
func ParseReserve(body []byte) (r ReserveRequest, err error) {
	s := cryptobyte.String(body)
	var lifetime uint64
	if !s.ReadUint64(&lifetime) || lifetime > math.MaxInt64 || !read8(&s, &r.Suites) ||
		!read16(&s, &r.Mechanism) || !read16(&s, &r.Format) || !read16(&s, &r.Audience) || !s.Empty() {
		return ReserveRequest{}, ErrMalformed
	}
	r.Lifetime = time.Duration(lifetime)
	return r, nil
}

// An OpenRequest asks for the plain token of a sealed one: operation Open or
// TakeBack.
type OpenRequest struct {
	Format    []byte
	Token     []byte
	Exporters [][]byte // kind and value of each; empty: no demand
}

// Marshal returns the request's frame. It returns ErrMalformed for a token that
// does not fit a frame, and for too many exporters.
func (r *OpenRequest) Marshal(op Op) ([]byte, error) {
	if !validExporters(op, r.Exporters) {
		return nil, ErrMalformed
	}
	return sizedRequest(op, 2+len(r.Format)+4+len(r.Token), func(b *cryptobyte.Builder) {
		b.AddUint16LengthPrefixed(add(r.Format))
		addLen32(b, r.Token)
		addExporters(b, r.Exporters)
	})
}

// ParseOpen reads the body of an open or a take-back request.
func ParseOpen(op Op, body []byte) (r OpenRequest, err error) {
	s := cryptobyte.String(body)
	if !read16(&s, &r.Format) || !read32(&s, &r.Token) || !readExporters(&s, &r.Exporters) || !validExporters(op, r.Exporters) {
		return OpenRequest{}, ErrMalformed
	}
	return r, nil
}

// validExporters reports whether a request can name so many: who takes back is the
// exporter.
func validExporters(op Op, exporters [][]byte) bool {
	return len(exporters) == 0 || op != TakeBack && len(exporters) <= MaxExporters
}

func addExporters(b *cryptobyte.Builder, exporters [][]byte) {
	for _, e := range exporters {
		b.AddUint8LengthPrefixed(add(e))
	}
}

// readExporters reads those that fill the rest of a body.
func readExporters(s *cryptobyte.String, out *[][]byte) bool {
	for !s.Empty() {
		var e []byte
		if len(*out) == MaxExporters || !read8(s, &e) || len(e) == 0 || len(e) > maxParty {
			return false
		}
		*out = append(*out, e)
	}
	return true
}

// MarshalCancel returns the frame of a cancel request.
func MarshalCancel(start []byte) ([]byte, error) {
	return request(Cancel, func(b *cryptobyte.Builder) { b.AddUint16LengthPrefixed(add(start)) })
}

// ParseCancel reads the body of a cancel request.
func ParseCancel(body []byte) (start []byte, err error) {
	s := cryptobyte.String(body)
	if !read16(&s, &start) || !s.Empty() {
		return nil, ErrMalformed
	}
	return start, nil
}

// MarshalInspect returns the frame of an inspect request.
func MarshalInspect(token []byte) ([]byte, error) {
	return request(Inspect, func(b *cryptobyte.Builder) { addLen32(b, token) })
}

// ParseInspect reads the body of an inspect request.
func ParseInspect(body []byte) (token []byte, err error) {
	s := cryptobyte.String(body)
	if !read32(&s, &token) || !s.Empty() {
		return nil, ErrMalformed
	}
	return token, nil
}

// MarshalRotate returns the frame of a rotate request; suite 0 is all of them.
func MarshalRotate(suite uint8) ([]byte, error) {
	return request(Rotate, func(b *cryptobyte.Builder) { b.AddUint8(suite) })
}

// ParseRotate reads the body of a rotate request.
func ParseRotate(body []byte) (suite uint8, err error) {
	s := cryptobyte.String(body)
	if !s.ReadUint8(&suite) || !s.Empty() {
		return 0, ErrMalformed
	}
	return suite, nil
}

// MarshalRetire returns the frame of a retire request.
func MarshalRetire(epoch [16]byte) ([]byte, error) {
	return request(Retire, func(b *cryptobyte.Builder) { b.AddBytes(epoch[:]) })
}

// ParseRetire reads the body of a retire request.
func ParseRetire(body []byte) (epoch [16]byte, err error) {
	s := cryptobyte.String(body)
	if !s.CopyBytes(epoch[:]) || !s.Empty() {
		return [16]byte{}, ErrMalformed
	}
	return epoch, nil
}

// MarshalStat returns the frame of a status request.
func MarshalStat() ([]byte, error) { return request(Stat, func(*cryptobyte.Builder) {}) }

// Failure returns the reply that refuses a request; op is what was asked.
func Failure(op Op, code Code, text string) []byte {
	text = text[:min(len(text), MaxText)]
	b := cryptobyte.NewBuilder(make([]byte, 0, 6+len(text)))
	b.AddUint32(code.Major())
	b.AddUint16LengthPrefixed(add([]byte(text)))
	return Frame(Header{Op: op, Reply: true, Status: code}, b.BytesOrPanic())
}

// MaxText is the longest text of a refusal, in bytes.
const MaxText = 512

// ParseFailure reads the body of a reply whose status is not OK.
func ParseFailure(body []byte) (major uint32, text []byte, err error) {
	s := cryptobyte.String(body)
	if !s.ReadUint32(&major) || !read16(&s, &text) || len(text) > MaxText || !s.Empty() {
		return 0, nil, ErrMalformed
	}
	return major, text, nil
}

// request builds a frame and holds it to MaxFrame.
func request(op Op, body func(*cryptobyte.Builder)) ([]byte, error) {
	return sizedRequest(op, 512-HeaderSize, body)
}

// sizedRequest is request for a body of about that many bytes.
func sizedRequest(op Op, size int, body func(*cryptobyte.Builder)) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, HeaderSize, HeaderSize+size))
	body(b)
	frame, err := b.Bytes()
	if err != nil || len(frame) > MaxFrame {
		return nil, ErrMalformed
	}
	Header{Op: op, Length: len(frame) - HeaderSize}.Put(frame)
	return frame, nil
}

func add(v []byte) cryptobyte.BuilderContinuation {
	return func(b *cryptobyte.Builder) { b.AddBytes(v) }
}

func addLen32(b *cryptobyte.Builder, v []byte) {
	b.AddUint32(uint32(len(v)))
	b.AddBytes(v)
}

func read8(s *cryptobyte.String, out *[]byte) bool {
	var n uint8
	return s.ReadUint8(&n) && s.ReadBytes(out, int(n))
}

func read16(s *cryptobyte.String, out *[]byte) bool {
	var n uint16
	return s.ReadUint16(&n) && s.ReadBytes(out, int(n))
}

func read32(s *cryptobyte.String, out *[]byte) bool {
	var n uint32
	return s.ReadUint32(&n) && n <= MaxBody && s.ReadBytes(out, int(n))
}
