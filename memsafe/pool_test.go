package memsafe

import (
	"bytes"
	"crypto/rand"
	"math"
	mathrand "math/rand/v2"
	"os"
	"sync"
	"testing"
	"unsafe"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/stretchr/testify/require"
)

func TestAlloc(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		page := os.Getpagesize()
		p := poolOf(t, take, page)
		require.Equal(t, page, p.Size())
		require.Zero(t, p.InUse())
		for _, n := range []int{0, -1, math.MinInt} {
			_, err := p.Alloc(n)
			require.Error(t, err)
			require.NotErrorIs(t, err, ErrLimit)
		}
		for _, n := range []int{page + 1, math.MaxInt, math.MaxInt - granule} {
			_, err := p.Alloc(n)
			require.ErrorIs(t, err, ErrLimit, "%d", n)
		}
		s, err := p.Alloc(100)
		require.NoError(t, err)
		require.Equal(t, 100, s.Len())
		require.Len(t, s.Bytes(), 100)
		require.Equal(t, 100, cap(s.Bytes()), "append must not run into the next secret")
		require.Zero(t, uintptr(unsafe.Pointer(&s.Bytes()[0]))%granule)
		require.Equal(t, 128, p.InUse())

		whole, err := p.Alloc(page - 128)
		require.NoError(t, err)
		_, err = p.Alloc(1)
		require.ErrorIs(t, err, ErrLimit)
		require.ErrorContains(t, err, "4096 of the pool's 4096 in use")
		require.ErrorContains(t, err, "RLIMIT_MEMLOCK")
		require.ErrorContains(t, err, "ulimit -l")
		whole.Wipe()
		require.Equal(t, 128, p.InUse())
	})
}

// What is given back is zeroed, at once and for the next who gets it.
func TestWipe(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		p := poolOf(t, take, os.Getpagesize())
		s, err := p.Alloc(200)
		require.NoError(t, err)
		b := s.Bytes()
		require.Equal(t, make([]byte, 200), b)
		_, _ = rand.Read(b)
		s.Wipe()
		require.Equal(t, make([]byte, 200), b)
		require.Nil(t, s.Bytes())
		require.Zero(t, s.Len())

		next, err := p.Alloc(200)
		require.NoError(t, err)
		_, _ = rand.Read(next.Bytes())
		s.Wipe() // again: must not free what is now another's
		require.NotEqual(t, make([]byte, 200), next.Bytes())
		require.Equal(t, 256, p.InUse())

		(*Secret)(nil).Wipe()
		require.Nil(t, (*Secret)(nil).Bytes())
		require.Zero(t, (*Secret)(nil).Len())
	})
}

func TestTruncate(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		p := poolOf(t, take, os.Getpagesize())
		s, err := p.Alloc(128)
		require.NoError(t, err)
		b := s.Bytes()
		for i := range b {
			b[i] = 7
		}
		for _, n := range []int{-1, 128, 129} {
			s.Truncate(n)
			require.Equal(t, 128, s.Len())
		}
		s.Truncate(5)
		require.Equal(t, bytes.Repeat([]byte{7}, 5), s.Bytes())
		require.Equal(t, make([]byte, 123), b[5:])
		require.Equal(t, 128, p.InUse(), "the room is kept until Wipe")
		s.Truncate(0)
		require.Empty(t, s.Bytes())
		s.Wipe()
		require.Zero(t, p.InUse())
	})
}

func TestClose(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		p := poolOf(t, take, os.Getpagesize())
		s, err := p.Alloc(32)
		require.NoError(t, err)
		b := s.Bytes()
		require.False(t, faults(func() { b[0]++ }))
		require.NoError(t, p.Close())
		require.NoError(t, p.Close())
		require.True(t, faults(func() { b[0]++ }), "the memory is still mapped")
		require.Nil(t, s.Bytes())
		s.Truncate(1)
		s.Wipe()
		require.Zero(t, p.InUse())
		_, err = p.Alloc(32)
		require.ErrorIs(t, err, ErrClosed)
	})
}

