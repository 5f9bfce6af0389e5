package peer

import (
	"errors"
	"net"

	"github.com/sealctx/sealctx/internal/unixsock"
)

// Errors of receiving.
var (
	// ErrImpostor: the bytes come from another process, or another user, than
	// the one that connected, or the kernel does not say from whom.
	ErrImpostor = errors.New("peer: message of another process than connected")

	// ErrDescriptors: more descriptors, or other control messages, than the
	// protocol has.
	ErrDescriptors = errors.New("peer: descriptor too many")

	// ErrNoRoom: the kernel could not install a descriptor that the peer sent.
	// This process is at its RLIMIT_NOFILE, or a security module forbids it.
	ErrNoRoom = errors.New("peer: no room for a descriptor (RLIMIT_NOFILE, or a security module)")
)

// A Receiver receives over one connection and takes only bytes that its identity sent. One
// goroutine at a time may use it.
type Receiver struct {
	from *unixsock.Receiver
	id   *Identity
}

// NewReceiver returns a receiver for a connection of that identity. closer closes descriptors
// that have no place in the protocol. unixsock.Prepare must have been called on the connection
// or on its listener.
func NewReceiver(c *net.UnixConn, id *Identity, closer *unixsock.Closer) (*Receiver, error) {
	from, err := unixsock.NewReceiver(c, closer)
	if err != nil {
		return nil, err
	}
	return &Receiver{from, id}, nil
}

// Receive waits for bytes and puts them into buf, up to its length. If buf is nil, Receive
// calls fill for a buffer before it tries to read, and spare to give the buffer back before it
// waits: a connection that waits holds no buffer. Receive returns the buffer, the number of
// bytes, and a descriptor that came with them, or -1. The caller closes the descriptor.
//
// Errors: ErrImpostor, ErrDescriptors, ErrNoRoom, io.EOF, os.ErrDeadlineExceeded. While the
// closer is busy Receive reads nothing and returns ErrDescriptors. No error leaves a descriptor
// open.
func (r *Receiver) Receive(buf []byte, fill func() []byte, spare func([]byte)) (got []byte, n, fd int, err error) {
	got, n, ctl, err := r.from.Receive(buf, fill, spare)
	switch {
	case errors.Is(err, unixsock.ErrControl):
		err = ErrDescriptors
	case err != nil:
	case ctl.Sender.Pid <= 0 || int(ctl.Sender.Pid) != r.id.PID || ctl.Sender.Uid != r.id.UID || !r.id.Alive():
		err = ErrImpostor
	case ctl.Dropped:
		err = ErrNoRoom
	default:
		return got, n, ctl.FD, nil
	}
	if ctl.FD >= 0 {
		r.from.Drop(ctl.FD)
	}
	return got, 0, -1, err
}
