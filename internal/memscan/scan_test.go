//go:build linux

package memscan

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func keySet(t *testing.T, tg *Target) *Set {
	var s Set
	s.Bytes("key", tg.Secret("key"))
	require.NoError(t, s.Err())
	return &s
}

// TestFindsPlanted: a key is found, once and exactly where it is, and is not
// found when it has been wiped.
func TestFindsPlanted(t *testing.T) {
	for _, c := range []struct {
		place string
		kind  Kind
	}{
		{"heap", Arena},
		{"heap, odd address", Arena},
		{"goroutine stack", Arena},
		{"global", ""}, // bss is anonymous, data is of the file
		{"mmap", Anonymous},
		{"shared mmap", Mapped},
		{"page border", Anonymous},
		{"before a guard page", Anonymous},
		{"mapping border", Anonymous},
		{"not dumped", Anonymous},
		{"PROT_NONE", Anonymous},
		{"read only", Anonymous},
		{"own copy of a code page", Mapped},
	} {
		t.Run(c.place, func(t *testing.T) {
			tg := Start(t, "plant", &Options{Env: []string{placeVar + "=" + c.place}})
			tg.At("planted")
			r := tg.Scan(keySet(t, tg))
			hits := r.InMemory()
			require.Len(t, hits, 1, "%v", r)
			require.Equal(t, tg.Value("addr"), hits[0].Addr)
			require.Equal(t, keySize, hits[0].Len)
			if c.kind != "" {
				require.Equal(t, c.kind, hits[0].Kind)
			}
			require.Positive(t, r.Threads)
			require.Zero(t, r.Missed, "%v", r)
			require.Empty(t, r.Misses)
			tg.Resume()
			tg.At("wiped")
			r = tg.Scan(keySet(t, tg))
			require.Empty(t, r.Hits, "%v", r)
			tg.Resume()
			tg.Wait()
		})
	}
}

// TestPlainUser: all of that works for a user and its own children.
func TestPlainUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // then every test of this package is that test
	}
	asNobody(t, "^TestFindsPlanted$")
}

// TestFindsFreed: what the collector has freed and nobody cleared is found.
func TestFindsFreed(t *testing.T) {
	tg := Start(t, "freed", nil)
	tg.At("dropped")
	set := keySet(t, tg)
	require.Len(t, tg.Scan(set).InMemory(), 1)
	tg.Collect(2)
	require.Len(t, tg.Scan(set).InMemory(), 1)
	tg.Churn()
	require.Empty(t, tg.Scan(set).InMemory(), "churn reuses the object")
}

// TestHandoverLeavesNothing: Needle adds no copy. A plain buffer would.
func TestHandoverLeavesNothing(t *testing.T) {
	tg := Start(t, "leak", nil)
	tg.At("masked")
	require.Len(t, tg.Scan(keySet(t, tg)).Hits, 1)
	tg.Resume()
	tg.At("careless")
	require.Greater(t, len(tg.Scan(keySet(t, tg)).Hits), 1)
}

// TestPieces: of a needle 16 bytes are a hit, 15 are not, at every offset.
func TestPieces(t *testing.T) {
	key := make([]byte, 40)
	rand.Read(key)
	var s Set
	s.Bytes("key", key)
	m, err := newMatcher(&s)
	require.NoError(t, err)
	for at := range 64 {
		for off := 0; off+Window <= len(key); off++ {
			for _, n := range []int{Window - 1, Window} {
				mem := make([]byte, 129) // at+1 on, with different bytes around
				copy(mem[at+1:], key[off:off+n])
				mem[at] = ^key[max(off-1, 0)]
				mem[at+1+n] = ^key[min(off+n, len(key)-1)]
				found := map[run]bool{}
				m.search(mem, 0x1000, 0, len(mem), found)
				if n < Window {
					require.Empty(t, found, "%d bytes of %d at %d", n, off, at)
					continue
				}
				require.Equal(t, map[run]bool{{0, off, n, 0x1001 + uint64(at)}: true}, found)
			}
		}
	}
}

