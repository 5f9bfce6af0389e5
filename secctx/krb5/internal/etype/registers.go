package etype

import (
	"crypto/sha256"
	"encoding/binary"
	"runtime"
)

// CopyKey copies src to dst, of the same length, eight bytes at a time. The
// built-in copy goes through vector registers and leaves 16 bytes and more of a
// key there, which a signal that comes later saves in memory; what is left
// here is no more than one word.
func CopyKey(dst, src []byte) {
	dst = dst[:len(src)]
	for len(src) >= 8 {
		binary.NativeEndian.PutUint64(dst, binary.NativeEndian.Uint64(src))
		dst, src = dst[8:], src[8:]
	}
	//lint:ignore S1001 not copy, for the reason above
	for i := range src {
		dst[i] = src[i]
	}
}

// rinse runs something public through the vector registers, after AES and
// digests have left key material there.
func rinse() {
	var zero [sha256.BlockSize]byte
	rinsed := sha256.Sum256(zero[:])
	runtime.KeepAlive(&rinsed)
}
