package unixsock

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrControl: a message brought more descriptors, or other control messages, than the
// receiver takes. None is left open here.
var ErrControl = errors.New("unix socket: descriptor or control message that has no place there")

// A Control is what the kernel says of the bytes that one call received.
type Control struct {
	// Sender is the process that sent the bytes and its user and group. It is zero
	// unless the receiver has set SO_PASSCRED. Pid is 0 for a process that has no
	// number in this process namespace.
	Sender unix.Ucred

	// FD is the descriptor that came with the bytes, or -1. The caller closes it.
	FD int

	// Dropped reports that the kernel could not install a descriptor here: the
	// process is at its RLIMIT_NOFILE, or a security module forbids it. The sender
	// did nothing wrong and the bytes are complete.
	Dropped bool
}

// A Receiver reads a Unix stream socket together with what the kernel says of each
// message. One goroutine at a time may use it.
type Receiver struct {
	raw    syscall.RawConn
	closer *Closer
	oob    []byte

	// State of one Receive. It is here so that Receive need not allocate.
	fill  func() []byte
	spare func([]byte)
	buf   []byte
	n     int
	msg   Message
	one   [1][]byte
	ctl   Control
	err   error
	try   func(uintptr) bool

	unwanted []int // descriptors that came and are to be closed, which the closer counts
}

// NewReceiver returns a receiver for a connection. closer closes the descriptors that the
// receiver does not take. If closer is nil, the receiver takes none at all: it looks before
// it reads, and leaves descriptors in the connection, where they take no room in this
// process. Prepare must have been called on the connection, or Inline if there is a closer.
func NewReceiver(c *net.UnixConn, closer *Closer) (*Receiver, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &Receiver{raw: raw, closer: closer}
	size := unix.CmsgSpace(unix.SizeofUcred)
	if closer != nil {
		// The kernel closes descriptors for which there is no room here. It does so
		// inside recvmsg, which can take as long as their maker likes.
		size += unix.CmsgSpace(4 * MaxDescriptors)
	}
	r.oob = make([]byte, size)
	r.try = r.attempt
	return r, nil
}

// MaxDescriptors is how many descriptors one message can bring (SCM_MAX_FD of Linux).
const MaxDescriptors = 253

// Receive waits for bytes and puts them into buf, up to its length. If buf is nil, Receive
// calls fill for a buffer before it tries to read, and spare to give the buffer back before
// it waits: a connection that waits holds no buffer. Receive returns the buffer, the number
// of bytes, and what the kernel says of them.
//
// Errors: ErrControl, io.EOF, os.ErrDeadlineExceeded, and those of recvmsg(2). While the
// closer is busy Receive reads nothing and returns ErrControl. No error leaves a descriptor
// open.
func (r *Receiver) Receive(buf []byte, fill func() []byte, spare func([]byte)) (got []byte, n int, ctl Control, err error) {
	r.buf, r.fill, r.spare, r.err, r.ctl = buf, fill, spare, nil, Control{FD: -1}
	err = r.raw.Read(r.try)
	got, r.buf, r.one[0] = r.buf, nil, nil
	defer r.msg.Forget()
	if len(r.unwanted) > 0 {
		r.drop()
	}
	if err == nil {
		err = r.err
	}
	if err == nil && r.n == 0 {
		err = io.EOF
	}
	if err != nil {
		return got, 0, Control{FD: -1}, err
	}
	return got, r.n, r.ctl, nil
}

// Drop closes a descriptor that Receive returned and that has no place in the protocol.
func (r *Receiver) Drop(fd int) { r.closer.Close(fd) }

// drop closes the unwanted descriptors. The closer counts them already.
func (r *Receiver) drop() {
	if r.closer == nil {
		Close(r.unwanted...)
	} else {
		done := r.closer.begin(r.unwanted)
		r.closer.hold(-len(r.unwanted))
		r.closer.await(done)
	}
	r.unwanted = nil
}

