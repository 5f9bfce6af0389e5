package peer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/foreign"
)

// Errors of receiving.
var (
	// ErrImpostor: the bytes come from another process, or another user, than
	// the one that connected, or the kernel does not say from whom.
	ErrImpostor = errors.New("peer: message of another process than connected")

	// ErrDescriptors: more descriptors, or other control messages, than the
	// protocol has.
	ErrDescriptors = errors.New("peer: descriptor too many")
)

// Prepare makes the kernel put the sender's credentials on each message that comes
// in over c, a connection or a listener, and bytes out of band in line with the
// others. Connections inherit the first from their listener, so that none is without
// from its first byte on.
func Prepare(c syscall.Conn) error {
	if err := foreign.Inline(c); err != nil {
		return fmt.Errorf("peer: SO_OOBINLINE: %w", err)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	}); ctlErr != nil {
		return ctlErr
	}
	if err != nil {
		return fmt.Errorf("peer: SO_PASSCRED: %w", err)
	}
	return nil
}

// A Receiver receives over one connection and holds each byte to the identity.
// One goroutine at a time may use it.
type Receiver struct {
	raw    syscall.RawConn
	id     *Identity
	closer *foreign.Closer

	// Of one Receive; here so that it need not allocate.
	fill  func() []byte
	spare func([]byte)
	buf   []byte
	n     int
	oob   []byte
	msg   message
	one   [1][]byte
	err   error
	try   func(uintptr) bool
}

// NewReceiver returns a receiver for a connection of that identity. closer closes
// descriptors that the protocol does not have.
func NewReceiver(c *net.UnixConn, id *Identity, closer *foreign.Closer) (*Receiver, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &Receiver{raw: raw, id: id, closer: closer, oob: make([]byte, unix.CmsgSpace(unix.SizeofUcred)+foreign.RightsSpace)}
	r.try = r.recvmsg
	return r, nil
}

// Receive waits for bytes and puts them into buf, up to its length. Where buf is
// nil, fill makes it once there is something to receive and spare takes it back
// if there was not: a waiting connection then holds no buffer. It returns the
// buffer, how many bytes came, and a descriptor that came with them, or -1,
// which the caller closes. Errors: ErrImpostor, ErrDescriptors, io.EOF,
// os.ErrDeadlineExceeded; none leaves a descriptor open. While the closer is busy
// nothing more is taken: that is ErrDescriptors.
func (r *Receiver) Receive(buf []byte, fill func() []byte, spare func([]byte)) (got []byte, n, fd int, err error) {
	r.buf, r.fill, r.spare, r.err = buf, fill, spare, nil
	err = r.raw.Read(r.try)
	got, r.buf, r.one[0] = r.buf, nil, nil
	defer r.msg.forget()
	if err == nil {
		err = r.err
	}
	if err != nil {
		return got, 0, -1, err
	}
	fd, err = r.control()
	switch {
	case err != nil:
		return got, 0, -1, err
	case r.n == 0:
		r.closer.Close(fd)
		return got, 0, -1, io.EOF
	}
	return got, r.n, fd, nil
}

// recvmsg tries once; false has the poller wait.
func (r *Receiver) recvmsg(fd uintptr) bool {
	if r.closer.Busy() {
		r.err = ErrDescriptors
		return true
	}
	own := r.buf == nil
	if own {
		r.buf = r.fill()
	}
	r.one[0] = r.buf
	r.msg.set(r.one[:], r.oob)
	r.n, r.err = r.msg.receive(fd)
	if !errors.Is(r.err, unix.EAGAIN) {
		return true
	}
	if own {
		r.spare(r.buf)
		r.buf = nil
	}
	return false
}

// control checks what the kernel says of the message.
func (r *Receiver) control() (fd int, err error) {
	fd = -1
	known := false
	messages, err := unix.ParseSocketControlMessage(r.oob[:r.msg.hdr.Controllen])
	if err != nil {
		return -1, ErrDescriptors
	}
	for i := range messages {
		switch m := &messages[i]; {
		case m.Header.Level != unix.SOL_SOCKET:
			err = ErrDescriptors
		case m.Header.Type == unix.SCM_CREDENTIALS:
			cred, perr := unix.ParseUnixCredentials(m)
			known = perr == nil && int(cred.Pid) == r.id.PID && cred.Uid == r.id.UID
		case m.Header.Type == unix.SCM_RIGHTS:
			fds, perr := unix.ParseUnixRights(m)
			if perr != nil || len(fds) != 1 || fd >= 0 {
				err = ErrDescriptors
				r.closer.Close(fds...)
				break
			}
			fd = fds[0]
		default:
			err = ErrDescriptors
		}
	}
	switch {
	case err != nil:
	case r.msg.hdr.Flags&unix.MSG_CTRUNC != 0:
		err = ErrDescriptors
	case r.n > 0 && (!known || !r.id.Alive()):
		err = ErrImpostor
	}
	if err != nil {
		r.closer.Close(fd)
		return -1, err
	}
	return fd, nil
}

// ReceiveInto waits for bytes and puts them through the buffers, one after the
// other; zero is the connection's end. The kernel writes them where they are to
// lie: a secret that comes has no copy in ordinary memory.
func ReceiveInto(raw syscall.RawConn, buffers [][]byte) (n int, err error) {
	var m message
	var opErr error
	err = raw.Read(func(fd uintptr) bool {
		m.set(buffers, nil)
		n, opErr = m.receive(fd)
		return !errors.Is(opErr, unix.EAGAIN)
	})
	if err == nil {
		err = opErr
	}
	return n, err
}
