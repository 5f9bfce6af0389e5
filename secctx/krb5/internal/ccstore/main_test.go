package ccstore

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// roleListen names a path at which a process of the test binary listens and hangs
// up.
const roleListen = "CCSTORE_TEST_LISTEN"

func TestMain(m *testing.M) {
	if path := os.Getenv(roleListen); path != "" {
		l, err := net.Listen("unix", path)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		for {
			if conn, err := l.Accept(); err == nil {
				_ = conn.Close()
			}
		}
	}
	os.Exit(m.Run())
}

// listenAs starts a process of another user that listens, and returns the path.
func listenAs(t *testing.T, uid uint32) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kcm")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chown(dir, int(uid), int(uid)))
	binary := filepath.Join(dir, "t")
	self, err := os.Executable()
	require.NoError(t, err)
	b, err := os.ReadFile(self)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(binary, b, 0o755)) // the test binary may lie where only root goes
	path := filepath.Join(dir, "s")
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), roleListen+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	return path
}
