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

// Spawn starts cmd as a worker. The worker's descriptor 3 is a connection to this process, and
// Spawn returns this process's end of it. The files in cmd.ExtraFiles become descriptors 4 and
// up. The worker calls [FromParent]. The caller closes the connection, upon which Receive in
// the worker returns io.EOF, and waits for cmd.
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

// FromParent returns a worker's connection to the process that started it with [Spawn]. It
// takes over descriptor 3, so it is called once. It returns ErrConn if descriptor 3 is not a
// Unix stream socket, because this process was started in another way.
func FromParent() (*net.UnixConn, error) {
	unix.CloseOnExec(parentFD)
	// Checked first, because the descriptor may be another part's of this program.
	if domain, err := unix.GetsockoptInt(parentFD, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		return nil, fmt.Errorf("%w: descriptor %d is no Unix socket", ErrConn, parentFD)
	}
	if err := checkStream(parentFD); err != nil {
		return nil, fmt.Errorf("%w: descriptor %d: %w", ErrConn, parentFD, err)
	}
	return unixConn(parentFD)
}

// unixConn makes a connection of a descriptor and closes the descriptor, also on an error.
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
