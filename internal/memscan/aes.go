//go:build linux

package memscan

import (
	"crypto/aes"
	"encoding/binary"
	"math/bits"
	"slices"
)

// The key schedules of FIPS 197, written out because the standard library does
// not show its own. They run in the scanning process only, on its copies of
// keys, and need not be fast or constant-time.

// gmul multiplies in GF(2^8) modulo the AES polynomial.
func gmul(a, b byte) byte {
	var p byte
	for ; b != 0; b >>= 1 {
		if b&1 != 0 {
			p ^= a
		}
		carry := a >> 7
		a = a<<1 ^ carry*0x1b
	}
	return p
}

// subByte is the S-box: the inverse, x^254, then an affine map.
func subByte(x byte) byte {
	inv := byte(1)
	for range 254 {
		inv = gmul(inv, x)
	}
	return inv ^ bits.RotateLeft8(inv, 1) ^ bits.RotateLeft8(inv, 2) ^
		bits.RotateLeft8(inv, 3) ^ bits.RotateLeft8(inv, 4) ^ 0x63
}

// expandKey returns the encryption round keys as a string of bytes (FIPS 197,
// section 5.2).
func expandKey(key []byte) ([]byte, error) {
	if n := len(key); n != 16 && n != 24 && n != 32 {
		return nil, aes.KeySizeError(n)
	}
	w, rcon := slices.Clone(key), byte(1)
	for rounds := len(key)/4 + 6; len(w) < 16*(rounds+1); {
		t := [4]byte(w[len(w)-4:])
		switch i := len(w) % len(key); {
		case i == 0:
			t = [4]byte{subByte(t[1]) ^ rcon, subByte(t[2]), subByte(t[3]), subByte(t[0])}
			rcon = gmul(rcon, 2)
		case i == 16 && len(key) == 32:
			t = [4]byte{subByte(t[0]), subByte(t[1]), subByte(t[2]), subByte(t[3])}
		}
		for j := range t {
			w = append(w, w[len(w)-len(key)]^t[j])
		}
	}
	return w, nil
}

// invertSchedule returns the round keys of the equivalent inverse cipher (FIPS
// 197, section 5.3.5): in reverse order, InvMixColumns applied to all but the
// first and the last.
func invertSchedule(enc []byte) []byte {
	var dec []byte
	for at := len(enc) - 16; at >= 0; at -= 16 {
		for col := at; col < at+16; col += 4 {
			c := enc[col : col+4]
			if at == 0 || at == len(enc)-16 {
				dec = append(dec, c...)
				continue
			}
			for i := range c {
				dec = append(dec, gmul(c[i], 14)^gmul(c[(i+1)%4], 11)^gmul(c[(i+2)%4], 13)^gmul(c[(i+3)%4], 9))
			}
		}
	}
	return dec
}

// ghashKey returns H, the encryption of the zero block.
func ghashKey(key []byte) ([]byte, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	h := make([]byte, aes.BlockSize)
	b.Encrypt(h, h)
	return h, nil
}

// double multiplies the byte-reversed h by x in GHASH's field, in the reflected
// representation that carry-less multiplication works on.
func double(h []byte) []byte {
	lo, hi := binary.LittleEndian.Uint64(h), binary.LittleEndian.Uint64(h[8:])
	carry := hi >> 63
	hi, lo = hi<<1|lo>>63, lo<<1
	lo ^= carry
	hi ^= carry * 0xc200000000000000
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, lo), hi)
}
