package wire

import (
	"encoding/binary"
	"errors"
)

const (
	magic   = "SLXA"
	version = 1

	// HeaderSize is the size of a frame's header in bytes.
	HeaderSize = 12

	// MaxFrame is the most that a frame takes, header included, in bytes: one
	// token or one plain token of the largest size with what goes around it,
	// and little enough to keep one for each request under way.
	MaxFrame = 64 << 10

	// MaxBody is the longest body.
	MaxBody = MaxFrame - HeaderSize

	// MaxExporters is how many exporters a request can name.
	MaxExporters = 16

	maxParty = 1 + 64 // kind and value

	// MaxBesideToken is the most that a body has beside a token.
	MaxBesideToken = 1 + MaxFormats*(2+64) + 4 + MaxExporters*(1+maxParty)

	// MaxBesidePlain is the most that a seal request has beside a plain token.
	MaxBesidePlain = 2 + 512 + 4

	flagReply = 1
)

// ErrMalformed is the one error for bytes that the protocol does not have.
var ErrMalformed = errors.New("wire: malformed frame")

// A Header is the header of a frame.
type Header struct {
	Op     Op
	Reply  bool
	Status Code
	Length int // of the body, in bytes
}

// Put writes the header into the first HeaderSize bytes of b.
func (h Header) Put(b []byte) {
	_ = b[HeaderSize-1]
	copy(b, magic)
	b[4], b[5], b[6], b[7] = version, byte(h.Op), 0, byte(h.Status)
	if h.Reply {
		b[6] = flagReply
	}
	binary.BigEndian.PutUint32(b[8:], uint32(h.Length))
}

// ParseHeader reads a header, or returns ErrMalformed: another magic or version,
// unknown flags, a status in a request, a length of more than MaxBody. An
// operation that this version lacks is the caller's to refuse.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize || string(b[:4]) != magic || b[4] != version || b[6]&^flagReply != 0 {
		return Header{}, ErrMalformed
	}
	length := binary.BigEndian.Uint32(b[8:])
	h := Header{Op: Op(b[5]), Reply: b[6] == flagReply, Status: Code(b[7]), Length: int(length)}
	if length > MaxBody || !h.Reply && h.Status != OK {
		return Header{}, ErrMalformed
	}
	return h, nil
}

// Frame returns a frame whose body the function appends, for bodies without
// secrets.
func Frame(h Header, body []byte) []byte {
	h.Length = len(body)
	b := make([]byte, HeaderSize, HeaderSize+len(body))
	h.Put(b)
	return append(b, body...)
}
