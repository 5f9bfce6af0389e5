package keyring

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
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

// A core dump, with dumping of everything forced on, holds no host key and no
// secret of a pool. memguard takes the right to dump core from this process and
// its children for good, so gdb makes the core; like the kernel it leaves out
// what is marked so.
func TestCoreDump(t *testing.T) {
	gcore, err := exec.LookPath("gcore")
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("needs gdb's gcore")
	}
	require.NoError(t, err)
	dir := t.TempDir()
	cmd := helper(t, "core", shmDir(t, false))
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	secrets := map[string][]byte{}
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "ready"; {
		name, text, _ := strings.Cut(lines.Text(), " ")
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		require.NoError(t, err)
		for i := range b {
			b[i] = ^b[i]
		}
		secrets[name] = b
	}
	require.Len(t, secrets, 4, "%s", cmd.Stderr)
	require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/coredump_filter", cmd.Process.Pid), []byte("0x7f"), 0), "every kind of mapping")
	text, err := exec.Command(gcore, "-o", dir+"/core", fmt.Sprint(cmd.Process.Pid)).CombinedOutput()
	require.NoError(t, err, "%s", text)
	require.NoError(t, in.Close())
	wait(t, cmd)

	core, err := os.ReadFile(fmt.Sprintf("%s/core.%d", dir, cmd.Process.Pid))
	require.NoError(t, err)
	require.True(t, bytes.Contains(core, secrets["marker"]), "the control: what lies in the open is in the core")
	slots := bytes.Repeat(binary.NativeEndian.AppendUint64(nil, freshWord), 100)
	require.True(t, bytes.Contains(core, slots), "the control: so is the rest of the epoch's file")
	for name, key := range secrets {
		if name == "marker" {
			continue
		}
		for i := 0; i < len(key); i += 8 { // any 16 bytes of it contain one of these
			require.False(t, bytes.Contains(core, key[i:i+8]), "%s: bytes of it are in the core", name)
		}
	}
}