// TestSearchAgainstWindows compares the search with the definition of a hit, by
// windows, on memory full of pieces of needles.
func TestSearchAgainstWindows(t *testing.T) {
	random := mrand.New(mrand.NewPCG(1, 2))
	for range 300 {
		var s Set
		for k := range 3 {
			b := make([]byte, 16+random.IntN(60))
			rand.Read(b)
			if k == 0 { // a needle with runs and repetitions in it
				b = slices.Concat(b, make([]byte, random.IntN(30)), b)
			}
			s.Message(fmt.Sprint(k), b)
		}
		m, err := newMatcher(&s)
		require.NoError(t, err)
		mem := make([]byte, 3000)
		for at := 0; at < 2900; at += random.IntN(60) {
			b := s.needles[random.IntN(3)].b
			lo := random.IntN(len(b))
			copy(mem[at:], b[lo:lo+random.IntN(len(b)-lo)])
		}
		type window struct{ needle, off, at int }
		want, got := map[window]bool{}, map[window]bool{}
		for k, n := range s.needles {
			for off := range n.ok {
				for at := 0; n.ok[off] && at+Window <= len(mem); at++ {
					if bytes.Equal(mem[at:at+Window], n.b[off:off+Window]) {
						want[window{k, off, at}] = true
					}
				}
			}
		}
		found := map[run]bool{}
		for from := 0; from < len(mem); from += 1000 {
			m.search(mem, 0, from, from+1000, found)
		}
		for r := range found {
			for i := 0; i+Window <= r.length; i++ {
				if s.needles[r.needle].ok[r.off+i] {
					got[window{r.needle, r.off + i, int(r.addr) + i}] = true
				}
			}
		}
		require.NotEmpty(t, want)
		require.Equal(t, want, got)
	}
}

// TestParseMapping: names with spaces, and lines that are none.
func TestParseMapping(t *testing.T) {
	m, err := parseMapping("7f00-7f10 rw-s 00000000 00:05 12   /dev/shm/a b (deleted)")
	require.NoError(t, err)
	require.Equal(t, Mapping{Start: 0x7f00, End: 0x7f10, Perms: "rw-s", Name: "/dev/shm/a b (deleted)", inode: 12}, m)
	for _, line := range []string{"", "x", "7f10-7f00 rw-p 0 00:00 0 ", "7f00-7f10 rw-p 0 00:00 "} {
		_, err := parseMapping(line)
		require.Error(t, err, line)
	}
}

// TestAllowance: hits within the one page are excused, all others are not.
func TestAllowance(t *testing.T) {
	page := uint64(os.Getpagesize())
	r := &Report{Hits: []Hit{
		{Needle: "a", Addr: 5 * page, Len: 16},
		{Needle: "a", Addr: 6*page - 16, Len: 16},
		{Needle: "a", Addr: 6*page - 15, Len: 16},
		{Needle: "a", Addr: 5*page - 1, Len: 32},
		{Needle: "b", Addr: 5 * page, Len: 16},
		{Needle: "a", Addr: 5 * page, Len: 16, Kind: Registers},
	}}
	require.Equal(t, r.Hits[2:], r.Except(Allow{"a", 5 * page}))
	require.Len(t, r.Except(Allow{"", 5 * page}), 3)
	require.Len(t, r.Except(), 6)
	require.Len(t, r.Of("b"), 1)
	require.Len(t, r.InMemory(), 5)
}

// TestCoverage compares the report with what the kernel itself counts, the
// process being stopped; Scan leaves it so.
func TestCoverage(t *testing.T) {
	tg := Start(t, "freed", nil)
	tg.At("dropped")
	start, err := stop(tg.PID())
	require.NoError(t, err)
	defer start()
	mapped, resident := smaps(t, tg.PID())
	r := tg.Scan(keySet(t, tg))
	require.Equal(t, mapped, r.Mapped)
	require.Equal(t, r.Mapped, r.Scanned+r.Absent+r.Refused+r.Missed)
	require.GreaterOrEqual(t, r.Scanned, resident)
	require.Zero(t, r.Missed, "%v", r)
	require.Equal(t, 1.0, r.Coverage())
	stopped, err := allStopped(tg.PID())
	require.NoError(t, err)
	require.True(t, stopped)
	t.Logf("%v", r)
}

