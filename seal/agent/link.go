package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/pidfd"
	"github.com/sealctx/sealctx/internal/unixsock"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// A link is one connection of a client.
type link struct {
	sock *net.UnixConn
	raw  syscall.RawConn
	uid  int       // effective, when it connected: the agent goes by that
	used time.Time // when it was last given back

	until time.Time // the deadline that is set
}

func (l *link) close() { _ = l.sock.Close() }

// connect makes a connection to the agent, and only to it.
func (c *Client) connect(deadline time.Time) (*link, error) {
	owner, err := checkPath(c.path)
	if err != nil {
		return nil, err
	}
	conn, err := dial(c.path, deadline)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	l := &link{sock: conn, uid: os.Geteuid()}
	if l.raw, err = l.sock.SyscallConn(); err == nil {
		err = checkAgent(l.raw, owner)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// take waits until the client has fewer connections in use than it may have. It returns
// an idle connection or a new one. A call of give follows.
func (c *Client) take(deadline time.Time) (*link, error) {
	select {
	case c.slots <- struct{}{}:
	default:
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		select {
		case c.slots <- struct{}{}:
		case <-timer.C:
			return nil, fmt.Errorf("%w: all %d connections are waiting for it", ErrAway, cap(c.slots))
		}
	}
	l, err := c.reuse()
	if l == nil && err == nil {
		l, err = c.connect(deadline)
	}
	if err != nil {
		<-c.slots
	}
	return l, err
}

// reuse returns the idle connection that was used last, if it is good.
func (c *Client) reuse() (*link, error) {
	uid, now := os.Geteuid(), time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	for len(c.idle) > 0 {
		last := len(c.idle) - 1
		l := c.idle[last]
		c.idle = c.idle[:last]
		if l.uid == uid && (l.used.IsZero() || now.Sub(l.used) < clientIdle) {
			return l, nil
		}
		l.close()
	}
	return nil, nil
}

// give takes a connection back; a broken one is closed.
func (c *Client) give(l *link, good bool) {
	defer func() { <-c.slots }()
	if good {
		l.used = time.Now()
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.closed {
			c.idle = append(c.idle, l)
			return
		}
	}
	l.close()
}

// ask sends one request, with a descriptor unless it is -1. It receives the answer, header
// and body, into parts, one after the other. A refusal comes back as its error. The
// request is sent once. ask tries another connection only if the agent had closed the
// first and not a byte of the request went out.
func (c *Client) ask(op wire.Op, frame []byte, subject int, deadline time.Time, parts ...[]byte) (wire.Header, error) {
	for {
		l, err := c.take(deadline)
		if err != nil {
			return wire.Header{}, err
		}
		stale := !l.used.IsZero()
		sent, err := l.send(frame, subject, deadline)
		if err != nil {
			refused := l.refused(err, parts)
			c.give(l, false)
			switch {
			case refused != nil:
				return wire.Header{}, refused
			case sent == 0 && stale && closedByPeer(err):
				continue
			}
			return wire.Header{}, fmt.Errorf("%w: %w", ErrAway, err) // half a request is none
		}
		h, err := l.receive(parts)
		if err == nil && (!h.Reply || h.Op != op && h.Status == wire.OK) {
			err = ErrProtocol
		}
		c.give(l, err == nil && !closes(h.Status))
		if err != nil {
			return h, lost(op, err)
		}
		if h.Status != wire.OK {
			return h, refusal(h, parts)
		}
		return h, nil
	}
}

// refused returns the refusal that an agent left in a connection before it closed the
// connection, or nil.
func (l *link) refused(sending error, parts [][]byte) error {
	if !closedByPeer(sending) {
		return nil
	}
	h, err := l.receive(parts)
	if err != nil || !h.Reply || h.Status == wire.OK {
		return nil
	}
	return refusal(h, parts)
}

// askPlainly is ask for an answer without a secret. It returns the answer's body.
func (c *Client) askPlainly(op wire.Op, frame []byte, deadline time.Time) ([]byte, error) {
	answer := make([]byte, wire.HeaderSize+4<<10)
	h, err := c.ask(op, frame, -1, deadline, answer)
	if err != nil {
		return nil, err
	}
	return answer[wire.HeaderSize : wire.HeaderSize+h.Length], nil
}

// closes reports whether the agent ends the connection after a status.
func closes(code wire.Code) bool {
	for _, s := range statuses {
		if s.code == code {
			return s.closes
		}
	}
	return code != wire.OK
}

func closedByPeer(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ENOTCONN)
}

// lost is the error of a request whose answer did not come. If the request may spend a
// token, it is not known whether it did.
func lost(op wire.Op, err error) error {
	if errors.Is(err, ErrProtocol) {
		return err
	}
	if op.Operation().Spends {
		return fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return fmt.Errorf("%w: %w", ErrAway, err)
}

// refusal makes an error of an answer whose status is not OK.
func refusal(h wire.Header, parts [][]byte) error {
	var body []byte
	for i, p := range parts {
		if i == 0 {
			p = p[wire.HeaderSize:]
		}
		body = append(body, p[:min(len(p), h.Length-len(body))]...)
	}
	_, text, err := wire.ParseFailure(body)
	if err != nil || !h.Status.Known() {
		return ErrProtocol
	}
	return errorOf(h.Status, printable(text))
}

// printable keeps an agent's text from doing things to a terminal or a log.
func printable(text []byte) string {
	out := make([]byte, len(text))
	for i, b := range text {
		if b < ' ' || b > '~' {
			b = '?'
		}
		out[i] = b
	}
	return string(out)
}

// limit sets the deadline of a request. That costs as much as a system call or two, so a
// deadline that is a little early is kept.
func (l *link) limit(deadline time.Time) error {
	if early := deadline.Sub(l.until); early >= 0 && early < time.Until(deadline)/8 {
		return nil
	}
	l.until = deadline
	return l.sock.SetDeadline(deadline)
}

// send sends a frame. The kernel puts this process's credentials on it, with the real
// user. The agent goes by the effective user, so send gives the credentials if the two
// differ.
func (l *link) send(frame []byte, subject int, deadline time.Time) (int, error) {
	if err := l.limit(deadline); err != nil {
		return 0, err
	}
	var oob []byte
	if l.uid != os.Getuid() {
		oob = unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(l.uid), Gid: uint32(os.Getegid())})
	}
	if subject >= 0 {
		oob = append(oob, unix.UnixRights(subject)...)
	}
	for {
		sent, err := peer.Send(l.raw, oob, frame)
		// An agent that is being flooded takes no descriptor before it has accepted the
		// connection (SO_PASSRIGHTS).
		if subject < 0 || sent > 0 || !errors.Is(err, unix.EPERM) || time.Until(deadline) < rightsPause {
			return sent, err
		}
		time.Sleep(rightsPause)
	}
}

