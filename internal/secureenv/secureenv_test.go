package secureenv

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const variable = "SECUREENV_TEST"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "child" {
		fmt.Printf("%q %q", os.Getenv(variable), Get(variable))
		return
	}
	os.Exit(m.Run())
}

// TestGet: a setuid program has its variables, and Get does not give them. The
// control is the same program without the bit. It takes root, to give a program to
// a user and to start it as another.
func TestGet(t *testing.T) {
	t.Setenv(variable, "here")
	require.Equal(t, "here", Get(variable))
	require.Empty(t, Get(variable+"_NOT_SET"))
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "secureenv-")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	require.NoError(t, os.Chmod(dir, 0o755))
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &fs))
	if fs.Flags&unix.ST_NOSUID != 0 {
		t.Skip(dir + " is on a filesystem that is mounted nosuid")
	}
	child := filepath.Join(dir, "child")
	copySelf(t, child)
	for mode, want := range map[os.FileMode]string{
		0o755:                 `"here" "here"`,
		0o755 | os.ModeSetuid: `"here" ""`,
		0o755 | os.ModeSetgid: `"here" ""`,
	} {
		require.NoError(t, os.Chmod(child, mode))
		cmd := exec.Command(child)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, want, string(out), mode)
	}
}

func copySelf(t *testing.T, to string) {
	from, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(f, from)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}
