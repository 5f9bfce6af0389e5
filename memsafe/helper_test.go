package memsafe

import (
	"errors"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// backings are both kinds of memory; every test of what a pool promises runs
// over each of them.
var backings = map[string]func(size int) (region, error){
	"memfd_secret": func(size int) (region, error) { return newSecretRegion(size) },
	"memguard":     func(size int) (region, error) { return newGuardRegion(size) },
}

// eachBacking runs f over both.
func eachBacking(t *testing.T, f func(t *testing.T, take func(size int) (region, error))) {
	for name, take := range backings {
		t.Run(name, func(t *testing.T) {
			if fd, err := memfdSecret(); err == nil {
				require.NoError(t, unix.Close(fd))
			} else if name == "memfd_secret" && errors.Is(err, unix.ENOSYS) {
				t.Skip("this kernel has no memfd_secret (CONFIG_SECRETMEM, secretmem.enable)")
			}
			f(t, take)
		})
	}
}

// poolOf is a pool over one backing, closed at the test's end.
func poolOf(t *testing.T, take func(int) (region, error), size int) *Pool {
	t.Helper()
	r, err := take(size)
	require.NoError(t, err)
	p := newPool(r)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// faults reports whether f touches memory that it must not.
func faults(f func()) (faulted bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { faulted = recover() != nil }()
	f()
	return false
}
