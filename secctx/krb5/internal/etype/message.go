package etype

import (
	"crypto/rand"
	"slices"

	"github.com/sealctx/sealctx/memsafe"
)

// Encrypt appends to dst the encryption of plain under a protocol key and a key
// usage (RFC 3961 section 3): a random confounder and plain, both encrypted, and
// the MAC. dst must not overlap plain. Errors: ErrUnsupported, ErrKeySize. Safe
// for concurrent use.
func Encrypt(dst []byte, id ID, key []byte, usage uint32, plain []byte) ([]byte, error) {
	dst, b := extend(dst, len(plain)+id.Overhead())
	var err error
	memsafe.Do(func() {
		if id.Valid() {
			rand.Read(b[:BlockSize])      // never fails
			CopyKey(b[BlockSize:], plain) // which often holds one
		}
		err = crypt(b, id, key, usage, Sealing)
	})
	if err != nil {
		memsafe.Wipe(b)
		return nil, err
	}
	return dst, nil
}

// Decrypt appends to dst the plaintext of cipher, which Encrypt made. dst must not
// overlap cipher. Give dst room for as many bytes as cipher has, or it is
// reallocated. What is written behind the plaintext is wiped. On an error nothing
// is left in dst. Errors: ErrUnsupported, ErrKeySize, and ErrIntegrity for any
// fault in cipher, its length included. Safe for concurrent use.
func Decrypt(dst []byte, id ID, key []byte, usage uint32, cipher []byte) ([]byte, error) {
	if len(cipher) < id.Overhead() {
		return nil, ErrIntegrity
	}
	dst, b := extend(dst, len(cipher))
	copy(b, cipher)
	var err error
	n := len(cipher) - id.Overhead()
	memsafe.Do(func() {
		if err = crypt(b, id, key, usage, Opening); err == nil {
			CopyKey(b, b[BlockSize:][:n]) // forward, so the overlap is harmless
		}
	})
	if err != nil {
		memsafe.Wipe(b)
		return nil, err
	}
	memsafe.Wipe(b[n:])
	return dst[:len(dst)-len(b)+n], nil
}

// extend returns dst made longer by n bytes, and those bytes.
func extend(dst []byte, n int) (whole, b []byte) {
	whole = slices.Grow(dst, n)[:len(dst)+n]
	return whole, whole[len(dst):]
}

// crypt derives the keys of usage, works on b and forgets them.
func crypt(b []byte, id ID, key []byte, usage uint32, dir Direction) error {
	var mem [2 * MaxKeySize]byte
	defer memsafe.Wipe(mem[:])
	ke, ki := mem[:id.KeySize()], mem[MaxKeySize:][:id.MACKeySize()]
	if err := Derive(ke, id, key, usage, Ke); err != nil {
		return err
	}
	if err := Derive(ki, id, key, usage, Ki); err != nil {
		return err
	}
	c, err := NewCipher(id, ke, dir)
	if err != nil {
		return err
	}
	defer c.Wipe()
	if dir == Sealing {
		return c.Seal(ki, b, nil)
	}
	return c.Open(ki, b, nil)
}

// RandomKey fills dst, of id.KeySize() bytes, with a fresh protocol key.
// Errors: ErrUnsupported, ErrKeySize.
func RandomKey(dst []byte, id ID) error {
	s, err := id.usable()
	if err != nil {
		return err
	}
	if len(dst) != s.keySize {
		return ErrKeySize
	}
	rand.Read(dst) // never fails
	return nil
}
