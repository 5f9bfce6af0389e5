package memscan

import "unsafe"

// stackDepth is how far Below looks, in bytes.
const stackDepth = 3 << 10

// Below counts the copies of a pattern on this goroutine's stack under its caller:
// what functions that have returned left there. The stack must be that large.
//
//go:noinline
//go:nocheckptr
func Below(pattern *[16]byte) (found int) {
	var here byte
	for off := len(pattern); off < stackDepth; off++ {
		at := (*[16]byte)(unsafe.Add(unsafe.Pointer(&here), -off))
		if *at == *pattern {
			found++
		}
	}
	return found
}
