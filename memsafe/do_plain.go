//go:build !(goexperiment.runtimesecret && linux && (amd64 || arm64))

package memsafe

// Erasing says whether Do erases registers and freed heap memory too, which
// needs a binary built with GOEXPERIMENT=runtimesecret on linux/amd64 or
// linux/arm64.
const Erasing = false

// Do makes sure of roomStack bytes of stack before it calls f, and zeroes
// scrubbedStack of them after. The deepest that sealctx keeps a secret inside Do
// is AES-GCM with its key expansion, under half of that.
const (
	roomStack     = 8 << 10
	scrubbedStack = 4 << 10
)

// Do runs f and then zeroes the part of the stack that f used, up to 4 KiB
// below its caller. The stack is grown first, so that f does not leave a copy
// behind by growing it. f should not allocate, and should not call out of the
// work that needs protection. A panic of f passes through, after the erasure;
// runtime.Goexit inside f ends the goroutine without one.
//
// In a binary built with GOEXPERIMENT=runtimesecret it is runtime/secret.Do,
// which also erases registers and, once collected, what f allocated.
func Do(f func()) {
	growStack(false)
	p := caught(f)
	scrubStack()
	if p != nil {
		panic(p)
	}
}

// caught runs f and returns what it panicked with. Deferred functions of a
// panic run below the frames that it left, so that none of them could erase
// those: f has to be off the stack first.
//
//go:noinline
func caught(f func()) (p any) {
	defer func() { p = recover() }()
	f()
	return nil
}

// growStack has a frame of roomStack and so makes its prologue grow the stack;
// the branch that would zero it is never taken.
//
//go:noinline
func growStack(zero bool) byte {
	if !zero {
		return 0
	}
	var frame [roomStack]byte
	return touch(frame[:])
}

//go:noinline
func scrubStack() {
	var frame [scrubbedStack]byte
	touch(frame[:])
}

// touch keeps the compiler from dropping the frame.
//
//go:noinline
func touch(frame []byte) byte { return frame[0] }
