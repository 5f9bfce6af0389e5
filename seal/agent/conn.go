package agent

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/pidfd"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// A conn is one connection of one peer. It answers one request at a time.
type conn struct {
	s    *Server
	sock *net.UnixConn
	raw  syscall.RawConn
	cred unix.Ucred // of the process that connected
	recv *peer.Receiver
	id   *peer.Identity
	acct *account
	log  *slog.Logger // names the peer

	hosts    []*seal.Host // as the peer sees them, as in the server; nil until asked for
	prepared []prepared   // reserved and not sealed yet

	policy   *Policy // of which services was read
	services []string

	mu        sync.Mutex
	busy      bool // a request is under way
	quit      bool
	late      bool      // the server has stopped, and only its deadline counts
	idleUntil time.Time // the deadline that is set; zero after another was
}

// A request is one frame and what came with it.
type request struct {
	op   wire.Op
	body []byte
	fd   int // a descriptor, or -1
	buf  []byte
	from time.Time
}

// serve answers the requests of one connection until it ends.
func (c *conn) serve() {
	defer c.acct.disconnect()
	defer c.s.dismiss(c)
	c.log = slog.New(limited{c.s.log.Handler(), &c.acct.log}).With("peer_uid", c.cred.Uid, "peer_pid", c.cred.Pid)
	code := c.start()
	if c.id != nil {
		defer c.id.Close()
	}
	defer c.cancelPrepared(0)
	defer c.acct.hangups.HangUp(c.sock) // it counts as long as that takes
	if code != wire.OK {
		c.refuse("connect", code)
		return
	}
	for c.idle() {
		if !c.turn() {
			return
		}
	}
}

// start learns the rest of who the peer is, and gets ready to receive.
func (c *conn) start() wire.Code {
	err := prepareToReceive(c.sock) // should it have connected before Serve began
	if err == nil {
		c.id, err = c.s.ns.Identify(c.sock, c.cred)
	}
	if err == nil {
		c.recv, err = peer.NewReceiver(c.sock, c.id, &c.acct.closer)
	}
	switch {
	case err == nil:
		return wire.OK
	case errors.Is(err, pidfd.ErrEnded):
		c.log.Warn(eventPeer, "reason", err)
		return wire.NotYou
	}
	c.log.Error(eventPeer, "reason", err) // no descriptor left, say
	return wire.Unavailable
}

func (c *conn) quota() Quota { return c.s.policy.Load().quota(c.id.UID) }

// idle gets ready to wait for a request. It reports false if the server stops.
func (c *conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	if c.quit {
		return false
	}
	// Setting a deadline at each request would cost a tenth of answering it.
	idle := c.s.times.idle
	if until := time.Now().Add(idle); until.Sub(c.idleUntil) > idle/8 {
		c.idleUntil = until
		return c.sock.SetDeadline(until) == nil
	}
	return true
}

// interrupt ends a connection: at once, or after the request under way.
func (c *conn) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quit = true
	if !c.busy {
		_ = c.sock.SetReadDeadline(time.Unix(1, 0))
	}
}

// cut ends a connection, whatever is under way on it.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quit, c.late = true, true
	_ = c.sock.SetDeadline(time.Unix(1, 0))
}

// hurry sets the time within which a request must be read, and answered.
func (c *conn) hurry(from time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.late {
		return
	}
	c.idleUntil = time.Time{}
	_ = c.sock.SetDeadline(from.Add(c.s.times.frame))
}

// turn reads one request and answers it. It reports whether to go on.
func (c *conn) turn() bool {
	var r request
	begun, code, err := c.read(&r)
	if begun {
		defer c.acct.end()
	}
	defer c.free(&r)
	switch {
	case err != nil:
		if code != wire.OK { // a violation, not a peer that went away
			c.log.Warn(eventPeer, "reason", err)
			c.refuse("receive", code)
		}
		return false
	case code != wire.OK:
		c.denied(r.op, code, "")
		c.s.observe.Answered(r.op.String(), code.String(), time.Since(r.from))
		_ = c.send(wire.Failure(r.op, code, ""))
		return false // what was not read cannot be skipped
	}
	c.expirePrepared()
	code, more := c.handle(&r)
	c.s.observe.Answered(r.op.String(), counted(r.op, code), time.Since(r.from))
	return more
}

// read reads one request. begun reports whether it counts as under way. An error with a
// code is a violation of the protocol. An error without a code is the connection's end.
// A code without an error refuses the request before it is read whole.
func (c *conn) read(r *request) (begun bool, code wire.Code, err error) {
	r.fd = -1
	n := 0
	for {
		var got, fd int
		r.buf, got, fd, err = c.recvInto(r.buf, n)
		if err != nil {
			return begun, violation(err), err
		}
		if n == 0 {
			r.from = time.Now()
			c.setBusy()
			if begun = c.acct.begin(c.quota().Requests); !begun {
				c.acct.closer.Close(fd)
				return false, wire.Quota, nil
			}
		}
		n += got
		if fd >= 0 && r.fd >= 0 {
			c.acct.closer.Close(fd)
			return begun, wire.Protocol, peer.ErrDescriptors
		}
		if fd >= 0 {
			r.fd = fd
		}
		done, code, err := c.frame(r, n)
		if done || code != wire.OK || err != nil {
			return begun, code, err
		}
		c.hurry(r.from)
	}
}

