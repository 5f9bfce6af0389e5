//go:build cgo && !nolibrary

package main

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
*/
import "C"

import (
	"errors"
	"unsafe"
)

// loadAlso loads a further library, as a plugin of libsasl2 or libldap does.
func loadAlso(name string) error {
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	if C.dlopen(c, C.RTLD_NOW|C.RTLD_LOCAL) == nil {
		return errors.New(C.GoString(C.dlerror()))
	}
	return nil
}
