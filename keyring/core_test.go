package keyring

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// helpCore holds secrets of every kind and tells, inverted, what they are.
func helpCore() error {
	r, err := Open(os.Getenv(dirVariable), nil)
	if err != nil {
		return err
	}
	e, err := r.Current()
	if err != nil {
		return err
	}
	held, err := New(nil)
	if err != nil {
		return err
	}
	own, err := held.Current()
	if err != nil {
		return err
	}
	pool, err := memsafe.NewPool(0)
	if err != nil {
		return err
	}
	secret, err := pool.Alloc(keySize)
	if err != nil {
		return err
	}
	_, _ = rand.Read(secret.Bytes())
	marker := make([]byte, keySize) // in the open
	_, _ = rand.Read(marker)
	tell := func(name string, b []byte) {
		fmt.Print(name)
		for _, c := range b {
			fmt.Printf(" %02x", ^c)
		}
		fmt.Println()
	}
	tell("file", e.record.key())
	tell("memory", own.record.key())
	tell("pool", secret.Bytes())
	tell("marker", marker)
	if _, err := e.Reserve(1e9); err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = io.ReadAll(os.Stdin)
	runtime.KeepAlive(marker)
	return nil
}

// A coreVictim is a process that holds secrets, and what they are by name.
type coreVictim struct {
	*exec.Cmd
	in      io.Closer
	secrets map[string][]byte
}

// startCore starts a victim, with every kind of its mappings to be dumped.
func startCore(t *testing.T) *coreVictim {
	v := &coreVictim{Cmd: helper(t, "core", shmDir(t, false)), secrets: map[string][]byte{}}
	v.Env = append(v.Env, "GOTRACEBACK=crash") // SIGABRT ends it as the kernel has it
	in, err := v.StdinPipe()
	require.NoError(t, err)
	v.in = in
	out, err := v.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, v.Start())
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "ready"; {
		name, text, _ := strings.Cut(lines.Text(), " ")
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		require.NoError(t, err)
		for i := range b {
			b[i] = ^b[i]
		}
		v.secrets[name] = b
	}
	require.Len(t, v.secrets, 4, "%s", v.Stderr)
	require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/coredump_filter", v.Process.Pid), []byte("0x7f"), 0))
	return v
}

// check looks for the secrets in the core whose name matches.
func (v *coreVictim) check(t *testing.T, pattern string) {
	found, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.Len(t, found, 1, pattern)
	core, err := os.ReadFile(found[0])
	require.NoError(t, err)
	require.True(t, bytes.Contains(core, v.secrets["marker"]), "the control: what lies in the open is in the core")
	slots := bytes.Repeat(binary.NativeEndian.AppendUint64(nil, freshWord), 100)
	require.True(t, bytes.Contains(core, slots), "the control: so is the rest of the epoch's file")
	for name, key := range v.secrets {
		if name == "marker" {
			continue
		}
		for i := 0; i < len(key); i += 8 { // any 16 bytes of it contain one of these
			require.False(t, bytes.Contains(core, key[i:i+8]), "%s: bytes of it are in the core", name)
		}
	}
}

// coreVariable has the kernel dump core too.
const (
	coreVariable = "SEALCTX_TEST_CORE_PATTERN"
	corePattern  = "/proc/sys/kernel/core_pattern"
)

// A core dump, with dumping of everything forced on, holds no host key and no
// secret of a pool: neither gdb's nor the kernel's. memguard sets this process's
// and its children's limit to 0 for good, which a dump into a pipe does not heed.
func TestCoreDump(t *testing.T) {
	t.Run("gdb", func(t *testing.T) {
		gcore, err := exec.LookPath("gcore")
		if errors.Is(err, exec.ErrNotFound) {
			t.Skip("needs gdb's gcore")
		}
		require.NoError(t, err)
		dir := t.TempDir()
		v := startCore(t)
		text, err := exec.Command(gcore, "-o", dir+"/core", fmt.Sprint(v.Process.Pid)).CombinedOutput()
		require.NoError(t, err, "%s", text)
		require.NoError(t, v.in.Close())
		wait(t, v.Cmd)
		v.check(t, dir+"/core.*")
	})
	t.Run("kernel", func(t *testing.T) {
		if os.Getenv(coreVariable) == "" {
			t.Skip("changes kernel.core_pattern of the host for its time; set " + coreVariable + "=1 as root")
		}
		dir := t.TempDir()
		before, err := os.ReadFile(corePattern)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(corePattern, []byte("|/bin/dd of="+dir+"/core"), 0))
		defer func() { require.NoError(t, os.WriteFile(corePattern, before, 0)) }()
		v := startCore(t)
		require.NoError(t, v.Process.Signal(unix.SIGABRT))
		require.Error(t, v.Wait())
		require.True(t, v.ProcessState.Sys().(syscall.WaitStatus).CoreDump(), "%v", v.ProcessState)
		require.Eventually(t, func() bool { return whole(dir + "/core") }, time.Minute, 10*time.Millisecond)
		v.check(t, dir+"/core")
	})
}

// whole reports whether a core file has all that its head says: who takes it from
// the kernel may still write when the process has ended.
func whole(core string) bool {
	f, err := elf.Open(core)
	if err != nil {
		return false
	}
	defer f.Close()
	end := uint64(0)
	for _, p := range f.Progs {
		end = max(end, p.Off+p.Filesz)
	}
	st, err := os.Stat(core)
	return err == nil && uint64(st.Size()) >= end
}
