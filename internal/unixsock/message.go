package unixsock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxParts is how many buffers one message takes.
const maxParts = 4

// A Message is what recvmsg(2) and sendmsg(2) work on. Its methods never wait, so
// they do not tell Go's scheduler that they might: telling it costs more than the
// call, and wakes a thread of the scheduler that had gone to sleep.
type Message struct {
	hdr unix.Msghdr
	iov [maxParts]unix.Iovec
}

// Set points the message at the first four buffers that hold anything, and at
// control data. The buffers are used where they lie: a secret in locked memory has
// no copy in ours.
func (m *Message) Set(buffers [][]byte, oob []byte) {
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

// Forget drops the pointers, so that they do not keep the buffers alive.
func (m *Message) Forget() { *m = Message{} }

// Receive and Send try once. EAGAIN says that the caller has to wait.
func (m *Message) Receive(fd uintptr) (int, error) {
	return m.call(unix.SYS_RECVMSG, fd, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
}

func (m *Message) peek(fd uintptr) (int, error) {
	return m.call(unix.SYS_RECVMSG, fd, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC|unix.MSG_PEEK)
}

// Send is described at Receive.
func (m *Message) Send(fd uintptr) (int, error) {
	return m.call(unix.SYS_SENDMSG, fd, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

func (m *Message) call(trap, fd, flags uintptr) (int, error) {
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
