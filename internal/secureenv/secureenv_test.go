package secureenv

import (
	"encoding/binary"
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

// fileCapabilities is the value of security.capability, VFS_CAP_REVISION_2, that
// permits CAP_NET_BIND_SERVICE, effective from the start or not.
func fileCapabilities(effective uint32) []byte {
	const revision, netBind = 0x02000000, 1 << 10
	var b []byte
	for _, word := range []uint32{revision | effective, netBind, 0, 0, 0} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return b
}

// A program with more rights than its caller's has its variables, and Get does not
// return them. The control is the same program without those rights. It takes root,
// to give a program rights and to start it as another user.
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
	for _, c := range []struct {
		name string
		mode os.FileMode
		caps []byte
		user uint32
		want string
	}{
		{"plain", 0o755, nil, 54321, `"here" "here"`},
		{"plain, by root", 0o755, nil, 0, `"here" "here"`},
		{"setuid", 0o755 | os.ModeSetuid, nil, 54321, `"here" ""`},
		{"setgid", 0o755 | os.ModeSetgid, nil, 54321, `"here" ""`},
		{"effective capabilities", 0o755, fileCapabilities(1), 54321, `"here" ""`},
		{"permitted capabilities", 0o755, fileCapabilities(0), 54321, `"here" ""`},
	} {
		t.Run(c.name, func(t *testing.T) {
			child := filepath.Join(dir, strings.ReplaceAll(c.name, " ", "-"), "child")
			require.NoError(t, os.Mkdir(filepath.Dir(child), 0o755))
			copySelf(t, child)
			require.NoError(t, os.Chmod(child, c.mode))
			if c.caps != nil {
				if err := unix.Setxattr(child, "security.capability", c.caps, 0); errors.Is(err, unix.ENOTSUP) {
					t.Skip(dir + " is on a filesystem without file capabilities")
				} else {
					require.NoError(t, err)
				}
			}
			cmd := exec.Command(child)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.user, Gid: c.user}}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Equal(t, c.want, string(out))
		})
	}
}

// A process whose real and effective ids differ has its variables from whoever
// started it, though the kernel gave it no rights then.
func TestGetAfterChangeOfUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	t.Setenv(variable, "here")
	for _, call := range []uintptr{unix.SYS_SETRESUID, unix.SYS_SETRESGID} {
		done := make(chan string)
		go func() { // the thread changes alone, and ends with the goroutine
			runtime.LockOSThread()
			if _, _, errno := unix.RawSyscall(call, ^uintptr(0), 54321, ^uintptr(0)); errno != 0 {
				done <- errno.Error()
				return
			}
			done <- "got " + Get(variable)
		}()
		require.Equal(t, "got ", <-done)
	}
	require.Equal(t, "here", Get(variable), "the control: another thread")
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
