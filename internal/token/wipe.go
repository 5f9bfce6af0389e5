package token

import (
	"reflect"
	"runtime"
	"sync"
	"unsafe"

	"github.com/sealctx/sealctx/memsafe"
)

// wipeObject zeroes the object behind a cipher of a library, which has no way to
// forget its key. It does so only for what is a pointer to memory without
// pointers, possibly inside a struct of one field, and leaves all else alone;
// TestCipherShapes holds that the ciphers used here are of that shape, and that
// their keys are found in it before and not after.
//
// The object must not be used again.
func wipeObject(object any) {
	if object == nil {
		return
	}
	size := wipeSize(reflect.TypeOf(object))
	if size == 0 {
		return
	}
	// The value word of an interface that holds a pointer is that pointer, and
	// so it is for a struct whose only field is one.
	data := (*[2]unsafe.Pointer)(unsafe.Pointer(&object))[1]
	memsafe.Wipe(unsafe.Slice((*byte)(data), size))
	runtime.KeepAlive(object)
}

// sizes caches wipeSize: by reflect.Type, the number of bytes to wipe.
var sizes sync.Map

func wipeSize(t reflect.Type) uintptr {
	if n, ok := sizes.Load(t); ok {
		return n.(uintptr)
	}
	n := measure(t)
	sizes.Store(t, n)
	return n
}

func measure(t reflect.Type) uintptr {
	if t.Kind() == reflect.Struct && t.NumField() == 1 {
		t = t.Field(0).Type
	}
	if t.Kind() != reflect.Pointer || hasPointers(t.Elem()) {
		return 0
	}
	return t.Elem().Size()
}

func hasPointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return false
	case reflect.Array:
		return hasPointers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if hasPointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	}
	return true
}
