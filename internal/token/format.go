// Package token is the bytes of a sealed token, as doc/SPEC.md has them. It does not
// know whose a token is, or whether it still opens. It reads hostile bytes, and reads
// them with cryptobyte alone.
//
//	token   = header | context | commitment(32) | length(4) | nonce(12) | body | tag(16)
//	header  = "SLCX" | version(1) | epoch(16) | slot(4) | word(8) | salt(32) | issued(8) | expires(8)
//	context = len8 mechanism | len8 format | exporter(4) | kind(1) | len8 audience
//
// Integers are big-endian; len8 is a length of one byte before the bytes it
// counts. The version is the suite. Times are nanoseconds since the host
// booted. length counts the body. The additional data of the AEAD is
// everything before the nonce.
//
//	K_enc      = HKDF-Expand-SHA256(host key, "sealctx token enc\x00" | header | context, 32)
//	commitment = SHA-256("sealctx token com\x00" | K_enc)
//
// There is one way to write a token: a token that parses marshals to the same bytes.
package token

import (
	"errors"
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sealctx/sealctx/internal/suite"
)

// Sizes in bytes, and limits; doc/SPEC.md gives the reasons.
const (
	magic = "SLCX"

	headerSize     = len(magic) + 1 + 16 + 4 + 8 + SaltSize + 8 + 8
	SaltSize       = 32
	CommitmentSize = 32
	KeySize        = 32
	NonceSize      = 12
	TagSize        = 16

	MaxMechanism = 64 // the longest object identifier, DER without tag and length
	MaxFormat    = 64 // the longest name of a plain format
	MaxAudience  = 64 // the longest value of an audience

	// MaxExporters is how many exporters an opener can demand. Programs demand one or
	// two.
	MaxExporters = 16

	// MaxBound is the most that header and context take.
	MaxBound = headerSize + 1 + MaxMechanism + 1 + MaxFormat + 4 + 1 + 1 + MaxAudience

	// MaxToken is the longest token: with its frame under the agent's 64 KiB.
	MaxToken = MaxBound + CommitmentSize + 4 + NonceSize + maxBody + TagSize
)

// The labels of a token's key and of the commitment to it.
const (
	EncLabel = "sealctx token enc\x00"
	ComLabel = "sealctx token com\x00"
)

// ErrMalformed is the error for all bytes that are no token.
var ErrMalformed = errors.New("token: malformed")

// A Header is the part of a token that is in clear. An interprocess token does not hide
// its audience.
type Header struct {
	Suite   suite.Suite
	Epoch   [16]byte
	Slot    uint32
	Word    uint64
	Salt    [SaltSize]byte
	Issued  time.Duration // since the host booted
	Expires time.Duration

	Mechanism []byte // object identifier, DER without tag and length; may be empty
	Format    []byte // plain format, printable ASCII
	Exporter  uint32 // user id
	Audience  Audience
}

// An Audience is the audience of a token as it stands in the token. Package seal gives
// the kinds their meaning.
type Audience struct {
	Kind  uint8
	Value []byte
}

// The kinds of audience, and their values.
const (
	KindUser    = 1 // user id(4)
	KindGroup   = 2 // group id(4)
	KindService = 3 // name, 1 to 64 bytes
	KindProcess = 4 // process id(4), its number(8)
)

// Size returns how many bytes header and context take.
func (h *Header) Size() int {
	return headerSize + 1 + len(h.Mechanism) + 1 + len(h.Format) + 4 + 1 + 1 + len(h.Audience.Value)
}

// Append appends header and context to dst. It returns ErrMalformed for a header that
// Parse would refuse.
func (h *Header) Append(dst []byte) ([]byte, error) {
	if !h.valid() {
		return nil, ErrMalformed
	}
	b := cryptobyte.NewBuilder(dst)
	b.AddBytes([]byte(magic))
	b.AddUint8(uint8(h.Suite))
	b.AddBytes(h.Epoch[:])
	b.AddUint32(h.Slot)
	b.AddUint64(h.Word)
	b.AddBytes(h.Salt[:])
	b.AddUint64(uint64(h.Issued))
	b.AddUint64(uint64(h.Expires))
	addLen8(b, h.Mechanism)
	addLen8(b, h.Format)
	b.AddUint32(h.Exporter)
	b.AddUint8(h.Audience.Kind)
	addLen8(b, h.Audience.Value)
	return b.Bytes()
}

func addLen8(b *cryptobyte.Builder, v []byte) {
	b.AddUint8(uint8(len(v)))
	b.AddBytes(v)
}

// valid reports whether a header can stand in a token.
func (h *Header) valid() bool {
	return h.Suite.Known() &&
		h.Issued >= 0 && h.Expires > h.Issued &&
		len(h.Mechanism) <= MaxMechanism &&
		ValidFormat(h.Format) &&
		len(h.Audience.Value) <= MaxAudience
}

// ValidFormat reports whether s can name a plain format: 1 to MaxFormat
// characters of ASCII from '!' to '~'.
func ValidFormat(s []byte) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= MaxFormat
}

// A Token is a parsed token. Its slices point into the bytes that were parsed.
type Token struct {
	Header
	Bound      []byte // header | context: what the keys are bound to
	Commitment []byte
	Prefix     []byte // everything before the nonce: the additional data
	Sealed     []byte // nonce | body | tag
}

// Parse parses a token, or returns ErrMalformed. It copies nothing. Nothing of the
// result is authentic yet.
func Parse(b []byte) (t Token, err error) {
	if len(b) > MaxToken {
		return Token{}, ErrMalformed
	}
	s := cryptobyte.String(b)
	if !t.Header.read(&s) {
		return Token{}, ErrMalformed
	}
	t.Bound = b[:len(b)-len(s)]
	var length uint32
	if !s.ReadBytes(&t.Commitment, CommitmentSize) || !s.ReadUint32(&length) ||
		int64(len(s)) != NonceSize+int64(length)+TagSize || !isPadded(int(length)) {
		return Token{}, ErrMalformed
	}
	t.Prefix, t.Sealed = b[:len(b)-len(s)], s
	return t, nil
}

// ParseHeader reads header and context at the front of b.
func ParseHeader(b []byte) (h Header, rest []byte, err error) {
	s := cryptobyte.String(b)
	if !h.read(&s) {
		return Header{}, nil, ErrMalformed
	}
	return h, s, nil
}

func (h *Header) read(s *cryptobyte.String) bool {
	var m, mechanism, format, audience []byte
	var version uint8
	var issued, expires uint64
	if !s.ReadBytes(&m, len(magic)) || string(m) != magic ||
		!s.ReadUint8(&version) || !s.CopyBytes(h.Epoch[:]) ||
		!s.ReadUint32(&h.Slot) || !s.ReadUint64(&h.Word) || !s.CopyBytes(h.Salt[:]) ||
		!s.ReadUint64(&issued) || !s.ReadUint64(&expires) || expires > math.MaxInt64 ||
		!readLen8(s, &mechanism) || !readLen8(s, &format) ||
		!s.ReadUint32(&h.Exporter) || !s.ReadUint8(&h.Audience.Kind) || !readLen8(s, &audience) {
		return false
	}
	h.Suite = suite.Suite(version)
	h.Issued, h.Expires = time.Duration(issued), time.Duration(expires)
	h.Mechanism, h.Format, h.Audience.Value = mechanism, format, audience
	return h.valid()
}

func readLen8(s *cryptobyte.String, out *[]byte) bool {
	var n uint8
	return s.ReadUint8(&n) && s.ReadBytes(out, int(n))
}
