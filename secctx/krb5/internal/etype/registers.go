package etype

import (
	"crypto/sha256"
	"encoding/binary"
	"runtime"
)

// CopyKey copies src to dst, of the same length, eight bytes at a time. The
// built-in copy goes through vector registers and leaves 16 bytes or more of a key
// there, which a later signal saves in memory. CopyKey leaves one word at most.
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

// rinse runs public data through the vector registers, in which AES and digests
// leave key material.
func rinse() {
	var zero [sha256.BlockSize]byte
	rinsed := sha256.Sum256(zero[:])
	runtime.KeepAlive(&rinsed)
}
