// Package listen listens at the path of a Unix socket, also after a process that
// could not remove its own.
package listen

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Unix listens at a path. A socket that was left behind, at which nobody listens,
// is replaced; where somebody does, or no socket is, the error is EADDRINUSE.
func Unix(path string) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if errors.Is(err, unix.EADDRINUSE) && abandoned(path) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		l, err = net.ListenUnix("unix", addr)
	}
	return l, err
}

// abandoned reports whether a path is a socket at which nobody listens.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}