// smaps sums up readable and writable memory, and what of it is resident.
func smaps(t *testing.T, pid int) (mapped, resident uint64) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	require.NoError(t, err)
	defer f.Close()
	var size, rss uint64
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var n uint64
		switch line := sc.Text(); {
		case strings.HasPrefix(line, "Size:"):
			fmt.Sscanf(line, "Size: %d kB", &n)
			size = n << 10
		case strings.HasPrefix(line, "Rss:"):
			fmt.Sscanf(line, "Rss: %d kB", &n)
			rss = n << 10
		case strings.HasPrefix(line, "VmFlags: rd wr"):
			mapped += size
			resident += rss
		}
	}
	require.Positive(t, resident)
	return mapped, resident
}

// TestCoverageFalls: memory that cannot be read counts against the coverage.
func TestCoverageFalls(t *testing.T) {
	const lost = 64<<20 - 4096
	tg := Start(t, "truncated", nil)
	tg.At("whole")
	require.Zero(t, tg.Scan(keySet(t, tg)).Missed)
	tg.Resume()
	tg.At("cut")
	r, err := Scan(tg.PID(), keySet(t, tg))
	require.NoError(t, err)
	require.Equal(t, uint64(lost), r.Missed)
	require.Len(t, r.Misses, 1)
	require.Less(t, r.Coverage(), MinCoverage)
	require.Len(t, r.InMemory(), 1, "the page before the gap is still searched")
}

// TestRefused: memfd_secret is listed, not read, and not a gap.
func TestRefused(t *testing.T) {
	if fd, err := unix.MemfdSecret(unix.O_CLOEXEC); err == nil {
		unix.Close(fd)
	} else {
		t.Skipf("this kernel has no memfd_secret: %v", err)
	}
	tg := Start(t, "secretmem", nil)
	tg.At("planted")
	r := tg.Scan(keySet(t, tg))
	size, addr := uint64(4*os.Getpagesize()), tg.Value("addr")
	require.Equal(t, size, r.Refused)
	require.Equal(t, []Range{{addr, addr + size}}, r.Refusals)
	require.Zero(t, r.Missed)
	require.Empty(t, r.Hits)
}

// TestLoad: signals and collections really happen, and only when asked for.
func TestLoad(t *testing.T) {
	for _, loaded := range []bool{false, true} {
		o := &Options{}
		if loaded {
			o = &Options{Collectors: 2, Signal: syscall.SIGUSR1, Rate: 1000}
		}
		tg := Start(t, "signals", o)
		tg.At("ready")
		tg.Resume()
		tg.At("loaded")
		t.Logf("loaded %v: %d signals, %d collections", loaded, tg.Value("signals"), tg.Value("collections"))
		if loaded {
			require.Greater(t, tg.Value("signals"), uint64(50))
			require.Greater(t, tg.Value("collections"), uint64(10))
		} else {
			require.Zero(t, tg.Value("signals"))
			require.Less(t, tg.Value("collections"), uint64(10))
		}
		tg.Resume()
		tg.Wait()
	}
}

// TestVictimFailure: a victim that fails, dies or ends early fails the test.
func TestVictimFailure(t *testing.T) {
	for scenario, want := range map[string]string{
		"fatal":    "invalid argument",
		"panic":    "on purpose",
		"early":    "not at checkpoint",
		"no such":  "no scenario",
		"aes":      `not at checkpoint "nowhere"`,
		"chacha":   `not at checkpoint "nowhere"`,
		"aes busy": `not at checkpoint "nowhere"`,
	} {
		t.Run(scenario, func(t *testing.T) {
			f := &failing{TB: t}
			done := make(chan bool)
			go func() {
				defer close(done)
				Start(f, scenario, &Options{Env: []string{sizeVar + "=256"}}).At("nowhere")
			}()
			<-done
			require.Contains(t, f.said, want)
		})
	}
}

