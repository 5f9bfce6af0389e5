//go:build goexperiment.runtimesecret && linux && (amd64 || arm64)

package memsafe

import "runtime/secret"

// Erasing says whether Do erases registers and freed heap memory too, which
// needs a binary built with GOEXPERIMENT=runtimesecret on linux/amd64 or
// linux/arm64.
const Erasing = true

// Do runs f and erases the registers and the stack that it used before Do
// returns, and what it allocated once the collector has found it dead: it is
// runtime/secret.Do. Allocating inside is dear (about half a microsecond each).
//
// In a binary built without GOEXPERIMENT=runtimesecret it grows the stack,
// runs f and zeroes the stack below its caller.
func Do(f func()) { secret.Do(f) }
