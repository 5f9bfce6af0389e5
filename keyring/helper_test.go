package keyring

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The test binary stands in for every other process: a helper is a function of
// this table, named by the environment.
const (
	helperVariable = "SEALCTX_TEST_HELPER"
	dirVariable    = "SEALCTX_TEST_DIR"
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
	"where":  helpWhere,
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

// run is apart.Run with a directory for the child, in the environment.
func run(t *testing.T, dir string, setup func(*exec.Cmd)) bool {
	t.Helper()
	return apart.Run(t, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, dirVariable+"="+dir)
		if setup != nil {
			setup(cmd)
		}
	})
}

// shmDir is a fresh directory on tmpfs; it belongs to whom apart.PlainUser runs as, if
// plain says so.
func shmDir(t *testing.T, plain bool) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if plain && os.Geteuid() == 0 {
		require.NoError(t, os.Chown(dir, apart.Nobody, apart.Nobody))
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
func derive(e *Epoch) ([]byte, error) { return deriveKey(e, "test", []byte("info")) }

func deriveKey(e *Epoch, label string, info []byte) (key []byte, err error) {
	err = e.Derive(label, info, func(k []byte) error {
		key = bytes.Clone(k)
		return nil
	}, nil)
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

// setLimit lowers RLIMIT_MEMLOCK of this process.
func setLimit(t *testing.T, limit uint64) {
	t.Helper()
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: limit, Max: limit}))
}