// failing notes a fatal failure instead of passing it on.
type failing struct {
	testing.TB
	said string
}

func (f *failing) Fatal(args ...any)                 { f.Fatalf("%s", fmt.Sprint(args...)) }
func (f *failing) Fatalf(format string, args ...any) { f.said = fmt.Sprintf(format, args...); goexit() }

// TestScanErrors: no process, nothing to look for.
func TestScanErrors(t *testing.T) {
	var s Set
	s.Bytes("short", make([]byte, 15))
	_, err := Scan(os.Getpid(), &s)
	require.ErrorIs(t, err, ErrNeedle)
	_, err = Scan(1<<22+1, &Set{})
	require.Error(t, err)
	_, err = File(filepath.Join(t.TempDir(), "none"), &Set{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestRunning: a process that was let run in the middle of a scan is an error,
// and stays nobody's: it can be killed and waited for.
func TestRunning(t *testing.T) {
	tg := Start(t, "plant", &Options{Env: []string{placeVar + "=heap"}})
	tg.At("planted")
	ids, err := tasks(tg.PID())
	require.NoError(t, err)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, id := range ids[:2] {
		_, err = savedRegisters(id)
		require.ErrorIs(t, err, unix.ESRCH)
	}
	ended := make(chan bool)
	go func() { tg.kill(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the victim was killed and cannot be waited for")
	}
}

// TestFile: a needle is found at any offset of a file, over the borders of what
// is read at a time too.
func TestFile(t *testing.T) {
	key := make([]byte, 100)
	rand.Read(key)
	var s Set
	s.Bytes("key", key)
	path := filepath.Join(t.TempDir(), "core")
	for _, at := range []int{0, 7, chunk - 99, chunk - 50, chunk - 1, chunk, 2*chunk + 3, 3*chunk + 5 - len(key)} {
		b := make([]byte, 3*chunk+5)
		copy(b[at:], key)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		hits, err := File(path, &s)
		require.NoError(t, err)
		require.Equal(t, []Hit{{Needle: "key", Len: len(key), Addr: uint64(at), Kind: InFile}}, hits)
		for i := Window - 1; i < len(key); i += Window {
			b[at+i]++
		}
		require.NoError(t, os.WriteFile(path, b, 0o600))
		hits, err = File(path, &s)
		require.NoError(t, err)
		require.Empty(t, hits, "pieces of 15 bytes")
	}
}

// TestDump: a real core dump shows the key that it holds, and not the one that
// was kept out of it.
func TestDump(t *testing.T) {
	tg := Start(t, "dump", &Options{DumpDir: t.TempDir()})
	tg.At("planted")
	set := keySet(t, tg)
	set.Bytes("kept out", tg.Secret("kept out"))
	r := tg.Scan(set)
	require.Len(t, r.Of("key"), 1)
	require.Len(t, r.Of("kept out"), 1)
	hits, err := File(tg.Dump(), set)
	require.NoError(t, err)
	require.Len(t, hits, 1)
	require.Equal(t, "key", hits[0].Needle)
}

func BenchmarkSearch(b *testing.B) {
	var s Set
	for i := range 100 {
		key := make([]byte, 240)
		rand.Read(key)
		s.Bytes(fmt.Sprint(i), key)
	}
	m, err := newMatcher(&s)
	require.NoError(b, err)
	mem := make([]byte, 64<<20)
	rand.Read(mem)
	b.SetBytes(int64(len(mem)))
	b.ReportAllocs()
	for b.Loop() {
		found := map[run]bool{}
		m.search(mem, 0, 0, len(mem), found)
		require.Empty(b, found)
	}
}

// BenchmarkScan is a whole scan of a small Go process, stop and start included.
func BenchmarkScan(b *testing.B) {
	tg := Start(b, "freed", nil)
	tg.At("dropped")
	var s Set
	s.Bytes("key", tg.Secret("key"))
	s.AES("key", tg.Secret("key"))
	var r *Report
	for b.Loop() {
		r = tg.Scan(&s)
	}
	b.Logf("%v", r)
}
