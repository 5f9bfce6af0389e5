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
		if name == "memfd_secret" && !hasMemfdSecret(t) {
			continue // TestHasMemfdSecret says so
		}
		t.Run(name, func(t *testing.T) {
			f(t, take)
		})
	}
}

// hasMemfdSecret reports whether this kernel has it.
func hasMemfdSecret(t *testing.T) bool {
	t.Helper()
	fd, err := memfdSecret()
	if errors.Is(err, unix.ENOSYS) {
		return false
	}
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
	return true
}

// Without it half of this package's tests have nothing to run on.
func TestHasMemfdSecret(t *testing.T) {
	if !hasMemfdSecret(t) {
		t.Skip("this kernel has no memfd_secret (CONFIG_SECRETMEM, secretmem.enable)")
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
