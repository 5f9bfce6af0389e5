package handoff

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"sync"
	"syscall"

	"github.com/golang-auth/go-gssapi/v3"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/unixsock"
	"github.com/sealctx/sealctx/secctx"
)

// A parcel is a context and its connection on their way, with the bytes that were read
// from the connection.
type parcel struct {
	sc   gssapi.SecContext
	conn net.Conn
	raw  syscall.RawConn
	read []byte
}

// pack looks at everything that could make a handoff fail, before it waits for a worker.
func pack(sc gssapi.SecContext, conn net.Conn, read []byte) (*parcel, error) {
	p, err := packConn(conn, read)
	if err == nil {
		_, err = secctx.Status(sc)
	}
	if err != nil {
		return nil, err
	}
	p.sc = sc
	return p, nil
}

func packConn(conn net.Conn, read []byte) (*parcel, error) {
	p := &parcel{conn: conn, read: read}
	if r, ok := conn.(*resumed); ok {
		conn, p.read = r.Conn, append(read[:len(read):len(read)], r.rest()...)
	}
	if len(p.read) > MaxRead {
		return nil, fmt.Errorf("%w: %d, at most %d", ErrTooLarge, len(p.read), MaxRead)
	}
	c, ok := conn.(syscall.Conn)
	if v := reflect.ValueOf(conn); !ok || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("%w: %T has no descriptor", ErrConn, conn)
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = checkRaw(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConn, err)
	}
	p.raw = raw
	return p, nil
}

// offer sends the token and the connection's descriptor. It returns the number of bytes
// that went out. The descriptor is used in place: a copy made by File would be one more
// to close, and would make the connection blocking.
func (p *parcel) offer(worker *net.UnixConn, tok []byte) (sent int, err error) {
	size := binary.BigEndian.AppendUint32(nil, uint32(len(p.read)))
	f := frame(offer, size, p.read, tok)
	if ctlErr := p.raw.Control(func(fd uintptr) {
		sent, err = send(worker, f, unix.UnixRights(int(fd)))
	}); ctlErr != nil {
		return 0, ctlErr
	}
	return sent, err
}

// close closes the connection here. The kernel keeps it open for the worker.
func (p *parcel) close() { _ = p.conn.Close() }

// end ends the connection for its peer too, though a worker may have a copy of it.
func (p *parcel) end() {
	_ = p.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	p.close()
}

// checkWorker returns an error unless worker is a Unix stream socket.
func checkWorker(worker *net.UnixConn) error {
	if worker == nil {
		return errors.New("handoff: no connection to the worker")
	}
	raw, err := worker.SyscallConn()
	if err == nil {
		err = checkRaw(raw)
	}
	if err != nil {
		return fmt.Errorf("handoff: connection to the worker: %w", err)
	}
	return nil
}

func checkRaw(raw syscall.RawConn) error {
	var err error
	if ctlErr := raw.Control(func(fd uintptr) { err = checkStream(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

// checkStream returns an error unless fd is a stream socket that does not listen, of a family
// that package net knows. It takes a connection that its peer has reset.
func checkStream(fd int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	switch {
	case err != nil:
		return os.NewSyscallError("getsockopt", err)
	case kind != unix.SOCK_STREAM:
		return errors.New("not a stream socket")
	case listens != 0:
		return errors.New("it listens")
	case family != unix.AF_UNIX && family != unix.AF_INET && family != unix.AF_INET6:
		return fmt.Errorf("a socket of family %d", family)
	}
	return nil
}

// adopt makes a connection of a descriptor and closes the descriptor, also on an error. Errors:
// ErrConn if the descriptor is not that of a connection; a shortage.
func adopt(fd int, read []byte) (net.Conn, error) {
	if err := checkStream(fd); err != nil {
		unixsock.Close(fd) // it may be anything
		return nil, fmt.Errorf("%w: %w", ErrConn, err)
	}
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close() // FileConn has a copy
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, &shortage{err}
	}
	if len(read) == 0 {
		return conn, nil
	}
	return &resumed{Conn: conn, read: bytes.Clone(read)}, nil // of a buffer that has the token too
}

// resumed is a connection whose first bytes were read elsewhere.
type resumed struct {
	net.Conn

	mu   sync.Mutex
	read []byte
}

// Read first returns the bytes that were read elsewhere, whatever the read deadline is.
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

// rest returns the bytes read elsewhere that Read has not returned yet.
func (r *resumed) rest() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read
}

// NetConn returns the connection itself. The bytes that were read elsewhere are missing from it.
func (r *resumed) NetConn() net.Conn { return r.Conn }

// CloseWrite shuts down the writing side. It returns errors.ErrUnsupported if the connection
// cannot do that.
func (r *resumed) CloseWrite() error {
	if c, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}
