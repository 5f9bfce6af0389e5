//go:build !(goexperiment.runtimesecret && linux && (amd64 || arm64))

package memsafe

// Erasing says whether Do erases registers and freed heap memory too, which
// needs a binary built with GOEXPERIMENT=runtimesecret on linux/amd64 or
// linux/arm64.
const Erasing = false

// doStack is how much stack, in bytes, Do makes sure of before it calls f and
// zeroes after. The deepest that sealctx runs inside Do is AES-GCM with its key
// expansion, under 4 KiB; a test measures it.
const doStack = 8 << 10

// Do runs f and then zeroes the part of the stack that f used, up to 8 KiB
// below its caller. The stack is grown first, so that f does not leave a copy
// behind by growing it. f should not allocate, and should not call out of the
// work that needs protection. A panic of f passes through, after the erasure.
//
// In a binary built with GOEXPERIMENT=runtimesecret it is runtime/secret.Do,
// which also erases registers and, once collected, what f allocated.
func Do(f func()) {
	growStack(false)
	defer scrubStack()
	f()
}

// growStack has a frame as large as scrubStack's and so makes its prologue
// grow the stack; the branch that would zero it is never taken.
//
//go:noinline
func growStack(zero bool) byte {
	if !zero {
		return 0
	}
	var frame [doStack]byte
	return touch(&frame)
}

//go:noinline
func scrubStack() {
	var frame [doStack]byte
	touch(&frame)
}

// touch keeps the compiler from dropping the frame.
//
//go:noinline
func touch(frame *[doStack]byte) byte { return frame[0] }
