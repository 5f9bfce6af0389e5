package etype

import (
	"crypto/fips140"
	"crypto/subtle"

	"github.com/sealctx/sealctx/memsafe"
)

// A Direction says which of Seal and Open a Cipher is for.
type Direction int

// The directions.
const (
	Sealing Direction = iota
	Opening
)

// A Cipher protects many messages under one set of derived keys. It holds an
// expanded Ke and the state of a digest. Ki and Kc are passed to each call and not
// kept, so that they can stay in locked memory. No method allocates.
//
// One goroutine at a time may use a Cipher. Its methods leave traces on the stack:
// call them, and NewCipher, inside memsafe.Do.
type Cipher struct {
	_ [0]func() // not comparable

	s     *suite
	dir   Direction
	chain chain
	mac   mac
}

// NewCipher expands ke, of id.KeySize() bytes, for one direction. The caller
// must call Wipe. Errors: ErrUnsupported, ErrKeySize.
func NewCipher(id ID, ke []byte, dir Direction) (*Cipher, error) {
	s, err := id.usable()
	if err != nil {
		return nil, err
	}
	if len(ke) != s.keySize {
		return nil, ErrKeySize
	}
	c := &Cipher{s: s, dir: dir}
	if err := c.chain.init(ke, dir); err != nil {
		return nil, err
	}
	c.mac.init(s)
	return c, nil
}

// Wipe zeroes everything that the Cipher holds. Later calls return ErrKeySize.
func (c *Cipher) Wipe() {
	if c.chain.mode == nil {
		return
	}
	c.chain.wipe()
	c.mac.wipe()
}

// check returns an error unless c can be used now, under a MAC key of this length.
func (c *Cipher) check(key []byte) error {
	switch {
	case !c.s.etm && fips140.Enforced(): // made inside fips140.WithoutEnforcement
		return errSHA1
	case c.chain.mode == nil || len(key) != c.s.macKey:
		return ErrKeySize
	}
	return nil
}

// split is check for one direction. It returns where in b the MAC begins.
func (c *Cipher) split(dir Direction, ki, b []byte) (n int, err error) {
	if err := c.check(ki); err != nil {
		return 0, err
	}
	if c.dir != dir {
		return 0, ErrKeySize
	}
	if n = len(b) - c.s.macSize; n < BlockSize {
		return 0, ErrIntegrity
	}
	return n, nil
}

// Seal encrypts b in place. b is a confounder of BlockSize random bytes, the
// plaintext, and MACSize bytes of room for the MAC. ki is the derived key of kind
// Ki.
//
// aad is authenticated and not sent. It counts as if it stood between confounder
// and plaintext, as in gss_wrap_aead of MIT's and Heimdal's libraries.
//
// Errors leave b unchanged: ErrKeySize for a wrong ki or a Cipher that is for
// Open, ErrIntegrity for a b that is too short.
func (c *Cipher) Seal(ki, b, aad []byte) error {
	n, err := c.split(Sealing, ki, b)
	if err != nil {
		return err
	}
	defer c.settle()
	if c.s.etm {
		c.chain.encrypt(b[:n])
		copy(b[n:], c.tag(ki, b[:n], aad))
	} else {
		copy(b[n:], c.tag(ki, b[:n], aad))
		c.chain.encrypt(b[:n])
	}
	return nil
}

// Open decrypts b in place: a confounder, ciphertext and MAC as Seal makes them.
// The plaintext is b[BlockSize:len(b)-MACSize]. Types 19 and 20 are authenticated
// before they are decrypted. For 17 and 18 the MAC covers the plaintext: if it is
// wrong, b is wiped. Errors: ErrKeySize as for Seal, ErrIntegrity for any fault in
// b.
func (c *Cipher) Open(ki, b, aad []byte) error {
	n, err := c.split(Opening, ki, b)
	if err != nil {
		return err
	}
	defer c.settle()
	if c.s.etm {
		if subtle.ConstantTimeCompare(c.tag(ki, b[:n], aad), b[n:]) != 1 {
			return ErrIntegrity
		}
		c.chain.decrypt(b[:n])
		return nil
	}
	c.chain.decrypt(b[:n])
	if subtle.ConstantTimeCompare(c.tag(ki, b[:n], aad), b[n:]) != 1 {
		memsafe.Wipe(b)
		return ErrIntegrity
	}
	return nil
}

// settle ends a message, so that nothing of it stays in c. AES leaves a round key
// in vector registers. The digest comes last, since it overwrites them.
func (c *Cipher) settle() {
	c.chain.settle()
	c.mac.scrub()
}

// tag computes the MAC of b, a plaintext or a ciphertext with its confounder (RFC
// 3961 section 5.3, RFC 8009 section 5). RFC 8009 puts the cipher state first,
// which is always zero here. The result is valid until the next use of c.
func (c *Cipher) tag(ki, b, aad []byte) []byte {
	c.mac.begin(ki)
	if c.s.etm {
		c.mac.write(c.chain.zero[:])
	}
	c.mac.write(b[:BlockSize])
	c.mac.write(aad)
	c.mac.write(b[BlockSize:])
	return c.mac.end(ki)[:c.s.macSize]
}

// Sum puts the checksum of the parts, one after the other, into dst, of
// MACSize bytes. kc is the derived key of kind Kc. Errors: ErrKeySize.
func (c *Cipher) Sum(dst, kc []byte, parts ...[]byte) error {
	if err := c.check(kc); err != nil {
		return err
	}
	if len(dst) != c.s.macSize {
		return ErrKeySize
	}
	defer c.settle()
	copy(dst, c.sum(kc, parts))
	return nil
}

// Verify compares, in constant time, sum with the checksum of the parts.
// Errors: ErrKeySize, ErrIntegrity.
func (c *Cipher) Verify(sum, kc []byte, parts ...[]byte) error {
	if err := c.check(kc); err != nil {
		return err
	}
	defer c.settle()
	if subtle.ConstantTimeCompare(c.sum(kc, parts), sum) != 1 {
		return ErrIntegrity
	}
	return nil
}

func (c *Cipher) sum(kc []byte, parts [][]byte) []byte {
	c.mac.begin(kc)
	for _, p := range parts {
		c.mac.write(p)
	}
	return c.mac.end(kc)[:c.s.macSize]
}
