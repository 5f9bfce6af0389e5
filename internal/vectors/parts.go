package vectors

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"
)

// The suites by their version byte.
const (
	GCM    = 1
	ChaCha = 2
)

// The kinds of audience.
const (
	KindUser    = 1
	KindGroup   = 2
	KindService = 3
	KindProcess = 4
)

// Parts are what a token is made of. Any value can be put in, allowed or not;
// Mechanism, Format and Audience hold at most 255 bytes.
type Parts struct {
	HostKey []byte

	Magic             string
	Version           uint8
	Epoch             []byte
	Slot              uint32
	Word              uint64
	Salt              []byte
	Issued, Expires   uint64
	Mechanism, Format []byte
	Exporter          uint32
	Kind              uint8
	Audience          []byte
	Nonce             []byte
	Body              []byte // padded

	// The AEAD; as a rule the one that Version names.
	Suite uint8

	// Faults that a right sealer does not make, for vectors.
	LengthError   int64 // is added to the length that is written
	LengthUnbound bool  // leaves the length out of the additional data
	KeysSwapped   bool  // encrypts under K_com and shows K_enc
}

// Bound returns header and context: what the keys are bound to.
func (p *Parts) Bound() []byte {
	b := append([]byte(p.Magic), p.Version)
	b = append(b, p.Epoch...)
	b = binary.BigEndian.AppendUint32(b, p.Slot)
	b = binary.BigEndian.AppendUint64(b, p.Word)
	b = append(b, p.Salt...)
	b = binary.BigEndian.AppendUint64(b, p.Issued)
	b = binary.BigEndian.AppendUint64(b, p.Expires)
	b = appendLen8(b, p.Mechanism)
	b = appendLen8(b, p.Format)
	b = binary.BigEndian.AppendUint32(b, p.Exporter)
	b = append(b, p.Kind)
	return appendLen8(b, p.Audience)
}

func appendLen8(b, v []byte) []byte { return append(append(b, uint8(len(v))), v...) }

// Keys returns K_enc and K_com for header and context.
func Keys(hostKey, bound []byte) (enc, com []byte, err error) {
	if enc, err = hkdf.Expand(sha256.New, hostKey, "sealctx token enc\x00"+string(bound), 32); err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(append([]byte("sealctx token com\x00"), enc...))
	return enc, sum[:], nil
}

// Seal returns the token.
func (p *Parts) Seal() ([]byte, error) {
	bound := p.Bound()
	enc, com, err := Keys(p.HostKey, bound)
	if err != nil {
		return nil, err
	}
	if p.KeysSwapped {
		enc, com = com, enc
	}
	aead, err := newAEAD(p.Suite, enc)
	if err != nil {
		return nil, err
	}
	token := append(bound, com...)
	withLength := binary.BigEndian.AppendUint32(token, uint32(int64(len(p.Body))+p.LengthError))
	additional := withLength
	if p.LengthUnbound {
		additional = token
	}
	return aead.Seal(append(withLength, p.Nonce...), p.Nonce, p.Body, additional), nil
}

func newAEAD(suite uint8, key []byte) (cipher.AEAD, error) {
	if suite == ChaCha {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// bodySizes are the lengths that a body can have.
var bodySizes = []int{512, 768, 1024, 1536, 2048, 2864, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152}

// Pad returns the body of a plain token. It has no size to offer for more than
// 49151 bytes and then returns nil.
func Pad(plain []byte) []byte {
	for _, size := range bodySizes {
		if len(plain) < size {
			return PadTo(plain, size)
		}
	}
	return nil
}

// PadTo pads to any size.
func PadTo(plain []byte, size int) []byte {
	body := make([]byte, size)
	body[copy(body, plain)] = 0x80
	return body
}