var sink byte // what a test reads

// One byte before the region and one behind it fault; the first and the last
// byte do not.
func TestGuardPages(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		size := 3 * os.Getpagesize()
		p := poolOf(t, take, size)
		at := func(off int) *byte { return (*byte)(unsafe.Add(p.mem.base, off)) }
		for _, off := range []int{0, 1, size - 1} {
			require.False(t, faults(func() { *at(off)++ }), "offset %d", off)
		}
		for _, off := range []int{-1, -os.Getpagesize(), size, size + os.Getpagesize() - 1} {
			require.True(t, faults(func() { *at(off)++ }), "offset %d: write", off)
			require.True(t, faults(func() { sink = *at(off) }), "offset %d: read", off)
		}
	})
}

// Ten thousand secrets of 64 bytes live in a default pool, under the usual limit
// of 8 MiB, as a plain user.
func TestTenThousandSecrets(t *testing.T) {
	if !apart.Run(t, apart.PlainUser) {
		return
	}
	setLimit(t, 8<<20)
	p, err := NewPool(0)
	require.NoError(t, err)
	want := make([][64]byte, 10_000)
	live := make([]*Secret, len(want))
	for i := range live {
		live[i], err = p.Alloc(64)
		require.NoError(t, err, "secret %d", i)
		_, _ = rand.Read(want[i][:])
		copy(live[i].Bytes(), want[i][:])
	}
	for i := range live {
		require.Equal(t, want[i][:], live[i].Bytes())
	}
	require.Equal(t, 640_000, p.InUse())
	require.NoError(t, p.Close())
}

func TestPoolSizes(t *testing.T) {
	for _, size := range []int{-1, math.MinInt, maxPool + 1, math.MaxInt} {
		_, err := NewPool(size)
		require.Error(t, err, "%d", size)
	}
	page := os.Getpagesize()
	for size, want := range map[int]int{1: page, page: page, page + 1: 2 * page} {
		p, err := NewPool(size)
		require.NoError(t, err)
		require.Equal(t, want, p.Size())
		require.Contains(t, []string{"memfd_secret", "memguard"}, p.Backing())
		require.NoError(t, p.Close())
	}
}

// A region that is no multiple of 64 granules has no granule past its end.
func TestGranulesPastTheEnd(t *testing.T) {
	mem := make([]byte, 67*granule+granule/2)
	p := newPool(plain{mem})
	for i := range 67 {
		_, err := p.Alloc(granule)
		require.NoError(t, err, "granule %d", i)
	}
	_, err := p.Alloc(1)
	require.ErrorIs(t, err, ErrLimit)
}

// plain is a region of ordinary memory.
type plain struct{ b []byte }

func (r plain) bytes() []byte { return r.b }
func (plain) backing() string { return "plain" }
func (plain) free() error     { return nil }

// The allocator against a naive model: no two secrets overlap, each keeps its
// bytes, and it refuses only when no run of free granules is long enough.
func TestAllocAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		rng := mathrand.New(mathrand.NewPCG(seed, 3))
		granules := 64 + rng.IntN(200)
		p := newPool(plain{make([]byte, granules*granule)})
		owner := make([]*Secret, granules)
		fill := map[*Secret]byte{}
		longest := func() (most int) {
			run := 0
			for _, o := range owner {
				if run++; o != nil {
					run = 0
				}
				most = max(most, run)
			}
			return most
		}
		for step := range 400 {
			if rng.IntN(5) < 3 {
				n := 1 + rng.IntN(rng.IntN(12)*granule+1)
				need := (n + granule - 1) / granule
				s, err := p.Alloc(n)
				require.Equal(t, longest() >= need, err == nil, "seed %d step %d: %d granules: %v", seed, step, need, err)
				if err != nil {
					continue
				}
				for i := s.off / granule; i < s.off/granule+need; i++ {
					require.Nil(t, owner[i], "seed %d step %d: granule %d has two owners", seed, step, i)
					owner[i] = s
				}
				require.Equal(t, make([]byte, n), s.Bytes())
				fill[s] = byte(1 + step%255)
				copy(s.Bytes(), bytes.Repeat([]byte{fill[s]}, n))
				continue
			}
			for s, v := range fill { // any one
				require.Equal(t, bytes.Repeat([]byte{v}, s.Len()), s.Bytes(), "seed %d step %d", seed, step)
				for i := range owner {
					if owner[i] == s {
						owner[i] = nil
					}
				}
				s.Wipe()
				delete(fill, s)
				break
			}
		}
		used := 0
		for _, o := range owner {
			if o != nil {
				used += granule
			}
		}
		require.Equal(t, used, p.InUse(), "seed %d", seed)
	}
}

