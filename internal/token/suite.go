package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/sealctx/sealctx/internal/wipe"
	"github.com/sealctx/sealctx/memsafe"
	"golang.org/x/crypto/chacha20poly1305"
)

// A Suite is the AEAD of a token and the token's version byte.
type Suite uint8

// The suites.
const (
	AES256GCM        Suite = 1
	ChaCha20Poly1305 Suite = 2
)

// Valid reports whether this version knows the suite.
func (s Suite) Valid() bool { return s == AES256GCM || s == ChaCha20Poly1305 }

// Commit writes the commitment to key, which is K_enc, into dst. It is to be
// called inside memsafe.Do.
func Commit(dst, key []byte) {
	var in [len(ComLabel) + KeySize]byte
	copy(in[copy(in[:], ComLabel):], key)
	sum := sha256.Sum256(in[:])
	copy(dst, sum[:])
	clear(in[:])
	clear(sum[:])
}

// CommitsTo reports whether the token's commitment is to key. What it should be is
// worth as much as a key where nobody has shown it, so this too is to be called
// inside memsafe.Do.
func (t *Token) CommitsTo(key []byte) bool {
	var com [CommitmentSize]byte
	Commit(com[:], key)
	same := subtle.ConstantTimeCompare(com[:], t.Commitment) == 1
	clear(com[:])
	return same
}

// SuiteOf returns the suite of a token or of its start, which the caller made.
func SuiteOf(start []byte) Suite { return Suite(start[len(magic)]) }

// ErrOpen is returned for a body that is not authentic.
var ErrOpen = errors.New("token: body is not authentic")

// ErrTooLarge is returned for a plain token of more than MaxPlain bytes.
var ErrTooLarge = fmt.Errorf("token: the plain token is longer than %d bytes", MaxPlain)

// Seal returns a token: start, which is header, context and commitment, then
// length, nonce, body and tag. key is K_enc; random gives the nonce of suite 2, since suite 1
// draws its own, as FIPS 140 wants it. The caller wipes plain and key; Seal
// leaves neither behind, and no copy of plain but the sealed one.
func (s Suite) Seal(start, key, plain []byte, random io.Reader) ([]byte, error) {
	if len(plain) > MaxPlain {
		return nil, ErrTooLarge
	}
	size := paddedSize(len(plain))
	prefix := len(start) + 4
	token := make([]byte, prefix+NonceSize+size+TagSize)
	copy(token, start)
	binary.BigEndian.PutUint32(token[len(start):], uint32(size))

	// The plain token is laid where it will be encrypted: at the place of the
	// nonce for suite 1, which moves it, and behind the nonce for suite 2.
	at := prefix
	if s == ChaCha20Poly1305 {
		at += NonceSize
		if _, err := io.ReadFull(random, token[prefix:at]); err != nil {
			return nil, fmt.Errorf("token: random source: %w", err)
		}
	}
	body := token[at : at+size]
	var err error
	memsafe.Do(func() {
		copy(body, plain)
		pad(body, len(plain))
		err = s.seal(token, prefix, key, body)
	})
	if err != nil {
		memsafe.Wipe(body)
		return nil, err
	}
	return token, nil
}

// seal encrypts body in place, and writes nonce (suite 1) and tag around it.
func (s Suite) seal(token []byte, prefix int, key, body []byte) error {
	aead, err := s.aead(key)
	if err != nil {
		return err
	}
	defer aead.wipe()
	if s == AES256GCM {
		aead.Seal(token[:prefix], nil, body, token[:prefix])
		return nil
	}
	aead.Seal(body[:0], token[prefix:prefix+NonceSize], body, token[:prefix])
	return nil
}

// Open decrypts the body of a parsed token into dst, which must have BodySize
// bytes of locked memory, and returns the length of the plain token in it. On
// an error dst is zeroed.
func (t *Token) Open(dst, key []byte) (n int, err error) {
	memsafe.Do(func() { err = t.open(dst, key) })
	if err == nil {
		var ok bool
		if n, ok = unpad(dst); !ok {
			err = ErrOpen
		}
	}
	if err != nil {
		memsafe.Wipe(dst)
		return 0, err
	}
	return n, nil
}

func (t *Token) open(dst, key []byte) error {
	aead, err := t.Suite.aead(key)
	if err != nil {
		return err
	}
	defer aead.wipe()
	nonce, sealed := []byte(nil), t.Sealed
	if t.Suite == ChaCha20Poly1305 {
		nonce, sealed = t.Sealed[:NonceSize], t.Sealed[NonceSize:]
	}
	if _, err := aead.Open(dst[:0], nonce, sealed, t.Prefix); err != nil {
		return ErrOpen
	}
	return nil
}

// BodySize returns how many bytes Open needs.
func (t *Token) BodySize() int { return len(t.Sealed) - NonceSize - TagSize }

// A keyed is an AEAD with a key in it, and the block cipher it was made of.
type keyed struct {
	cipher.AEAD
	block cipher.Block // nil for suite 2
}

// aead makes the suite's AEAD. The errors are those of a mode that forbids the
// suite. The caller wipes it.
func (s Suite) aead(key []byte) (keyed, error) {
	if s == ChaCha20Poly1305 {
		a, err := chacha20poly1305.New(key)
		if err != nil {
			return keyed{}, fmt.Errorf("token: suite 2: %w", err)
		}
		return keyed{AEAD: a}, nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return keyed{}, fmt.Errorf("token: suite 1: %w", err)
	}
	a, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		wipe.Object(block)
		return keyed{}, fmt.Errorf("token: suite 1: %w", err)
	}
	return keyed{a, block}, nil
}

// wipe zeroes the keys in the AEAD, which must not be used again.
func (k keyed) wipe() {
	wipe.Object(k.AEAD)
	wipe.Object(k.block)
}
