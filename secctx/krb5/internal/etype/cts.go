package etype

import (
	"crypto/aes"
	"crypto/cipher"

	"github.com/sealctx/sealctx/internal/wipe"
)

// chain is AES-CBC with ciphertext stealing (CTS, the CBC-CS3 of RFC 3962
// section 5) with a zero first vector, in one direction. One goroutine at a
// time.
type chain struct {
	mode vectorMode
	last [BlockSize]byte // the block that does not stand whole in the message
	prev [BlockSize]byte
	zero [BlockSize]byte // never written
}

// vectorMode is what the standard library's CBC offers beyond BlockMode: a new
// first vector without expanding the key again.
type vectorMode interface {
	cipher.BlockMode
	SetIV([]byte)
}

// init expands key, which must be of AES's length. The expanded key lies in
// c.mode; the copy made on the way is wiped.
func (c *chain) init(key []byte, dir Direction) error {
	b, err := aes.NewCipher(key)
	if err != nil {
		return ErrKeySize
	}
	defer wipe.Object(b)
	var m cipher.BlockMode
	if dir == Sealing {
		m = cipher.NewCBCEncrypter(b, c.zero[:])
	} else {
		m = cipher.NewCBCDecrypter(b, c.zero[:])
	}
	v, ok := m.(vectorMode)
	if !ok {
		return ErrUnsupported
	}
	c.mode = v
	return nil
}

// encrypt works in place on b, of at least one block.
func (c *chain) encrypt(b []byte) {
	c.mode.SetIV(c.zero[:])
	if len(b) == BlockSize {
		c.mode.CryptBlocks(b, b)
		return
	}
	m := (len(b) - 1) / BlockSize * BlockSize // where the last block begins
	c.mode.CryptBlocks(b[:m], b[:m])
	n := copy(c.last[:], b[m:])
	clear(c.last[n:])
	c.mode.CryptBlocks(c.last[:], c.last[:])
	copy(b[m:], b[m-BlockSize:m]) // stolen: as much of the block before as fits
	copy(b[m-BlockSize:m], c.last[:])
}

// decrypt works in place on b, of at least one block.
func (c *chain) decrypt(b []byte) {
	c.mode.SetIV(c.zero[:])
	if len(b) == BlockSize {
		c.mode.CryptBlocks(b, b)
		return
	}
	m := (len(b) - 1) / BlockSize * BlockSize
	stolen := b[m-BlockSize : m]
	clear(c.prev[:])
	if m > BlockSize {
		copy(c.prev[:], b[m-2*BlockSize:])
		c.mode.CryptBlocks(b[:m-BlockSize], b[:m-BlockSize])
	}
	c.mode.SetIV(c.zero[:])
	c.mode.CryptBlocks(c.last[:], stolen)
	for i, y := range b[m:] { // the last plaintext, and the block that was stolen from
		b[m+i] = y ^ c.last[i]
		c.last[i] = y
	}
	c.mode.SetIV(c.prev[:])
	c.mode.CryptBlocks(stolen, c.last[:])
}

// settle clears what the last message left: pieces of plaintext and the vector.
func (c *chain) settle() {
	c.mode.SetIV(c.zero[:])
	clear(c.last[:])
	clear(c.prev[:])
}

// wipe zeroes the expanded key. c must not be used afterwards.
func (c *chain) wipe() {
	if c.mode != nil {
		c.settle()
		wipe.Object(c.mode)
		c.mode = nil
	}
}
