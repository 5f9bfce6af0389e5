// Package memscan looks for secrets that a process has left in its memory. It
// supports tests only: one process, the test, stops another, a re-executed copy
// of the test binary, and reads all of its memory through /proc/PID/mem.
//
// A needle is a secret, or a form that a computation gives it (HMAC pads and
// midstates, AES key schedules). A hit is any 16 bytes of a needle, at any
// address. A [Set] collects needles, [Scan] looks for them in a live process,
// [File] in a core dump. [Main], [Start] and [Victim] run the other process:
//
//	func TestMain(m *testing.M) {
//		memscan.Main(m, map[string]func(*memscan.Victim){"seal": sealVictim})
//	}
//
//	func sealVictim(v *memscan.Victim) {
//		key := newKey()
//		v.Needle("key", key)
//		v.UnderLoad(func() { use(key) })
//		clear(key)
//		v.Checkpoint("used")
//	}
//
//	func TestLeavesNothing(t *testing.T) {
//		tg := memscan.Start(t, "seal", nil)
//		tg.At("used")
//		var set memscan.Set
//		set.Bytes("key", tg.Secret("key"))
//		set.AES("key", tg.Secret("key"))
//		require.Empty(t, tg.Scan(&set).Hits)
//		tg.Resume()
//		tg.Wait()
//	}
//
// A test like this one proves nothing unless the same test, given a victim that
// leaks, fails: each user of the package runs such a control beside it.
//
// # What it sees
//
// Every page of every mapping that can hold something: readable or not
// (PROT_NONE does not hide a page), heap, goroutine stacks, signal stacks,
// globals, mmap regions, shared and file mappings, pages in swap, and freed
// memory that nobody has cleared. Of read-only and executable file mappings
// only the pages that the process has made its own are read, since the others
// are the file. Beyond memory, the general and vector registers of every
// thread, as the kernel saved them when the thread stopped.
//
// # What it cannot see
//
// Pages that the kernel refuses to everybody (memfd_secret) are counted and
// listed, not read. Out of sight are what the kernel itself holds (pipe and
// socket buffers, page cache of files that are not mapped, kernel stacks), and
// forms of a key that nobody made a needle of: the sums of message words and
// round constants that SHA code without SHA instructions keeps on its stack,
// powers of the GHASH key beyond the first, bitsliced ciphers. Pieces shorter
// than 16 bytes are not hits. A process that made itself undumpable can only be
// scanned by root. The scan is one instant: what was overwritten before is gone.
//
// # What to make of hits in registers
//
// A register keeps what was last in it, so an idle thread of a plain build may
// show a piece of a key in one long after the key was wiped. [Report.InMemory]
// leaves those hits out, for a test of what our own objects, buffers and frames
// keep; a binary built with GOEXPERIMENT=runtimesecret should have none.
//
// Linux only. Scanning needs no privilege for one's own children, unless a
// security module such as Yama restricts ptrace to more than that.
package memscan
