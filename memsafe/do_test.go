package memsafe

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"runtime"
	"runtime/debug"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
)

const leftSize = 1 << 10 // what leave puts on the stack, bytes

// leave puts copies of a pattern on the stack and forgets them there.
//
//go:noinline
func leave(pattern *[16]byte) {
	var frame [leftSize]byte
	for i := 0; i < len(frame); i += len(pattern) {
		copy(frame[i:], pattern[:])
	}
	escape(frame[:])
}

//go:noinline
func escape(b []byte) byte { return b[0] }

// roomy makes the stack large enough for everything that follows.
//
//go:noinline
func roomy() byte {
	var frame [64 << 10]byte
	return escape(frame[:])
}

// remains runs f on a fresh stack and returns how much of what it left is found
// under its caller afterwards.
func remains(f func(*[16]byte)) int {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // no collection moves the stack
	result := make(chan int)
	go func() {
		roomy()
		var pattern [16]byte
		_, _ = rand.Read(pattern[:])
		f(&pattern)
		result <- memscan.Below(&pattern)
	}()
	return <-result
}

//go:noinline
func recovering(f func()) (p any) {
	defer func() { p = recover() }()
	f()
	return nil
}

func TestDoErases(t *testing.T) {
	plain := remains(func(p *[16]byte) { leave(p) })
	require.Greater(t, plain, leftSize/16/2, "the control: without Do it is found")
	require.Zero(t, remains(func(p *[16]byte) { Do(func() { leave(p) }) }))
}

func TestDoErasesAfterPanic(t *testing.T) {
	bad := func(p *[16]byte) { leave(p); panic("bad") }
	plain := remains(func(p *[16]byte) { recovering(func() { bad(p) }) })
	require.NotZero(t, plain, "the control: without Do it is found")
	require.Zero(t, remains(func(p *[16]byte) { recovering(func() { Do(func() { bad(p) }) }) }))
}

func TestDoPanics(t *testing.T) {
	value := fmt.Errorf("the very one")
	require.Equal(t, value, recovering(func() { Do(func() { panic(value) }) }))
	require.Nil(t, recovering(func() { Do(func() {}) }))

	// A fault inside stays what it is, for those who turn it into an error.
	var p any
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r, err := newGuardRegion(4096)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.free()) }()
	p = recovering(func() { Do(func() { sink = *(*byte)(unsafe.Add(r.base, -1)) }) })
	require.Implements(t, (*interface{ Addr() uintptr })(nil), p)
}

func TestDoGoexit(t *testing.T) {
	done, after := make(chan bool), false
	go func() {
		defer close(done)
		Do(runtime.Goexit)
		after = true
	}()
	<-done
	require.False(t, after, "Goexit ends the goroutine through Do")
}

func TestDoAllocatesNothing(t *testing.T) {
	n := 0
	require.Zero(t, testing.AllocsPerRun(100, func() { Do(func() { n++ }) }))
	require.NotZero(t, n)
}

func TestWipeBytes(t *testing.T) {
	Wipe(nil)
	b := []byte("secret")
	Wipe(b[:3])
	require.Equal(t, []byte("\x00\x00\x00ret"), b)
	Wipe(b)
	require.Equal(t, make([]byte, 6), b)
}

func BenchmarkDo(b *testing.B) {
	var buf [64]byte
	b.ReportAllocs()
	for b.Loop() {
		Do(func() { copy(buf[:], bytes.TrimSpace(buf[:])) })
	}
}
