// Package wipe zeroes the ciphers and digests of libraries, which hold key
// material and have no way to forget it. What they look like inside is nobody's
// promise, so it wipes behind a test of their shape; that the objects in use
// have that shape, and their keys in it, is held by tests of the packages that
// use them.
package wipe

import (
	"reflect"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/sealctx/sealctx/memsafe"
)

// Object zeroes the object behind a pointer and reports whether it could: the
// object must be without pointers, so that zeroing it can break nothing else.
// The pointer may stand in a struct of one field. All else is left alone. Safe
// for concurrent use, on different objects; the object must not be used again.
func Object(object any) bool {
	if object == nil {
		return false
	}
	// The value word of an interface that holds a pointer is that pointer, and
	// so it is for a struct whose only field is one.
	data := (*[2]unsafe.Pointer)(unsafe.Pointer(&object))[1]
	size := sizeOf(reflect.TypeOf(object))
	if size == 0 || data == nil {
		return false
	}
	memsafe.Wipe(unsafe.Slice((*byte)(data), size))
	runtime.KeepAlive(object)
	return true
}

// A sized is a type and how many bytes of its objects are to be wiped.
type sized struct {
	t reflect.Type
	n uintptr
}

// sizes is what measure has found. The types are a handful, so that looking
// through them all is the quickest; a list is replaced and never changed.
var sizes atomic.Pointer[[]sized]

func sizeOf(t reflect.Type) uintptr {
	known := sizes.Load()
	if known != nil {
		for i := range *known {
			if s := &(*known)[i]; s.t == t {
				return s.n
			}
		}
	}
	s := sized{t, measure(t)}
	more := []sized{s}
	if known != nil {
		more = append(more, *known...)
	}
	sizes.CompareAndSwap(known, &more) // or another is remembered, and this one the next time
	return s.n
}

// measure returns how large the object behind a t is, zero if it must be left
// alone.
func measure(t reflect.Type) uintptr {
	if t.Kind() == reflect.Struct && t.NumField() == 1 {
		t = t.Field(0).Type
	}
	if t.Kind() != reflect.Pointer || !flat(t.Elem()) {
		return 0
	}
	return t.Elem().Size()
}

// flat reports whether values of t are numbers through and through.
func flat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
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
