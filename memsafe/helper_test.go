package memsafe

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	apartVariable = "SEALCTX_TEST_APART"
	nobody        = 65534
)

// apart runs the calling test in a process of its own, by executing the test
// binary again. It returns true in there; here it waits for the verdict and
// returns false.
func apart(t *testing.T, setup func(*exec.Cmd)) bool {
	t.Helper()
	if os.Getenv(apartVariable) == t.Name() {
		return true
	}
	levels := strings.Split(t.Name(), "/")
	for i, l := range levels {
		levels[i] = "^" + regexp.QuoteMeta(l) + "$"
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.timeout=1m", "-test.run="+strings.Join(levels, "/"))
	cmd.Env = append(os.Environ(), apartVariable+"="+t.Name())
	cmd.Dir = "/"
	if setup != nil {
		setup(cmd)
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `(?m)^\s*--- PASS: `+regexp.QuoteMeta(t.Name())+` `, string(out)) // it ran
	return false
}

// plainUser makes a child run as a user without rights, where this process may.
func plainUser(cmd *exec.Cmd) {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
}

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
