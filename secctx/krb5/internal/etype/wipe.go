package etype

import (
	"crypto/sha256"
	"encoding/binary"
	"reflect"
	"runtime"
	"unsafe"

	"github.com/sealctx/sealctx/memsafe"
)

// wipeObject zeroes an object of the standard library that holds key material,
// and reports whether it could: x must be a pointer to a type without pointers,
// so that zeroing it can break nothing but the object. x must not be used
// afterwards.
func wipeObject(x any) bool {
	v := reflect.ValueOf(x)
	if v.Kind() != reflect.Pointer || v.IsNil() || !flat(v.Type().Elem()) {
		return false
	}
	memsafe.Wipe(unsafe.Slice((*byte)(v.UnsafePointer()), v.Type().Elem().Size()))
	return true
}

// flat reports whether values of t are numbers through and through.
func flat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	case reflect.Array:
		return flat(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !flat(t.Field(i).Type) {
				return false
			}
		}
		return true
	}
	return false
}

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
