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

	"github.com/sealctx/sealctx/internal/unixsock"
)

// Receive tells the acceptor that this worker is ready and waits for a context. It takes the
// connection, imports the context with p, a provider wrapped by package secctx, and returns
// both. The caller deletes the context and closes the connection.
//
// The connection is of a type of package net, *net.TCPConn for example. If the acceptor had
// read bytes from it, Read returns these first; the connection then is of another type, with
// the methods NetConn and CloseWrite beside net.Conn's.
//
// Errors after which the acceptor's connection is good, and Receive can be called again:
//
//   - ErrRefused, with the error of ImportSecContext: this token was not imported
//   - ErrRefused, with syscall.EMFILE or the like: this process had no descriptor for
//     the connection. The token was not imported
//   - syscall.EMFILE or the like without ErrRefused: this process has no descriptor for
//     a connection, so the acceptor was not told that it is ready. Call Receive again
//     when a descriptor is free
//
// All other errors have closed the acceptor's connection. A context that was imported by then
// is deleted, and its connection is closed:
//
//   - io.EOF: the acceptor closed its connection before a token came, which is the usual end
//   - ctx's error
//   - io.ErrUnexpectedEOF: the acceptor ended in the middle of an exchange
//   - ErrProtocol, ErrConn: the acceptor sent something that has no place there
//
// A worker that serves one context after another calls Receive when it has time for the next
// one. A worker that serves several at a time calls it in a loop. To stop a worker, end ctx: a
// context that it has not claimed stays with the acceptor.
func Receive(ctx context.Context, acceptor *net.UnixConn, p gssapi.Provider) (gssapi.SecContext, net.Conn, error) {
	if p == nil || acceptor == nil {
		return nil, nil, errNothing
	}
	defer watch(ctx, acceptor, time.Time{})()
	w, err := newReception(acceptor, p)
	var sc gssapi.SecContext
	var conn net.Conn
	if err == nil {
		sc, conn, err = w.next()
	}
	if err != nil && !w.good {
		_ = acceptor.Close()
		err = because(ctx, err)
	}
	return sc, conn, err
}

var errNothing = errors.New("handoff: Receive needs a connection to the acceptor and a provider")

// A refusedError is ErrRefused with its reason.
type refusedError struct{ why error }

func (r *refusedError) Error() string   { return ErrRefused.Error() + ": " + r.why.Error() }
func (r *refusedError) Unwrap() []error { return []error{ErrRefused, r.why} }

// A reception is one call of Receive.
type reception struct {
	acceptor *net.UnixConn
	from     *unixsock.Receiver
	p        gssapi.Provider
	good     bool // the acceptor's connection is between two exchanges
}

func newReception(acceptor *net.UnixConn, p gssapi.Provider) (*reception, error) {
	w := &reception{acceptor: acceptor, p: p}
	err := unixsock.Inline(acceptor)
	if err == nil {
		w.from, err = unixsock.NewReceiver(acceptor, &unixsock.Closer{Patience: closePatience})
	}
	return w, err
}

// closePatience is how long Receive waits until descriptors are closed that have no place in
// the protocol.
const closePatience = 100 * time.Millisecond

// next says READY and takes the next context.
func (w *reception) next() (gssapi.SecContext, net.Conn, error) {
	if err := w.checkRoom(); err != nil {
		return nil, nil, err
	}
	for {
		if err := say(w.acceptor, ready); err != nil {
			return nil, nil, ended(err)
		}
		k, body, ctl, err := w.readFrame()
		if err != nil {
			return nil, nil, ended(err)
		}
		switch k {
		case withdrawn:
			continue
		case offer:
			return w.take(body, ctl)
		default:
			return nil, nil, fmt.Errorf("%w: %v for READY", ErrProtocol, k)
		}
	}
}

// checkRoom returns a shortage if there is no room for a connection, and io.EOF if the acceptor
// has also closed its connection meanwhile.
func (w *reception) checkRoom() error {
	raw, err := w.acceptor.SyscallConn()
	if err != nil {
		return err
	}
	open := false
	if ctlErr := raw.Control(func(fd uintptr) {
		if err = haveRoom(int(fd)); err != nil {
			n, _, perr := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			open = n > 0 || errors.Is(perr, unix.EAGAIN)
		}
	}); ctlErr != nil {
		return ctlErr
	}
	if err != nil && !open {
		return io.EOF
	}
	w.good = err != nil
	return err
}

