package memsafe

import (
	"os"
	"strings"
	"testing"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Each system call that protection rests on fails in turn: an error, never
// memory that is less protected than it says, and nothing is left locked.
func TestKernelRefuses(t *testing.T) {
	const placed = unix.MAP_SHARED | unix.MAP_FIXED
	secret := func() error { _, err := newSecretRegion(8192); return err }
	guard := func() error { _, err := newGuardRegion(8192); return err }
	lock := func() error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		defer unix.Munmap(b)
		return Lock(b)
	}
	has := hasMemfdSecret(t)
	report := func() error { _, err := Report(); return err }
	for _, c := range []struct {
		name string
		call apart.Call
		do   func() error
		says string
	}{
		{"no memfd_secret", apart.Call{Number: unix.SYS_MEMFD_SECRET, Argument: 0, Value: unix.O_CLOEXEC}, secret, "memfd_secret"},
		{"secret: size", apart.Call{Number: unix.SYS_FTRUNCATE, Argument: 1, Value: 8192}, secret, "memfd_secret"},
		{"secret: trial", apart.Call{Number: unix.SYS_MMAP, Argument: 3, Value: unix.MAP_SHARED}, secret, "RLIMIT_MEMLOCK"},
		{"secret: guard pages", apart.Call{Number: unix.SYS_MMAP, Argument: 1, Value: 8192 + 2*4096}, secret, "guard pages"},
		{"secret: placing", apart.Call{Number: unix.SYS_MMAP, Argument: 3, Value: placed}, secret, "RLIMIT_MEMLOCK"},
		{"secret: children", apart.Call{Number: unix.SYS_MADVISE, Argument: 2, Value: unix.MADV_DONTFORK}, secret, "from children"},
		{"guard: lock", apart.Call{Number: unix.SYS_MLOCK, Argument: 1, Value: 8192}, guard, "RLIMIT_MEMLOCK"},
		{"guard: guard pages", apart.Call{Number: unix.SYS_MPROTECT, Argument: 2, Value: unix.PROT_NONE}, guard, "RLIMIT_MEMLOCK"},
		{"guard: memory", apart.Call{Number: unix.SYS_MMAP, Argument: 1, Value: 8192 + 2*4096}, guard, "RLIMIT_MEMLOCK"},
		{"lock", apart.Call{Number: unix.SYS_MLOCK, Argument: 1, Value: 4096}, lock, "RLIMIT_MEMLOCK"},
		{"lock: dumps", apart.Call{Number: unix.SYS_MADVISE, Argument: 2, Value: unix.MADV_DONTDUMP}, lock, "out of dumps"},
		{"lock: children", apart.Call{Number: unix.SYS_MADVISE, Argument: 2, Value: unix.MADV_DONTFORK}, lock, "children"},
		{"report: dumpable", apart.Call{Number: unix.SYS_PRCTL, Argument: 0, Value: unix.PR_GET_DUMPABLE}, report, "PR_GET_DUMPABLE"},
		{"report: limit", apart.Call{Number: unix.SYS_GETRLIMIT, Argument: 0, Value: unix.RLIMIT_MEMLOCK}, report, "RLIMIT_MEMLOCK"},
		{"harden: dumpable", apart.Call{Number: unix.SYS_PRCTL, Argument: 0, Value: unix.PR_SET_DUMPABLE}, Harden, "PR_SET_DUMPABLE"},
		{"harden: cores", apart.Call{Number: unix.SYS_PRLIMIT64, Argument: 1, Value: unix.RLIMIT_CORE}, Harden, "RLIMIT_CORE"},
	} {
		if strings.Contains(c.name, "secret") && !has {
			continue // TestHasMemfdSecret says so
		}
		t.Run(c.name, func(t *testing.T) {
			if !apart.Run(t, nil) {
				return
			}
			require.Equal(t, 4096, os.Getpagesize(), "the sizes above are for small pages")
			require.NoError(t, c.do(), "the control")
			require.NoError(t, unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
			locked := statusLine(t, "VmLck")
			apart.Refuse(t, c.call, unix.EPERM)
			err := c.do()
			require.ErrorIs(t, err, unix.EPERM)
			require.ErrorContains(t, err, c.says)
			require.Equal(t, locked, statusLine(t, "VmLck"), "left locked")
		})
	}
}

// Where memfd_secret cannot be had, a pool is memguard's, and the report says so.
func TestFallsBack(t *testing.T) {
	if !apart.Run(t, apart.PlainUser) {
		return
	}
	apart.RefuseMemfdSecret(t)
	p, err := NewPool(0)
	require.NoError(t, err)
	require.Equal(t, "memguard", p.Backing())
	st, err := Report()
	require.NoError(t, err)
	require.Equal(t, "memguard", st.Backing)
	s, err := p.Alloc(32)
	require.NoError(t, err)
	copy(s.Bytes(), "secret")
	s.Wipe()
	require.NoError(t, p.Close())
}
