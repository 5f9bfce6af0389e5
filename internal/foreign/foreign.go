// Package foreign gets rid of descriptors that came from another process. Closing
// one is not harmless: a socket whose maker has set SO_LINGER keeps whoever closes
// it last waiting in the kernel, for as long as the maker likes.
package foreign

import (
	"net"

	"golang.org/x/sys/unix"
)

// MaxDescriptors is how many descriptors one message can bring (SCM_MAX_FD of
// Linux). Whoever receives with room for fewer has the kernel close the rest,
// inside recvmsg and as their maker has it.
const MaxDescriptors = 253

// RightsSpace is the room for them among the control messages, in bytes.
var RightsSpace = unix.CmsgSpace(4 * MaxDescriptors)

// Close closes descriptors without waiting for anybody; negative ones are none.
func Close(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}) // if it is a socket
			_ = unix.Close(fd)
		}
	}
}

// HangUp closes the connection to another process, and first the descriptors that
// wait in it unread: closing it would close them as their maker has it.
func HangUp(c *net.UnixConn) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { drain(int(fd)) })
	}
	_ = c.Close()
}

// drainLimit is more messages than the queue of a Unix socket takes.
const drainLimit = 1 << 14

// drain takes what waits unread in a Unix stream socket and closes the descriptors
// in it. Nothing comes after it.
func drain(fd int) {
	_ = unix.Shutdown(fd, unix.SHUT_RD)
	var buf [4 << 10]byte
	oob := make([]byte, RightsSpace+unix.CmsgSpace(unix.SizeofUcred))
	for range drainLimit {
		n, oobn, _, _, err := unix.Recvmsg(fd, buf[:], oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR { //nolint:errorlint // an errno as it is
			continue
		}
		if err != nil || n == 0 { // a descriptor comes with a byte at least
			return
		}
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn]) // the kernel's own
		for i := range messages {
			fds, err := unix.ParseUnixRights(&messages[i])
			if err == nil {
				Close(fds...)
			}
		}
	}
}