// take makes sure of the connection, then imports the token, and says so.
func (w *reception) take(body []byte, ctl unixsock.Control) (sc gssapi.SecContext, conn net.Conn, err error) {
	defer func() {
		if sc == nil && conn != nil { // also if the mechanism panics
			_ = conn.Close()
			conn = nil
		}
	}()
	read, tok, err := parseOffer(body)
	switch {
	case err != nil:
		if ctl.FD >= 0 {
			w.from.Drop(ctl.FD)
		}
		return nil, nil, err
	case ctl.Dropped:
		return nil, nil, w.refuse(nil, &shortage{errDropped})
	}
	conn, err = adopt(ctl.FD, read)
	if err != nil {
		if errors.Is(err, ErrConn) {
			return nil, nil, err
		}
		return nil, nil, w.refuse(nil, err)
	}
	in, err := w.p.ImportSecContext(tok)
	if err == nil && in == nil {
		err = errNoContext
	}
	if err != nil {
		return nil, nil, w.refuse(conn, err)
	}
	if err := say(w.acceptor, imported); err != nil {
		_, _ = in.Delete() // its token for the peer has no way to go
		return nil, conn, early(err)
	}
	return in, conn, nil
}

// errNoContext is a mistake of a provider.
var errNoContext = errors.New("handoff: provider imported a token and returned no context")

// refuse tells the acceptor that the token was not imported. It closes the connection first, so
// that this process has no copy of it when the acceptor learns that.
func (w *reception) refuse(conn net.Conn, why error) error {
	if conn != nil {
		_ = conn.Close()
	}
	if err := say(w.acceptor, refused, reasonOf(why)); err != nil {
		return fmt.Errorf("%w; %w", why, err)
	}
	w.good = true
	return &refusedError{why}
}

// ended returns io.EOF for each error by which the kernel says that the acceptor has closed the
// connection, whether it had read READY or not.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return io.EOF
	}
	return err
}

// early returns io.ErrUnexpectedEOF where ended returns io.EOF.
func early(err error) error {
	if ended(err) == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// say sends a frame with this process's credentials, which the kernel checks.
func say(c *net.UnixConn, k kind, body ...byte) error {
	_, err := send(c, frame(k, body), unix.UnixCredentials(&unix.Ucred{
		Pid: int32(os.Getpid()), Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid()),
	}))
	return err
}

// firstRead is the size of the first read, in bytes. Most frames fit into it.
const firstRead = 4096

// readFrame reads one frame of the acceptor, which is the last thing that it has sent. A
// descriptor comes with the first byte of OFFER: it is the caller's, unless the kernel has
// dropped it. On an error none is left open.
func (w *reception) readFrame() (kind, []byte, unixsock.Control, error) {
	b := make([]byte, firstRead)
	n, ctl, err := w.receive(b)
	if err != nil {
		return 0, nil, ctl, err
	}
	k, body, err := w.readRest(b, n)
	if err == nil && (ctl.FD >= 0 || ctl.Dropped) != (k == offer) {
		err = fmt.Errorf("%w: descriptor missing, or at the wrong place", ErrProtocol)
	}
	if err != nil {
		if ctl.FD >= 0 {
			w.from.Drop(ctl.FD)
		}
		return 0, nil, unixsock.Control{FD: -1}, err
	}
	return k, body, ctl, nil
}

// receive reads once. On an error it leaves no descriptor open.
func (w *reception) receive(b []byte) (int, unixsock.Control, error) {
	_, n, ctl, err := w.from.Receive(b, nil, nil)
	if errors.Is(err, unixsock.ErrControl) {
		err = fmt.Errorf("%w: more than one descriptor, or a control message", ErrProtocol)
	}
	return n, ctl, err
}

// readRest reads the rest of a frame of which n bytes are in b.
func (w *reception) readRest(b []byte, n int) (kind, []byte, error) {
	n, err := w.readMore(b, n, headerSize)
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
	if _, err := w.readMore(b, n, size); err != nil {
		return 0, nil, err
	}
	return k, b[headerSize:size], nil
}

// readMore reads until b has at least want bytes. No descriptor may come.
func (w *reception) readMore(b []byte, n, want int) (int, error) {
	for n < want {
		m, ctl, err := w.receive(b[n:])
		if err != nil {
			return n, early(err)
		}
		if ctl.FD >= 0 {
			w.from.Drop(ctl.FD)
		}
		if ctl.FD >= 0 || ctl.Dropped {
			return n, fmt.Errorf("%w: descriptor at the wrong place", ErrProtocol)
		}
		n += m
	}
	return n, nil
}
