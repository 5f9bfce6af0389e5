package peer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxParts is how many buffers one message takes.
const maxParts = 4

// A message is what recvmsg(2) and sendmsg(2) work on. The sockets here do not
// block (with Prepare's options), so the calls are made without telling Go's scheduler that one might:
// telling it costs more than the call, and wakes a thread of its that had gone
// to sleep while everybody waited.
type message struct {
	hdr unix.Msghdr
	iov [maxParts]unix.Iovec
}

// set points the message at the first maxParts buffers that hold anything, and
// at control data.
func (m *message) set(buffers [][]byte, oob []byte) {
	n := 0
	for _, b := range buffers {
		if len(b) == 0 {
			continue
		}
		if n == maxParts {
			break
		}
		m.iov[n].Base = &b[0]
		m.iov[n].SetLen(len(b))
		n++
	}
	m.hdr = unix.Msghdr{Iov: &m.iov[0]}
	m.hdr.SetIovlen(n)
	if len(oob) > 0 {
		m.hdr.Control = &oob[0]
		m.hdr.SetControllen(len(oob))
	}
}

// forget drops the pointers, so that buffers are not kept alive by them.
func (m *message) forget() { *m = message{} }

// receive and send try once: EAGAIN says to wait.
func (m *message) receive(fd uintptr) (int, error) {
	return m.call(unix.SYS_RECVMSG, fd, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
}

func (m *message) send(fd uintptr) (int, error) {
	return m.call(unix.SYS_SENDMSG, fd, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

func (m *message) call(trap, fd, flags uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(trap, fd, uintptr(unsafe.Pointer(&m.hdr)), flags)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
