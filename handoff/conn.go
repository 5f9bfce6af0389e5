package handoff

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A parcel is a connection on its way, with what was read from it.
type parcel struct {
	conn net.Conn
	raw  syscall.RawConn
	read []byte
}

// pack looks at everything that could make passing the connection fail, while
// the context is still here.
func pack(conn net.Conn, read []byte) (*parcel, error) {
	p := &parcel{conn: conn, read: read}
	if r, ok := conn.(*resumed); ok {
		conn, p.read = r.Conn, append(read[:len(read):len(read)], r.rest()...)
	}
	if len(p.read) > MaxRead {
		return nil, fmt.Errorf("%w: %d, at most %d", ErrTooLarge, len(p.read), MaxRead)
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%w: %T has no descriptor", ErrConn, conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConn, err)
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = checkStream(int(fd)) }); ctlErr != nil {
		err = fmt.Errorf("%w: %w", ErrConn, ctlErr)
	}
	p.raw = raw
	return p, err
}

// pass sends the connection's descriptor. It is used in place: a copy made by
// File would be one more to close, and would make the connection blocking.
func (p *parcel) pass(worker *net.UnixConn) error {
	var err error
	if ctlErr := p.raw.Control(func(fd uintptr) {
		err = send(worker, frame(connection, p.read), unix.UnixRights(int(fd)))
	}); ctlErr != nil {
		return ctlErr
	}
	return err
}

// close gives up the connection here. The kernel keeps it open for whoever has
// its descriptor.
func (p *parcel) close() { _ = p.conn.Close() }

// checkStream returns ErrConn unless fd is a stream socket that does not listen.
// A connection that its peer has reset is none of our business.
func checkStream(fd int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConn, err)
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrConn, err)
	case kind != unix.SOCK_STREAM:
		return fmt.Errorf("%w: not a stream socket", ErrConn)
	case listens != 0:
		return fmt.Errorf("%w: it listens", ErrConn)
	}
	return nil
}

// adopt makes a connection of a descriptor that came, which it takes over,
// whatever it returns.
func adopt(fd int, read []byte) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	if f == nil {
		return nil, fmt.Errorf("%w: no descriptor", ErrConn)
	}
	defer f.Close() // FileConn has a copy
	if err := checkStream(fd); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConn, err)
	}
	if len(read) == 0 {
		return conn, nil
	}
	return &resumed{Conn: conn, read: read}, nil
}

// resumed is a connection of which some bytes were read elsewhere.
type resumed struct {
	net.Conn

	mu   sync.Mutex
	read []byte
}

// Read returns what was read elsewhere first, whatever the read deadline is.
func (r *resumed) Read(b []byte) (int, error) {
	r.mu.Lock()
	if len(r.read) > 0 {
		defer r.mu.Unlock()
		n := copy(b, r.read)
		r.read = r.read[n:]
		return n, nil
	}
	r.mu.Unlock()
	return r.Conn.Read(b)
}

// rest returns what Read has not returned yet.
func (r *resumed) rest() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read
}

// NetConn returns the connection itself, from which the first bytes are missing.
func (r *resumed) NetConn() net.Conn { return r.Conn }

// CloseWrite shuts down the writing side, where the connection can do that.
func (r *resumed) CloseWrite() error {
	if c, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}
