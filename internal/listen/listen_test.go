package listen

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pathVariable names a socket that the test binary is to listen at, as another
// process.
const pathVariable = "LISTEN_TEST_PATH"

func TestMain(m *testing.M) {
	path := os.Getenv(pathVariable)
	if path == "" {
		os.Exit(m.Run())
	}
	l, err := Unix(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

// start starts a process that listens at path, and returns what it says.
func start(t *testing.T, path string) (cmd *exec.Cmd, says string) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), pathVariable+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return cmd, line
}

func answers(path string) bool {
	c, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// A process that was killed leaves its socket, which the next one replaces; one that
// is alive keeps it, and so does every file that Unix did not make.
func TestUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	first, says := start(t, path)
	require.Equal(t, "listening\n", says)
	require.NoError(t, os.Chmod(path, 0o666)) // as an agent does
	_, says = start(t, path)
	require.Contains(t, says, "address already in use")
	require.Contains(t, says, "a process listens at")
	require.True(t, answers(path))
	require.NoError(t, first.Process.Kill())
	_ = first.Wait()
	require.False(t, answers(path))
	_, says = start(t, path)
	require.Equal(t, "listening\n", says)
	require.True(t, answers(path))
}

// What Unix did not make stays, though nobody listens there: a socket that is made
// and will be listened at in a moment, one of another program, a file.
func TestNotOurs(t *testing.T) {
	for name, put := range map[string]func(t *testing.T, path string) (finish func()){
		"about to listen": func(t *testing.T, path string) func() {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			require.NoError(t, err)
			t.Cleanup(func() { _ = unix.Close(fd) })
			require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
			return func() {
				require.NoError(t, unix.Listen(fd, 1))
				require.True(t, answers(path), "it lost its socket")
			}
		},
		"of another program": func(t *testing.T, path string) func() {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			require.NoError(t, err)
			l.SetUnlinkOnClose(false)
			require.NoError(t, l.Close())
			return nil
		},
		"of another kind": func(t *testing.T, path string) func() {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			require.NoError(t, err)
			t.Cleanup(func() { _ = unix.Close(fd) })
			require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
			return nil
		},
		"file": func(t *testing.T, path string) func() {
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			return nil
		},
	} {
		for _, before := range []string{"new", "in the place of ours"} {
			t.Run(name+", "+before, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "socket")
				if before != "new" {
					l, err := Unix(path)
					require.NoError(t, err)
					require.NoError(t, l.Close())
				}
				finish := put(t, path)
				was, err := os.Lstat(path)
				require.NoError(t, err)
				_, err = Unix(path)
				require.ErrorIs(t, err, unix.EADDRINUSE)
				require.ErrorContains(t, err, path)
				is, err := os.Lstat(path)
				require.NoError(t, err)
				require.True(t, os.SameFile(was, is))
				if finish != nil {
					finish()
				}
			})
		}
	}
}

// Of two that begin at once one waits for no lock and removes nothing.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	lock, err := take(path + ".lock")
	require.NoError(t, err)
	_, err = Unix(path)
	require.ErrorIs(t, err, unix.EADDRINUSE)
	require.ErrorContains(t, err, "begins to listen")
	require.NoError(t, lock.Close())
	l, err := Unix(path)
	require.NoError(t, err, "the control")
	require.NoError(t, l.Close())
}

// A lock file that others can write, or that is none, is refused.
func TestLockFile(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"writable for others": func(path string) error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Chmod(path, 0o666)
		},
		"a link":    func(path string) error { return os.Symlink("elsewhere", path) },
		"a pipe":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "socket")
			require.NoError(t, put(path+".lock"))
			_, err := Unix(path)
			require.ErrorContains(t, err, path+".lock")
			require.NoFileExists(t, path)
		})
	}
}
