package agent

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dial connects to a socket. If the listener's backlog is full, it waits for its turn,
// until the deadline: the kernel keeps a queue of processes that wait in connect(2), and
// answers the others with EAGAIN.
func dial(path string, deadline time.Time) (*net.UnixConn, error) {
	d := net.Dialer{Deadline: deadline}
	conn, err := d.Dial("unix", path)
	switch {
	case err == nil:
		return conn.(*net.UnixConn), nil
	case errors.Is(err, unix.EAGAIN):
		return dialInTurn(path, deadline)
	}
	return nil, err
}

// dialInTurn waits in connect, which keeps a thread.
func dialInTurn(path string, deadline time.Time) (*net.UnixConn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // FileConn duplicates it
	if err := connect(fd, path, deadline); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// connect returns os.ErrDeadlineExceeded when the time is up.
func connect(fd int, path string, deadline time.Time) error {
	for {
		wait := time.Until(deadline)
		if wait <= 0 {
			return os.ErrDeadlineExceeded
		}
		tv := unix.NsecToTimeval(max(wait, time.Millisecond).Nanoseconds()) // zero would be for ever
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
			return err
		}
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
