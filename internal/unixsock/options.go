// Package unixsock is what package net leaves out of Unix sockets: what the kernel says of a
// message (descriptors, the sender's credentials), and closing the descriptors of other
// processes.
//
// Closing a descriptor that another process made can wait as long as that process likes:
//
//   - The last close of a socket waits if its maker has set SO_LINGER. So does the last
//     close of a Unix socket, or of a listener, in whose queue such a socket lies. A signal
//     ends this wait.
//   - Each close of a file in a user-space filesystem waits for the filesystem's daemon. A
//     signal does not end this wait.
//
// So a thread of its own closes such descriptors, and gets signals until it has done so. The
// number of these threads is bounded.
package unixsock

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Inline makes out-of-band bytes arrive in line with the others. Otherwise the kernel
// drops them inside recvmsg, with the descriptors that they bring. Call it before the first
// read of a connection.
func Inline(c syscall.Conn) error { return set(c, unix.SO_OOBINLINE) }

// Prepare does what Inline does, and makes the kernel put the sender's credentials on each
// message (SO_PASSCRED). Connections inherit this from their listener, so that their first
// byte has credentials too.
func Prepare(c syscall.Conn) error { return set(c, unix.SO_OOBINLINE, unix.SO_PASSCRED) }

// PassRights says whether messages to c may bring descriptors. If not, the sender of such a
// message gets EPERM. A connection inherits this from its listener when it is made. Before
// Linux 6.16 PassRights returns ENOPROTOOPT.
func PassRights(c syscall.Conn, on bool) error {
	if on {
		return set(c, unix.SO_PASSRIGHTS)
	}
	return control(c, func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0))
	})
}

func set(c syscall.Conn, options ...int) error {
	return control(c, func(fd int) error { return setOn(fd, options...) })
}

func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

func setOn(fd int, options ...int) error {
	for _, option := range options {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}
