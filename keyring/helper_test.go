package keyring

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The test binary stands in for every other process: a helper is a function of
// this table, named by the environment, and apart runs a whole test in a process
// of its own.
const (
	helperVariable = "SEALCTX_TEST_HELPER"
	apartVariable  = "SEALCTX_TEST_APART"
	dirVariable    = "SEALCTX_TEST_DIR"
	nobody         = 65534
)

var helpers = map[string]func() error{
	"claim":  helpClaim,
	"make":   helpMake,
	"watch":  helpWatch,
	"churn":  helpChurn,
	"die":    helpDie,
	"timens": helpTimeNamespace,
	"clock":  helpClock,
	"core":   helpCore,
}

// A time namespace is entered by the main thread alone, so helpers stay on it.
func init() {
	if os.Getenv(helperVariable) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperVariable); name != "" {
		if err := helpers[name](); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helper is a command that runs one of helpers with a runtime directory.
func helper(t *testing.T, name, dir string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, helperVariable+"="+name, dirVariable+"="+dir)...)
	cmd.Stderr = &bytes.Buffer{}
	t.Cleanup(func() {
		if cmd.Process != nil && cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// wait waits for a helper and shows what it complained about.
func wait(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.NoError(t, cmd.Wait(), "%s", cmd.Stderr)
}

// apart runs the calling test in a process of its own. It returns true in
// there; here it waits for the verdict and returns false.
func apart(t *testing.T, dir string, setup func(*exec.Cmd)) bool {
	t.Helper()
	if os.Getenv(apartVariable) == t.Name() {
		return true
	}
	levels := strings.Split(t.Name(), "/")
	for i, l := range levels {
		levels[i] = "^" + regexp.QuoteMeta(l) + "$"
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.timeout=2m", "-test.run="+strings.Join(levels, "/"))
	cmd.Env = append(os.Environ(), apartVariable+"="+t.Name(), dirVariable+"="+dir)
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

// needRoot skips a test that changes owners, mounts or namespaces.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it changes owners, mounts or namespaces")
	}
}

// shmDir is a fresh directory on tmpfs; it belongs to whom plainUser runs as, if
// plain says so.
func shmDir(t *testing.T, plain bool) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if plain && os.Geteuid() == 0 {
		require.NoError(t, os.Chown(dir, nobody, nobody))
	}
	return dir
}

// openRing opens a ring that the test's end closes.
func openRing(t *testing.T, dir string, o *Options) *Ring {
	t.Helper()
	r, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func newRingT(t *testing.T, o *Options) *Ring {
	t.Helper()
	r, err := New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// current takes the epoch that seals, released at the test's end.
func current(t *testing.T, r *Ring) *Epoch {
	t.Helper()
	e, err := r.Current()
	require.NoError(t, err)
	t.Cleanup(e.Release)
	return e
}

// derive is one key of an epoch.
func derive(e *Epoch) ([]byte, error) {
	key := make([]byte, keySize)
	err := e.Derive([]byte("info"), Output{Label: "test", Key: key})
	return key, err
}

func mustDerive(t *testing.T, e *Epoch) []byte {
	t.Helper()
	key, err := derive(e)
	require.NoError(t, err)
	require.NotEqual(t, make([]byte, keySize), key)
	return key
}

// epochFile is the path of an epoch's file.
func epochFile(dir string, e *Epoch) string { return filepath.Join(dir, fileName(e.seq)) }

// eventually waits for what another process does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "waited in vain: %s", what)
	}
}

// withoutMemfdSecret takes memfd_secret from this process, so that memguard has
// to back its pools, as on a kernel that has none.
func withoutMemfdSecret(t *testing.T) {
	t.Helper()
	const filterMode, allThreads = 1, 1 // SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_MEMFD_SECRET},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x00050000 | uint32(unix.ENOSYS)}, // SECCOMP_RET_ERRNO
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000},                       // SECCOMP_RET_ALLOW
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	require.Zero(t, errno)
	_, _, errno = unix.Syscall(unix.SYS_SECCOMP, filterMode, allThreads, uintptr(unsafe.Pointer(&prog)))
	require.Zero(t, errno)
	st, err := memsafe.Report()
	require.NoError(t, err)
	require.NotEqual(t, "memfd_secret", st.Backing)
}

// setLimit lowers RLIMIT_MEMLOCK of this process.
func setLimit(t *testing.T, limit uint64) {
	t.Helper()
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: limit, Max: limit}))
}