// receive receives one frame into the parts.
func (l *link) receive(parts [][]byte) (h wire.Header, err error) {
	room := append([][]byte(nil), parts...)
	total := 0
	for _, p := range parts {
		total += len(p)
	}
	got, want := 0, -1
	for want < 0 || got < want {
		n, err := unixsock.ReceiveInto(l.raw, room)
		if err != nil {
			return h, err
		}
		if n == 0 {
			return h, io.ErrUnexpectedEOF
		}
		got += n
		room = peer.Advance(room, n)
		if want < 0 && got >= wire.HeaderSize {
			if h, err = wire.ParseHeader(parts[0]); err != nil {
				return h, ErrProtocol
			}
			if want = wire.HeaderSize + h.Length; want > total {
				return h, ErrProtocol
			}
		}
	}
	if got > want {
		return h, ErrProtocol
	}
	return h, nil
}

// subjectOf opens the process that an audience names, or a later one with its id.
func subjectOf(value []byte) (int, error) {
	pid := int(binary.BigEndian.Uint32(value))
	fd, err := pidfd.Open(pid)
	if errors.Is(err, pidfd.ErrEnded) {
		return -1, fmt.Errorf("%w: %w: no process %d", seal.ErrRequest, ask.ErrAudience, pid)
	}
	if err != nil {
		return -1, unavailable(err)
	}
	return fd, nil
}

// sameNumber reports whether two values of process audiences name one process by its
// number of the kernel's. The id, which differs between process namespaces, does not count.
func sameNumber(a, b []byte) bool {
	const id = 4 // bytes
	return len(a) == len(b) && len(a) > id && string(a[id:]) == string(b[id:])
}
