package agent

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// listenerOf is who listens at a path, as the kernel tells a client.
func listenerOf(t *testing.T, path string) uint32 {
	t.Helper()
	c, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	require.NoError(t, err)
	var cred *unix.Ucred
	var credErr error
	require.NoError(t, raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }))
	require.NoError(t, credErr)
	return cred.Uid
}

// A socket that a service manager hands over stays the manager's: clients look at who
// listens. Setting the backlog would change that, which is the control.
func TestInheritedKeepsItsMaker(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to listen as another user")
	}
	path := filepath.Join(publicDir(t), "agent.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	const maker = 12345
	onThread(func() {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, maker, maker, maker); errno == 0 {
			err = unix.Listen(fd, 8)
		} else {
			err = errno
		}
	})
	require.NoError(t, err)
	l, err := adopt(os.NewFile(uintptr(fd), "socket"))
	require.NoError(t, err)
	defer l.Close()
	require.EqualValues(t, maker, listenerOf(t, path))
	require.NoError(t, limitBacklog(l))
	require.EqualValues(t, 0, listenerOf(t, path), "the control")
}
