package token

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/memsafe"
)

// Commit writes the commitment to key, which is K_enc, into dst. Call it inside
// memsafe.Do.
func Commit(dst, key []byte) {
	var in [len(ComLabel) + KeySize]byte
	copy(in[copy(in[:], ComLabel):], key)
	sum := sha256.Sum256(in[:])
	copy(dst, sum[:])
	clear(in[:])
	clear(sum[:])
}

// CommitsTo reports whether the token's commitment is to key, in constant time. The
// commitment that it computes is as secret as a key if the token was altered, so call
// CommitsTo inside memsafe.Do.
func (t *Token) CommitsTo(key []byte) bool {
	var com [CommitmentSize]byte
	Commit(com[:], key)
	same := subtle.ConstantTimeCompare(com[:], t.Commitment) == 1
	clear(com[:])
	return same
}

// SuiteOf returns the suite of a token or of its start. It panics on bytes that are
// shorter than a header, so the bytes must come from Append or Parse.
func SuiteOf(start []byte) suite.Suite { return suite.Suite(start[len(magic)]) }

// ErrOpen is returned for a body that is not authentic.
var ErrOpen = errors.New("token: body is not authentic")

// ErrTooLarge is returned for a plain token of more than MaxPlain bytes.
var ErrTooLarge = fmt.Errorf("token: the plain token is longer than %d bytes", MaxPlain)

// Seal returns a token: start, which is header, context and commitment, then length,
// nonce, body and tag. key is K_enc. random is the source of the nonce if the suite does
// not draw its own. The caller wipes plain and key. Seal leaves no copy of them. It
// returns ErrTooLarge for a plain token longer than MaxPlain.
func Seal(s suite.Suite, start, key, plain []byte, random io.Reader) ([]byte, error) {
	if len(plain) > MaxPlain {
		return nil, ErrTooLarge
	}
	size := paddedSize(len(plain))
	prefix := len(start) + 4
	token := make([]byte, prefix+NonceSize+size+TagSize)
	copy(token, start)
	binary.BigEndian.PutUint32(token[len(start):], uint32(size))

	// The plain token is copied to where it is encrypted. An AEAD that draws its nonce
	// takes it from the nonce's place and moves it. Any other takes it behind the nonce.
	at := prefix
	if !s.DrawsNonce() {
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
		err = seal(s, token, prefix, key, body)
	})
	if err != nil {
		memsafe.Wipe(body)
		return nil, err
	}
	return token, nil
}

// seal encrypts body in place and writes the tag behind it. If the AEAD draws its nonce,
// it writes the nonce in front.
func seal(s suite.Suite, token []byte, prefix int, key, body []byte) error {
	aead, err := s.New(key)
	if err != nil {
		return err
	}
	defer aead.Wipe()
	if s.DrawsNonce() {
		aead.Seal(token[:prefix], nil, body, token[:prefix])
		return nil
	}
	aead.Seal(body[:0], token[prefix:prefix+NonceSize], body, token[:prefix])
	return nil
}

// Open decrypts the body of a parsed token into dst, which must be BodySize bytes of
// locked memory. It returns the length of the plain token in dst. It returns ErrOpen for
// a body that is not authentic or badly padded, and zeroes dst on every error.
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
	aead, err := t.Suite.New(key)
	if err != nil {
		return err
	}
	defer aead.Wipe()
	nonce, sealed := []byte(nil), t.Sealed
	if !t.Suite.DrawsNonce() {
		nonce, sealed = t.Sealed[:NonceSize], t.Sealed[NonceSize:]
	}
	if _, err := aead.Open(dst[:0], nonce, sealed, t.Prefix); err != nil {
		return ErrOpen
	}
	return nil
}

// BodySize returns how many bytes Open needs.
func (t *Token) BodySize() int { return len(t.Sealed) - NonceSize - TagSize }
