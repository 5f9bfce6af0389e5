package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/foreign"
)

// Receive tells the acceptor that this worker is ready, waits for a context,
// imports it with p, a provider wrapped by package secctx, and returns it with
// its connection. The connection's first bytes may be such as the acceptor had
// read; it then has the methods NetConn and CloseWrite beside net.Conn's, and
// else it is what net.FileConn makes, a *net.TCPConn say. Both are the caller's,
// who deletes the one and closes the other.
//
// The errors:
//
//   - ErrRefused, with the error of ImportSecContext: this token was not
//     imported. Call Receive again
//   - all others have closed the acceptor's connection: io.EOF when the acceptor
//     has closed it before a token came, which is the usual end; ctx's error,
//     io.ErrUnexpectedEOF, ErrProtocol, ErrConn. A context that was imported by
//     then is deleted, and the acceptor closes the connection
//
// A worker that serves one context after another calls Receive when it has time
// for the next; one that serves several at a time calls it in a loop. To stop,
// end ctx: a context that nobody has claimed stays with the acceptor.
func Receive(ctx context.Context, acceptor *net.UnixConn, p gssapi.Provider) (gssapi.SecContext, net.Conn, error) {
	defer watch(ctx, acceptor, time.Time{})()
	sc, err := importNext(acceptor, p)
	if _, ok := err.(*refusedError); ok { //nolint:errorlint // ours, unwrapped
		return nil, nil, err
	}
	var conn net.Conn
	if err == nil {
		if conn, err = takeConn(acceptor); err == nil {
			return sc, conn, nil
		}
		_, _ = sc.Delete() // its token for the peer has no way to go
	}
	_ = acceptor.Close()
	return nil, nil, because(ctx, err)
}

// refusedError is ErrRefused and why.
type refusedError struct{ why error }

func (r *refusedError) Error() string   { return ErrRefused.Error() + ": " + r.why.Error() }
func (r *refusedError) Unwrap() []error { return []error{ErrRefused, r.why} }

// importNext waits for a token and imports it.
func importNext(c *net.UnixConn, p gssapi.Provider) (gssapi.SecContext, error) {
	if err := foreign.Inline(c); err != nil {
		return nil, err
	}
	for {
		if err := say(c, ready); err != nil {
			return nil, ended(err)
		}
		k, body, ctl, err := readFrame(c)
		if err != nil {
			return nil, ended(err)
		}
		ctl.close() // of a connection that comes too early
		switch k {
		case withdrawn:
			continue
		case token:
		default:
			return nil, fmt.Errorf("%w: %v for READY", ErrProtocol, k)
		}
		sc, err := p.ImportSecContext(body)
		if err == nil {
			return sc, nil
		}
		if sendErr := say(c, refused, reasonOf(err)); sendErr != nil {
			return nil, fmt.Errorf("%w; %w", err, sendErr)
		}
		return nil, &refusedError{err}
	}
}

// ended is io.EOF for every way in which the kernel says that the acceptor has
// closed a connection, with READY read or unread.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return io.EOF
	}
	return err
}

// early is io.ErrUnexpectedEOF where ended is io.EOF.
func early(err error) error {
	if ended(err) == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// takeConn asks for the connection of a context that was imported.
func takeConn(c *net.UnixConn) (net.Conn, error) {
	if err := say(c, imported); err != nil {
		return nil, early(err)
	}
	k, body, ctl, err := readFrame(c)
	switch {
	case err != nil:
		return nil, early(err)
	case k != connection:
		return nil, fmt.Errorf("%w: %v for IMPORTED", ErrProtocol, k)
	}
	return adopt(ctl.fd, body)
}

// say sends a frame with this process's credentials, which the kernel checks.
func say(c *net.UnixConn, k kind, body ...byte) error {
	return send(c, frame(k, body), unix.UnixCredentials(&unix.Ucred{
		Pid: int32(os.Getpid()), Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid()),
	}))
}

// firstRead is room for a usual frame, so that it takes one system call.
const firstRead = 4096

// readFrame reads one frame of the acceptor, which is the last thing that it has
// sent. A descriptor comes with the first byte of CONNECTION, and it must come:
// then it is the caller's. On an error none is left open.
func readFrame(c *net.UnixConn) (kind, []byte, control, error) {
	b := make([]byte, firstRead)
	n, ctl, err := receive(c, b)
	if err != nil {
		return 0, nil, ctl, err
	}
	k, body, err := readRest(c, b, n)
	if err == nil && (ctl.fd >= 0) != (k == connection) {
		err = fmt.Errorf("%w: descriptor missing, or at the wrong place", ErrProtocol)
	}
	if err != nil {
		ctl.close()
		return 0, nil, ctl, err
	}
	return k, body, ctl, nil
}

// readRest reads the rest of a frame of which n bytes are in b.
func readRest(c *net.UnixConn, b []byte, n int) (kind, []byte, error) {
	n, err := readMore(c, b, n, headerSize)
	if err != nil {
		return 0, nil, err
	}
	k, size, err := parseHeader(b[:headerSize])
	if err != nil {
		return 0, nil, err
	}
	size += headerSize
	if n > size {
		return 0, nil, fmt.Errorf("%w: %d bytes behind %v", ErrProtocol, n-size, k)
	}
	b = slices.Grow(b[:n], size-n)[:size]
	if _, err := readMore(c, b, n, size); err != nil {
		return 0, nil, err
	}
	return k, b[headerSize:size], nil
}

// readMore reads until b has at least want bytes. No descriptor may come.
func readMore(c *net.UnixConn, b []byte, n, want int) (int, error) {
	for n < want {
		m, ctl, err := receive(c, b[n:])
		if err != nil {
			return n, early(err)
		}
		if ctl.fd >= 0 {
			ctl.close()
			return n, fmt.Errorf("%w: descriptor at the wrong place", ErrProtocol)
		}
		n += m
	}
	return n, nil
}
