package memsafe

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// setLimit lowers RLIMIT_MEMLOCK of this process.
func setLimit(t *testing.T, limit uint64) {
	t.Helper()
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: limit, Max: limit}))
	require.False(t, mayLockAll(), "this process is exempt from the limit, so the test would show nothing")
}

// isLimitError requires the error that names the limit and the remedy.
func isLimitError(t *testing.T, err error, limit uint64) {
	t.Helper()
	require.ErrorIs(t, err, ErrLimit)
	require.ErrorContains(t, err, fmt.Sprintf("RLIMIT_MEMLOCK allows %d KiB", limit>>10))
	require.ErrorContains(t, err, "ulimit -l")
	require.ErrorContains(t, err, "LimitMEMLOCK=")
}

// With no memory to lock at all there is an error at once.
func TestLimitZero(t *testing.T) {
	if !apart.Run(t, apart.PlainUser) {
		return
	}
	setLimit(t, 0)
	for name, take := range map[string]func() error{
		"NewPool(0)":    func() error { _, err := NewPool(0); return err },
		"NewPool(4096)": func() error { _, err := NewPool(4096); return err },
		"memfd_secret":  func() error { _, err := newSecretRegion(4096); return err },
		"memguard":      func() error { _, err := newGuardRegion(4096); return err },
		"Lock":          func() error { return Lock(make([]byte, 4096)) },
	} {
		start := time.Now()
		err := take()
		require.Less(t, time.Since(start), 100*time.Millisecond, name)
		if name == "memfd_secret" && errors.Is(err, unix.ENOSYS) {
			continue
		}
		isLimitError(t, err, 0)
	}
	st, err := Report()
	require.NoError(t, err)
	require.Equal(t, "none", st.Backing)
}

// With little, 50 secrets fit into a pool of the default size; pools are made
// until one does not fit; and that one harms none of those before it.
func TestLimitSmall(t *testing.T) {
	for _, limit := range []uint64{16 << 10, 64 << 10} {
		t.Run(fmt.Sprintf("%d KiB", limit>>10), func(t *testing.T) {
			eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
				if !apart.Run(t, apart.PlainUser) {
					return
				}
				setLimit(t, limit)
				p, err := NewPool(0)
				require.NoError(t, err)
				require.EqualValues(t, limit/2, p.Size())
				var secrets []*Secret
				for i := range 50 {
					s, err := p.Alloc(64)
					require.NoError(t, err)
					copy(s.Bytes(), bytes.Repeat([]byte{byte(i + 1)}, 64))
					secrets = append(secrets, s)
				}
				for {
					s, err := p.Alloc(64)
					if err != nil {
						require.ErrorIs(t, err, ErrLimit)
						require.ErrorContains(t, err, "RLIMIT_MEMLOCK")
						break
					}
					secrets = append(secrets, s)
				}
				require.EqualValues(t, limit/2/64, len(secrets))

				start := time.Now()
				more := 0
				for {
					r, err := take(4096)
					if err != nil {
						isLimitError(t, err, limit)
						break
					}
					r.bytes()[4095] = 1
					more++
				}
				require.Less(t, time.Since(start), 5*time.Second)
				require.EqualValues(t, limit/2/4096, more, "every page of the limit was to be had")
				for i, s := range secrets[:50] {
					require.Equal(t, bytes.Repeat([]byte{byte(i + 1)}, 64), s.Bytes())
				}
			})
		})
	}
}

// Pools taken by many at once run into the limit together, and nobody panics:
// memguard's trial lock and its own are one step.
func TestLimitRace(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		if !apart.Run(t, apart.PlainUser) {
			return
		}
		setLimit(t, 64<<10)
		results := make(chan error)
		for range 8 {
			go func() {
				for range 200 {
					r, err := take(12 << 10)
					if err == nil {
						err = r.free()
					}
					if err != nil && !errors.Is(err, ErrLimit) {
						results <- err
						return
					}
					b, err := unix.Mmap(-1, 0, 8<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
					if err != nil {
						results <- err
						return
					}
					if err := Lock(b); err != nil && !errors.Is(err, ErrLimit) {
						results <- err
						return
					}
					_ = unix.Munmap(b)
				}
				results <- nil
			}()
		}
		for range 8 {
			require.NoError(t, <-results)
		}
	})
}

// A region that cannot be had takes nothing of others with it: the kernel undoes
// a failing MAP_FIXED only in part, and what it leaves free another thread maps.
func TestLimitTearsNoHole(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		if !apart.Run(t, apart.PlainUser) {
			return
		}
		setLimit(t, 8<<10)
		var stop atomic.Bool
		torn := make(chan int)
		for range 4 {
			go func() {
				n := 0
				for !stop.Load() {
					b, err := unix.Mmap(-1, 0, 16<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
					if err != nil || faults(func() { clear(b); runtime.Gosched(); clear(b) }) {
						n++
						continue
					}
					_ = unix.Munmap(b)
				}
				torn <- n
			}()
		}
		for range 2_000 {
			_, err := take(16 << 10)
			isLimitError(t, err, 8<<10)
		}
		stop.Store(true)
		for range 4 {
			require.Zero(t, <-torn, "mappings of other threads were torn")
		}
	})
}

// A lack of address space is an error too: memguard would panic on it.
func TestLimitAddressSpace(t *testing.T) {
	eachBacking(t, func(t *testing.T, take func(int) (region, error)) {
		if !apart.Run(t, nil) {
			return
		}
		kib, err := strconv.Atoi(strings.TrimSuffix(statusLine(t, "VmSize"), " kB"))
		require.NoError(t, err)
		limit := uint64(kib)<<10 + 256<<20
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: limit}))
		_, err = take(maxPool)
		require.ErrorIs(t, err, unix.ENOMEM)
		r, err := take(4096)
		require.NoError(t, err)
		require.NoError(t, r.free())
	})
}

func TestLockable(t *testing.T) {
	if !apart.Run(t, apart.PlainUser) {
		return
	}
	setLimit(t, 64<<10)
	free, limited := lockable()
	require.True(t, limited)
	require.Equal(t, 64<<10, free)
	p, err := NewPool(16 << 10)
	require.NoError(t, err)
	free, _ = lockable()
	require.Equal(t, 48<<10, free)
	setLimit(t, 4<<10) // below what is locked
	free, limited = lockable()
	require.True(t, limited)
	require.Zero(t, free)
	require.NoError(t, p.Close())
}

// Root of a user namespace has the capability to lock memory, and the limit binds it
// all the same.
func TestLimitInUserNamespace(t *testing.T) {
	apart.NeedRoot(t)
	root := []syscall.SysProcIDMap{{Size: 1}}
	if !apart.Run(t, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: root, GidMappings: root}
	}) {
		return
	}
	st, err := procStatus()
	require.NoError(t, err)
	require.NotZero(t, st.caps&(1<<unix.CAP_IPC_LOCK), "the control: it has it")
	setLimit(t, 64<<10)
	p, err := NewPool(0)
	require.NoError(t, err)
	require.Equal(t, 32<<10, p.Size())
	_, err = NewPool(64 << 10)
	require.ErrorIs(t, err, ErrLimit)
	report, err := Report()
	require.NoError(t, err)
	require.False(t, report.Unlimited)
	require.NoError(t, p.Close())
}