// recvInto receives behind the first n bytes of buf, which it makes if need be.
func (c *conn) recvInto(buf []byte, n int) (out []byte, got, fd int, err error) {
	if buf == nil {
		return c.recv.Receive(nil, smallBuffer, freeBuffer)
	}
	_, got, fd, err = c.recv.Receive(buf[n:], nil, nil)
	return buf, got, fd, err
}

// frame looks at the first n bytes of a request and reports whether it is whole.
func (c *conn) frame(r *request, n int) (done bool, code wire.Code, err error) {
	if n < wire.HeaderSize {
		return false, wire.OK, nil
	}
	h, err := wire.ParseHeader(r.buf)
	if err != nil || h.Reply || !known(h.Op) {
		return false, wire.Protocol, wire.ErrMalformed
	}
	r.op = h.Op
	whole := wire.HeaderSize + h.Length
	switch {
	case n > whole: // the next request before this one's answer
		return false, wire.Protocol, wire.ErrMalformed
	case r.fd >= 0 && !r.op.Operation().Descriptor:
		return false, wire.Protocol, peer.ErrDescriptors
	case h.Length > c.longest(h.Op):
		return false, wire.Quota, nil
	case n == whole:
		r.body = r.buf[wire.HeaderSize:whole]
		return true, wire.OK, nil
	case len(r.buf) < whole:
		buf := make([]byte, whole)
		copy(buf, r.buf[:n])
		r.wipePlain()
		freeBuffer(r.buf)
		r.buf = buf
	}
	return false, wire.OK, nil
}

// longest is the length of the longest body that this peer may send.
func (c *conn) longest(op wire.Op) int {
	switch op.Operation().Body {
	case wire.WithToken:
		return c.quota().TokenSize + wire.MaxBesideToken
	case wire.WithPlain:
		return c.quota().TokenSize + wire.MaxBesidePlain
	}
	return smallFrame // no other request comes near it
}

func (c *conn) setBusy() {
	c.mu.Lock()
	c.busy = true
	c.mu.Unlock()
}

// violation is the code for an error of receiving after which the peer is told why its
// connection ends.
func violation(err error) wire.Code {
	switch {
	case errors.Is(err, peer.ErrImpostor):
		return wire.NotYou
	case errors.Is(err, peer.ErrDescriptors):
		return wire.Protocol
	case errors.Is(err, peer.ErrNoRoom): // no fault of the peer's
		return wire.Unavailable
	}
	return wire.OK
}

// refuse tells the peer why its connection ends, if it still listens.
func (c *conn) refuse(where string, code wire.Code) {
	c.s.observe.Refused(where, code.String())
	_, _ = peer.TrySend(c.raw, func() {
		if c.recv == nil { // the server accepts nothing until this is sent
			_ = c.sock.SetDeadline(time.Unix(1, 0))
			return
		}
		c.hurry(time.Now())
	}, refusalFrame(where, code))
}

// refusalFrame is what a peer gets whose connection is refused.
func refusalFrame(where string, code wire.Code) []byte {
	text := "connection " + where + ": " + code.String()
	if code == wire.NotYou {
		text += ", who connected and who sends are not the same, or the user has no number where the agent runs"
	}
	return wire.Failure(0, code, text)
}

// send writes the parts of an answer.
func (c *conn) send(parts ...[]byte) error {
	_, err := peer.TrySend(c.raw, func() { c.hurry(time.Now()) }, parts...)
	return err
}

// hold counts the locked memory that a secret of n bytes takes of the pool. The caller
// calls it before it takes the memory, and unhold when it has given it back. hold returns
// the bytes that it counted. It reports false if the user has its share.
func (c *conn) hold(n int) (room int64, ok bool) {
	room = int64(memsafe.Room(n))
	return room, c.acct.hold(room, c.s.part(lockedPart))
}

// part is so many eighths of the locked memory, in bytes.
func (s *Server) part(eighths int) int64 { return int64(s.pool.Size() / 8 * eighths) }

// deliver sends an answer that holds room bytes of locked memory until it is sent. A
// Client reads each answer before it asks again, so that its answers never wait. Answers
// that wait share half of the locked memory, and one user gets a part of that half. A
// connection that would take more is cut off: the rest is for other users.
func (c *conn) deliver(room int64, parts ...[]byte) error {
	waits := false
	_, err := peer.TrySend(c.raw, func() {
		waits = true
		all, mine := c.s.waiting.Add(room), c.acct.waiting.Add(room)
		if all > c.s.part(waitingPart) || mine > c.s.part(waitingUserPart) {
			_ = c.sock.SetDeadline(time.Unix(1, 0))
			return
		}
		c.hurry(time.Now())
	}, parts...)
	if waits {
		c.s.waiting.Add(-room)
		c.acct.waiting.Add(-room)
	}
	return err
}

func (c *conn) free(r *request) {
	c.acct.closer.Close(r.fd)
	r.wipePlain()
	freeBuffer(r.buf)
	r.buf, r.body = nil, nil
}

// buffers keeps the buffers of small requests, which hold no secret.
var buffers = sync.Pool{New: func() any { return new([smallFrame]byte) }}

func smallBuffer() []byte { return buffers.Get().(*[smallFrame]byte)[:] }

func freeBuffer(b []byte) {
	if len(b) == smallFrame {
		buffers.Put((*[smallFrame]byte)(b))
	}
}
