package agent

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/sealctx/sealctx/internal/foreign"
	"github.com/sealctx/sealctx/internal/pidfd"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// A conn is one connection of one peer. It answers one request at a time.
type conn struct {
	s    *Server
	sock *net.UnixConn
	raw  syscall.RawConn
	recv *peer.Receiver
	id   *peer.Identity
	acct *account
	log  *slog.Logger // names the peer

	prepared []prepared // reserved and not sealed yet

	policy   *Policy // of which services was read
	services []string

	mu        sync.Mutex
	busy      bool // a request is under way
	quit      bool
	late      bool      // the server has stopped, and no deadline counts but that
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
func (s *Server) serve(sock *net.UnixConn) {
	c := &conn{s: s, sock: sock, log: slog.New(limited{s.log.Handler(), &s.strangers})}
	if code := c.start(); code != wire.OK {
		c.refuse("connect", code)
		c.closer().HangUp(sock)
		return
	}
	defer c.id.Close()
	defer c.acct.disconnect()
	defer s.dismiss(c)
	defer c.cancelPrepared(0)
	defer c.closer().HangUp(sock) // it counts as long as that takes
	for c.idle() {
		if !c.turn() {
			return
		}
	}
}

// closer is the one for what came from this peer's user, or from all that have no
// name.
func (c *conn) closer() *foreign.Closer {
	if c.acct == nil {
		return &c.s.nameless
	}
	return &c.acct.closer
}

// start learns who the peer is and counts it in.
func (c *conn) start() wire.Code {
	var err error
	if c.raw, err = c.sock.SyscallConn(); err != nil {
		return wire.Unavailable
	}
	if err := foreign.Prepare(c.sock); err != nil { // should it have connected before Serve began
		return wire.Unavailable
	}
	c.id, err = c.s.ns.Identify(c.sock)
	switch {
	case errors.Is(err, peer.ErrUnknown), errors.Is(err, pidfd.ErrEnded):
		c.log.Warn(eventPeer, "reason", err)
		return wire.NotYou
	case err != nil: // no descriptor left, say
		c.log.Error(eventPeer, "reason", err)
		return wire.Unavailable
	}
	code := c.enter()
	if code != wire.OK {
		c.log.Warn(eventPeer, "reason", code.String())
		c.id.Close()
	}
	return code
}

func (c *conn) enter() wire.Code {
	var err error
	var counted bool
	c.acct, counted = c.s.users.connect(c.id.UID, min(c.quota().Connections, (c.s.room+1)/2)) // half is for others
	c.log = slog.New(limited{c.s.log.Handler(), &c.acct.log}).With("peer_uid", c.id.UID, "peer_pid", c.id.PID)
	if !counted {
		return wire.Quota
	}
	if c.recv, err = peer.NewReceiver(c.sock, c.id, c.closer()); err != nil {
		c.acct.disconnect()
		return wire.Unavailable
	}
	code := c.s.admit(c)
	if code != wire.OK {
		c.acct.disconnect()
	}
	return code
}

func (c *conn) quota() Quota { return c.s.policy.Load().quota(c.id.UID) }

// idle gets ready to wait for a request, and reports false where the server
// stops.
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

// interrupt ends a connection without a request; with one it ends after it.
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
	code, more := c.handle(&r)
	c.s.observe.Answered(r.op.String(), counted(r.op, code), time.Since(r.from))
	return more
}

// read reads one request. begun says that it counts as under way. An error with
// a code is a violation of the protocol; one without is the connection's end. A
// code without an error refuses the request before it is read whole.
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
				c.closer().Close(fd)
				return false, wire.Quota, nil
			}
		}
		n += got
		if fd >= 0 && r.fd >= 0 {
			c.closer().Close(fd)
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
	if err != nil || h.Reply || !h.Op.Known() {
		return false, wire.Protocol, wire.ErrMalformed
	}
	r.op = h.Op
	whole := wire.HeaderSize + h.Length
	switch {
	case n > whole: // the next request before this one's answer
		return false, wire.Protocol, wire.ErrMalformed
	case r.fd >= 0 && r.op != wire.Reserve && r.op != wire.Prepare:
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
	switch op {
	case wire.Open, wire.TakeBack, wire.Inspect, wire.OpenAny:
		return c.quota().TokenSize + wire.MaxBesideToken
	}
	if op == wire.Seal {
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
	if c.raw != nil {
		text := "connection " + where + ": " + code.String()
		if code == wire.NotYou {
			text += ", who connected and who sends are not the same, or the user has no number where the agent runs"
		}
		_ = c.send(wire.Failure(0, code, text))
	}
}

// send writes the parts of an answer.
func (c *conn) send(parts ...[]byte) error {
	_, err := peer.TrySend(c.raw, func() { c.hurry(time.Now()) }, parts...)
	return err
}

// deliver sends an answer that holds size bytes of locked memory until it is
// sent. A client of ours has read all before it asks, so that its answer never
// waits; those who let answers wait share half of that memory, and who wants
// more of it is cut off: the rest is for the others.
func (c *conn) deliver(size int, parts ...[]byte) error {
	waits := false
	_, err := peer.TrySend(c.raw, func() {
		waits = true
		if c.s.waiting.Add(int64(size)) > int64(c.s.pool.Size()/2) {
			_ = c.sock.SetDeadline(time.Unix(1, 0))
			return
		}
		c.hurry(time.Now())
	}, parts...)
	if waits {
		c.s.waiting.Add(int64(-size))
	}
	return err
}

func (c *conn) free(r *request) {
	c.closer().Close(r.fd)
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
