//go:build linux

package memscan

import (
	"encoding"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
)

// HMAC adds what HMAC makes of a key, each worth as much as the key: the inner
// and outer pad, as bytes and as the words that a compression function works
// on, and the states of the hash after the one and the other pad block, in
// memory order (words of this machine), as marshalled (big-endian) and, for
// hashes of 32-bit words, as the SHA instructions of x86 hold it in registers.
// The key itself is not added.
//
// The constant part of a pad is left out. h must make SHA-1 or a hash of the
// SHA-2 family from the standard library; keys of under 16 bytes are an error.
func (s *Set) HMAC(name string, h func() hash.Hash, key []byte) {
	if s.err != nil {
		return
	}
	block := h().BlockSize()
	if len(key) > block {
		d := h()
		d.Write(key)
		key = d.Sum(nil)
	}
	for _, pad := range []struct {
		name string
		byte byte
	}{{"inner", 0x36}, {"outer", 0x5c}} {
		b := make([]byte, block)
		copy(b, key)
		for i := range b {
			b[i] ^= pad.byte
		}
		state, width, err := midstate(h(), b)
		if err != nil {
			s.err = fmt.Errorf("%w: %s: %w", ErrNeedle, name, err)
			return
		}
		kind := name + ": HMAC " + pad.name
		s.Bytes(kind+" pad", b[:len(key)])
		if whole := len(key) &^ (width - 1); whole >= Window {
			s.Bytes(kind+" pad, words", swapped(b[:whole], width))
		}
		s.Bytes(kind+" midstate, marshalled", state)
		s.Bytes(kind+" midstate", swapped(state, width))
		if width == 4 {
			s.Bytes(kind+" midstate, in registers", inRegisters(state))
		}
	}
}

// midstate returns the chaining value of d after one block, big-endian, and the
// size of its words. It takes them out of the marshalled form, which begins
// with four bytes of magic.
func midstate(d hash.Hash, block []byte) (state []byte, width int, err error) {
	m, ok := d.(encoding.BinaryMarshaler)
	if !ok {
		return nil, 0, fmt.Errorf("%T does not show its state", d)
	}
	d.Write(block)
	b, err := m.MarshalBinary()
	if err != nil {
		return nil, 0, err
	}
	size, width := 0, 4
	switch string(b[:4]) {
	case "sha\x01":
		size = 20
	case "sha\x02", "sha\x03":
		size = 32
	case "sha\x04", "sha\x05", "sha\x06", "sha\x07":
		size, width = 64, 8
	default:
		return nil, 0, fmt.Errorf("%T has an unknown state", d)
	}
	return b[4 : 4+size], width, nil
}

// swapped turns the words of b from big-endian into this machine's order.
func swapped(b []byte, width int) []byte {
	out := make([]byte, 0, len(b))
	for w := range slices.Chunk(b, width) {
		if width == 8 {
			out = binary.NativeEndian.AppendUint64(out, binary.BigEndian.Uint64(w))
		} else {
			out = binary.NativeEndian.AppendUint32(out, binary.BigEndian.Uint32(w))
		}
	}
	return out
}

// inRegisters orders a state of five or eight 32-bit words as x86 keeps it in
// 16-byte registers: SHA-1 as ABCD, SHA-256 as ABEF and CDGH, the first word
// highest.
func inRegisters(state []byte) []byte {
	order := []int{3, 2, 1, 0}
	if len(state) == 32 {
		order = []int{5, 4, 1, 0, 7, 6, 3, 2}
	}
	var out []byte
	for _, i := range order {
		out = append(out, swapped(state[4*i:4*i+4], 4)...)
	}
	return out
}

// AES adds the round keys of an AES key of 16, 24 or 32 bytes, for encryption
// and decryption, as Go's assembly (and the AES instructions) and as Go's
// portable code lay them out, and the GHASH key that GCM makes: as it is,
// with its bytes reversed, and doubled, as Go's table of multiples begins on
// amd64. The part of the schedule that is the key itself is left out: add the
// key with Bytes.
func (s *Set) AES(name string, key []byte) {
	if s.err != nil {
		return
	}
	enc, err := expandKey(key)
	if err != nil {
		s.err = fmt.Errorf("%w: %s: %w", ErrNeedle, name, err)
		return
	}
	dec := invertSchedule(enc)
	// Windows wholly of the key are the key's; the first window of dec is the last
	// of enc.
	s.Bytes(name+": AES round keys", enc[len(key)-Window+1:])
	s.Bytes(name+": AES decryption round keys", dec[1:len(dec)-1])
	s.Bytes(name+": AES round keys, portable", swapped(enc, 4))
	s.Bytes(name+": AES decryption round keys, portable", swapped(dec, 4)[1:])

	h, err := ghashKey(key)
	if err != nil {
		s.err = fmt.Errorf("%w: %s: %w", ErrNeedle, name, err)
		return
	}
	s.Bytes(name+": GHASH key", h)
	slices.Reverse(h)
	s.Bytes(name+": GHASH key, reversed", h)
	s.Bytes(name+": GHASH key, doubled", double(h))
}