func TestPoolConcurrently(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		p := poolOf(t, take, 16*os.Getpagesize())
		var all sync.WaitGroup
		for g := range 8 {
			all.Go(func() {
				for i := range 2000 {
					s, err := p.Alloc(1 + (i*37)%500)
					if err != nil {
						t.Error(err)
						return
					}
					b := s.Bytes()
					for j := range b {
						b[j] = byte(g)
					}
					if i := bytes.IndexFunc(b, func(r rune) bool { return r != rune(g) }); i >= 0 {
						t.Errorf("byte %d of a secret is another's", i)
					}
					s.Wipe()
				}
			})
		}
		all.Wait()
		require.Zero(t, p.InUse())
	})
}

// A null region is an error and not a pool of nothing.
func TestRegionOfNothing(t *testing.T) {
	_, err := newGuardRegion(0)
	require.Error(t, err)
}

// Memory that the kernel cannot fill in is an error, not a crash.
func TestPopulate(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		r, err := take(os.Getpagesize())
		require.NoError(t, err)
		require.NoError(t, populate(r.bytes()))
		b := r.bytes()
		require.NoError(t, r.free())
		require.ErrorContains(t, populate(b), "no memory behind it")
	})
}

// A child of fork gets none of it, and a core dump neither; the kernel says so
// itself.
func TestKernelFlags(t *testing.T) {
	if !apart.Run(t, nil) {
		return
	}
	for name, take := range backings {
		r, err := take(2 * os.Getpagesize())
		if err != nil {
			require.Equal(t, "memfd_secret", name)
			continue
		}
		flags := kernelFlags(t, r.bytes())
		require.Contains(t, flags, "lo", "%s: locked", name)
		require.Contains(t, flags, "dd", "%s: not dumped", name)
		require.Subset(t, []string{"dc", "wf"}, intersect(flags, "dc", "wf"), name)
		require.Len(t, intersect(flags, "dc", "wf"), 1, "%s: not copied to, or wiped in, a child", name)
		require.NoError(t, r.free())
	}
	ordinary := make([]byte, 8*os.Getpagesize())
	require.Empty(t, intersect(kernelFlags(t, ordinary), "lo", "dd", "dc", "wf"), "the control")
}

// Room is what a secret takes of its pool, from the first to the last, however short it
// has become.
func TestRoom(t *testing.T) {
	p, err := NewPool(1 << 16)
	require.NoError(t, err)
	defer p.Close()
	for _, n := range []int{1, 2, 63, 64, 65, 512, 1000, 40000} {
		s, err := p.Alloc(n)
		require.NoError(t, err)
		require.Equal(t, Room(n), p.InUse(), n)
		s.Truncate(1)
		require.Equal(t, Room(n), p.InUse(), "%d, cut to 1", n)
		s.Wipe()
		require.Zero(t, p.InUse())
	}
	for _, n := range []int{0, -1, -28, math.MinInt} {
		require.Zero(t, Room(n))
	}
	require.Equal(t, 64, Room(1))
	require.Equal(t, 128, Room(65))
}
