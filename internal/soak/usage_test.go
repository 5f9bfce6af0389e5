package soak

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/memsafe"
)

// A usage is what a process holds.
type usage struct {
	Resident    int // KiB of memory of its own, zero under the race detector: pages of files, such as the program and the replay cache, are the kernel's
	Locked      int // KiB
	Secrets     int // bytes in use of pools for secrets
	Descriptors int
	Goroutines  int
}

// tolerance is by how much a usage may grow. What leaks, leaks with each of
// thousands of handovers; what is left is the allocator's and the scheduler's.
var tolerance = usage{Resident: 16 << 10, Locked: 0, Secrets: 0, Descriptors: 0, Goroutines: 0}

// grown names what there is more of than before, beyond the tolerance.
func grown(before, after usage) (faults []string) {
	for _, x := range []struct {
		name                   string
		before, after, allowed int
	}{
		{"resident", before.Resident, after.Resident, tolerance.Resident},
		{"locked", before.Locked, after.Locked, tolerance.Locked},
		{"secrets", before.Secrets, after.Secrets, tolerance.Secrets},
		{"descriptors", before.Descriptors, after.Descriptors, tolerance.Descriptors},
		{"goroutines", before.Goroutines, after.Goroutines, tolerance.Goroutines},
	} {
		if x.after > x.before+x.allowed {
			faults = append(faults, x.name)
		}
	}
	return faults
}

// measure reads what this process holds, once the garbage is gone.
func measure(secrets int) (u usage, err error) {
	for range 2 { // finalizers run after the first
		runtime.GC()
		debug.FreeOSMemory()
	}
	u.Secrets = secrets
	u.Goroutines = runtime.NumGoroutine()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return u, err
	}
	u.Descriptors = len(fds) - 1 // without the one that reads
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return u, err
	}
	if residentTells {
		u.Resident, err = kib(string(status), "RssAnon")
	}
	if err == nil {
		u.Locked, err = kib(string(status), "VmLck")
	}
	return u, err
}

// kib reads a line of /proc/PID/status.
func kib(status, name string) (int, error) {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no %s", name)
}

// steady measures until there is no less than the time before.
func steady(measure func() usage) usage {
	for last := measure(); ; {
		time.Sleep(200 * time.Millisecond)
		u := measure()
		if len(grown(u, last)) == 0 {
			return u
		}
		last = u
	}
}

// settled measures until nothing has grown over before, or it has had its time:
// the other end of a connection closes when it gets round to it.
func settled(t *testing.T, before usage, measure func() usage) usage {
	t.Helper()
	end := time.Now().Add(5 * time.Second)
	for {
		u := measure()
		if len(grown(before, u)) == 0 || time.Now().After(end) {
			return u
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// The control: what the soak looks for, it finds.
func TestLeaksAreNoticed(t *testing.T) {
	const few = 3 // leaks, in the whole of a soak
	pool, err := memsafe.NewPool(1 << 16)
	require.NoError(t, err)
	defer func() { require.NoError(t, pool.Close()) }()
	here := func() usage {
		u, err := measure(pool.InUse())
		require.NoError(t, err)
		return u
	}
	var undo []func()
	leaks := map[string]func(){
		"descriptors": func() {
			for range few {
				fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
				require.NoError(t, err)
				undo = append(undo, func() { _ = unix.Close(fd) })
			}
		},
		"goroutines": func() {
			stop := make(chan struct{})
			undo = append(undo, func() { close(stop) })
			for range few {
				go func() { <-stop }()
			}
		},
		"secrets": func() {
			s, err := pool.Alloc(32)
			require.NoError(t, err)
			undo = append(undo, s.Wipe)
		},
		"locked": func() {
			page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			require.NoError(t, err)
			require.NoError(t, memsafe.Lock(page))
			undo = append(undo, func() { _ = unix.Munmap(page) })
		},
	}
	if residentTells {
		leaks["resident"] = func() {
			kept := make([]byte, 2*tolerance.Resident<<10)
			for i := 0; i < len(kept); i += 4096 {
				kept[i] = 1
			}
			undo = append(undo, func() { runtime.KeepAlive(kept) })
		}
	}
	here() // what the first one costs
	for name, leak := range leaks {
		before := here()
		require.Empty(t, grown(before, settled(t, before, here)), "nothing leaked, before %s", name)
		leak()
		require.Equal(t, []string{name}, grown(before, here()))
		for _, f := range undo {
			f()
		}
		undo = nil
		require.Empty(t, grown(before, settled(t, before, here)), "%s was given back", name)
	}
}
