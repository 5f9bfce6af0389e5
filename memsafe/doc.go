// Package memsafe keeps secret bytes: in memory that is locked, guarded and
// left out of core dumps, wiped when they are no longer needed, and worked on
// by code that cleans up behind itself. It knows no cryptography.
//
// A [Pool] is one region of such memory, locked whole when it is made, from
// which many small secrets are cut:
//
//	pool, err := memsafe.NewPool(0)
//	key, err := pool.Alloc(32)
//	defer key.Wipe()
//	rand.Read(key.Bytes())
//
// Where the kernel offers memfd_secret(2) the region is taken out of the
// kernel's own mapping, so that not even root can read it through /proc. Where
// it does not, the region is a memguard buffer.
//
// [Do] runs a function and erases what it leaves on the stack, and, in a
// binary built with GOEXPERIMENT=runtimesecret, in registers and in freed heap
// memory too. [Report] says which of all this is really in force.
//
// # What it does not do
//
// A slice taken with [Secret.Bytes] and kept after Wipe or Close is the
// caller's mistake: after Close it faults, and no recover helps. Copies that
// a caller makes into ordinary memory are the caller's to wipe, with [Wipe].
// Secrets of one pool have no guard page between them, only around the pool.
// Without runtimesecret the registers of a thread that a signal interrupts are
// saved where nothing wipes them; doc/THREATS.md has the measured rate.
//
// Importing this package imports memguard, which sets RLIMIT_CORE to zero, the
// hard limit included, for this process and its children. memguard.Purge,
// called anywhere in the program, unmaps pools that memguard backs: a program
// that holds a Pool must not call it.
package memsafe
