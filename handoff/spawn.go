package handoff

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// parentFD is where a worker finds its end: the first of os/exec's ExtraFiles.
const parentFD = 3

// Spawn starts cmd as a worker, whose descriptor 3 is a connection to this
// process, and returns our end of it. What is in cmd.ExtraFiles follows as 4 and
// so on. The worker calls [FromParent]. The caller closes the connection, upon
// which a worker that uses Receive ends, and waits for cmd.
func Spawn(cmd *exec.Cmd) (*net.UnixConn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("handoff: socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "worker's end")
	defer theirs.Close()
	ours, err := unixConn(fds[0])
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = append([]*os.File{theirs}, cmd.ExtraFiles...)
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return ours, nil
}

// FromParent returns a worker's connection to the process that started it with
// [Spawn]. It takes over descriptor 3, so it is called once. ErrConn, if that is
// no Unix stream socket: this process was started in another way.
func FromParent() (*net.UnixConn, error) {
	unix.CloseOnExec(parentFD)
	// Before anything is closed that is not ours.
	if domain, err := unix.GetsockoptInt(parentFD, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		return nil, fmt.Errorf("%w: descriptor %d is no Unix socket", ErrConn, parentFD)
	}
	if err := checkStream(parentFD); err != nil {
		return nil, fmt.Errorf("%w: descriptor %d: %w", ErrConn, parentFD, err)
	}
	return unixConn(parentFD)
}

// unixConn takes over a descriptor, whatever it returns.
func unixConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "worker")
	defer f.Close() // FileConn has a copy
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConn, err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("%w: not a Unix socket", ErrConn)
	}
	return u, nil
}
