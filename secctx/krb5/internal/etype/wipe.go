package etype

import (
	"reflect"
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
