package etype

import (
	"crypto/aes"
	"encoding/binary"

	"github.com/sealctx/sealctx/internal/wipe"
	"github.com/sealctx/sealctx/memsafe"
)

// A Kind says what a derived key is for (RFC 3961 section 5.3).
type Kind byte

// The three keys that a protocol key gives for each usage.
const (
	Kc Kind = 0x99 // for checksums
	Ke Kind = 0xAA // for encryption
	Ki Kind = 0x55 // for the integrity of a ciphertext
)

// Size returns the length in bytes of a derived key of this kind under id.
func (k Kind) Size(id ID) int {
	if k == Ke {
		return id.KeySize()
	}
	return id.MACKeySize()
}

// Derive fills dst with the key of the given kind and usage: DK of RFC 3961
// section 5.1 for types 17 and 18, KDF-HMAC-SHA2 of RFC 8009 section 3 for 19
// and 20. dst must be kind.Size(id) bytes and belongs to the caller, who wipes
// it. Errors: ErrUnsupported, ErrKeySize.
//
// What it leaves on the stack is not erased: call it inside memsafe.Do. Safe
// for concurrent use.
func Derive(dst []byte, id ID, key []byte, usage uint32, kind Kind) error {
	s, err := id.usable()
	if err != nil {
		return err
	}
	if len(key) != s.keySize || len(dst) != kind.Size(id) {
		return ErrKeySize
	}
	var label [5]byte
	binary.BigEndian.PutUint32(label[:], usage)
	label[4] = byte(kind)
	return s.derive(dst, key, label[:])
}

// derive fills dst from key and a label that is no secret.
func (s *suite) derive(dst, key, label []byte) error {
	if s.etm {
		s.kdf(dst, key, label)
		return nil
	}
	return dk(dst, key, label)
}

// dk is DR of RFC 3961 section 5.1; random-to-key is the identity for AES.
func dk(dst, key, label []byte) error {
	b, err := aes.NewCipher(key)
	if err != nil {
		return ErrKeySize
	}
	defer rinse()
	defer wipe.Object(b)
	block := nfold(label, BlockSize)
	defer memsafe.Wipe(block)
	for len(dst) > 0 { // of whole blocks: keys of 16 or 32 bytes
		b.Encrypt(block, block)
		CopyKey(dst[:BlockSize], block)
		dst = dst[BlockSize:]
	}
	return nil
}

// kdf is KDF-HMAC-SHA2 of RFC 8009 section 3, the one-block counter mode of
// SP 800-108. dst is at most one digest long.
func (s *suite) kdf(dst, key, label []byte) {
	m := new(mac)
	m.init(s)
	defer m.wipe()
	msg := make([]byte, 0, 4+len(label)+1+4)
	msg = binary.BigEndian.AppendUint32(msg, 1)
	msg = append(msg, label...)
	msg = append(msg, 0)
	msg = binary.BigEndian.AppendUint32(msg, uint32(len(dst)*8))
	m.begin(key)
	m.write(msg)
	CopyKey(dst, m.end(key)[:len(dst)])
}