// attempt tries once. If it returns false the poller waits. Receivers with the same closer
// take one message at a time, so that each sees whether the one before keeps the closer busy.
func (r *Receiver) attempt(fd uintptr) bool {
	if r.closer != nil {
		r.closer.taking.Lock()
		defer r.closer.taking.Unlock()
		if r.closer.Busy() {
			r.err = ErrControl
			return true
		}
	}
	own := r.buf == nil
	if own {
		r.buf = r.fill()
	}
	r.one[0] = r.buf
	if r.closer == nil {
		r.n, r.err = r.readPlain(fd)
	} else {
		r.msg.Set(r.one[:], r.oob)
		r.n, r.err = r.msg.Receive(fd)
	}
	switch {
	case r.err == nil:
		r.ctl, r.unwanted, r.err = parse(r.oob[:r.msg.hdr.Controllen], int(r.msg.hdr.Flags), r.closer != nil && r.n > 0)
		if r.closer != nil {
			r.closer.hold(len(r.unwanted))
		}
		return true
	case !errors.Is(r.err, unix.EAGAIN):
		return true
	}
	if own {
		r.spare(r.buf)
		r.buf = nil
	}
	return false
}

// readPlain reads bytes that bring no descriptor. A descriptor belongs to the first of the
// bytes that it was sent with, so no descriptor comes with bytes that were looked at. The
// kernel may already show a descriptor that comes only after the bytes that fit.
func (r *Receiver) readPlain(fd uintptr) (int, error) {
	n, err := r.msg.lookAt(fd, r.one[:], r.oob)
	if err != nil || n == 0 {
		return n, err
	}
	r.one[0] = r.buf[:n]
	r.msg.Set(r.one[:], r.oob)
	return r.msg.Receive(fd)
}

// lookAt peeks. It returns ErrControl if a descriptor is with the bytes. There is room for
// credentials only, which come first (SO_PASSCRED must be set), so the kernel installs no
// descriptor.
func (m *Message) lookAt(fd uintptr, buffers [][]byte, oob []byte) (int, error) {
	m.Set(buffers, oob)
	n, err := m.peek(fd)
	if err == nil && m.hdr.Flags&unix.MSG_CTRUNC != 0 {
		err = ErrControl
	}
	return n, err
}

// parse takes apart the control messages that the kernel wrote. It takes one descriptor if
// take says so. If there are others it returns ErrControl and all of them as unwanted.
func parse(oob []byte, flags int, take bool) (ctl Control, unwanted []int, err error) {
	ctl = Control{FD: -1, Dropped: flags&unix.MSG_CTRUNC != 0}
	var fds []int
	for len(oob) >= unix.CmsgLen(0) {
		header, data, rest, perr := unix.ParseOneSocketControlMessage(oob)
		if perr != nil {
			err = ErrControl
			break
		}
		oob = rest
		switch {
		case header.Level == unix.SOL_SOCKET && header.Type == unix.SCM_CREDENTIALS && len(data) >= unix.SizeofUcred:
			ctl.Sender = unix.Ucred{Pid: int32(word(data)), Uid: word(data[4:]), Gid: word(data[8:])}
		case header.Level == unix.SOL_SOCKET && header.Type == unix.SCM_RIGHTS:
			for ; len(data) >= 4; data = data[4:] {
				fds = append(fds, int(int32(word(data))))
			}
		default:
			err = ErrControl
		}
	}
	switch {
	case len(fds) == 0:
		return ctl, nil, err
	// If one descriptor found room and another did not, the sender sent more than one.
	case err == nil && len(fds) == 1 && !ctl.Dropped && take:
		ctl.FD = fds[0]
		return ctl, nil, nil
	}
	return ctl, fds, ErrControl
}

func word(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// ReceiveInto waits for bytes and fills the buffers, one after the other. It returns 0 at the
// connection's end. The kernel writes into the buffers themselves, so that a secret has no
// copy in other memory. The kernel closes descriptors that come with the bytes.
func ReceiveInto(raw syscall.RawConn, buffers [][]byte) (n int, err error) {
	var m Message
	var opErr error
	err = raw.Read(func(fd uintptr) bool {
		m.Set(buffers, nil)
		n, opErr = m.Receive(fd)
		return !errors.Is(opErr, unix.EAGAIN)
	})
	if err == nil {
		err = opErr
	}
	return n, err
}
