package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/unixsock"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// bounds is what this process has descriptors for.
type bounds struct {
	connections int // open at a time
	closing     int // refused connections that wait to be closed, of all users
	closingUser int // and of one user
}

// boundsHere divides up what RLIMIT_NOFILE allows.
func boundsHere() (bounds, error) {
	var rl unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &rl); err != nil {
		return bounds{}, fmt.Errorf("agent: RLIMIT_NOFILE: %w", err)
	}
	const most = connectionDescriptors*maxConnections + spareDescriptors + maxClosing
	n := int(min(rl.Cur, most))
	b := bounds{closing: min(n/closingShare, maxClosing)}
	b.closingUser = max(b.closing/closingUserShare, 1)
	b.connections = (n - spareDescriptors - b.closing) / connectionDescriptors
	if b.connections < 1 {
		return b, fmt.Errorf("agent: RLIMIT_NOFILE allows %d descriptors, at least %d are needed; raise it (ulimit -n, LimitNOFILE= in a unit)", rl.Cur, leastDescriptors)
	}
	return b, nil
}

// Serve serves the connections that l accepts, each in a goroutine, until ctx is
// done or accepting fails. It then waits for the requests under way, a few
// seconds at most, closes all connections and returns nil, or why accepting
// failed. It runs one goroutine more, which retires epochs in time. When it returns
// none is left but of connections whose descriptors wait to be closed, see package
// internal/unixsock. It does not close l. One Serve runs at a time.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	if err := prepareToReceive(l); err != nil {
		return err
	}
	if err := l.SetDeadline(time.Time{}); err != nil { // of another Serve, which had ended
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { s.housekeep(ctx) })
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	var conns sync.WaitGroup
	err := s.accept(ctx, l, &conns)
	s.drain(&conns)
	return err
}

// accept accepts until ctx is done.
func (s *Server) accept(ctx context.Context, l *net.UnixListener, conns *sync.WaitGroup) error {
	pause := acceptPause
	gate := &gate{l: l}
	raw, err := l.SyscallConn()
	if err != nil {
		return fmt.Errorf("agent: accepting: %w", err)
	}
	for {
		sock, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				unixsock.HangUp(sock)
			}
			return nil
		case err == nil:
			pause = acceptPause
			s.greet(ctx, sock, gate, conns)
			s.acceptMore(ctx, raw, gate, conns)
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOBUFS):
			s.log.Error(eventNoDescriptor, "reason", err)
			s.observe.Refused("accept", wire.Unavailable.String())
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, acceptPauseMax)
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("agent: accepting: %w", err)
		}
	}
}

// greet asks who has connected and counts the connection in, or refuses it.
func (s *Server) greet(ctx context.Context, sock *net.UnixConn, gate *gate, conns *sync.WaitGroup) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return // it is closed
	}
	cred, err := s.ns.Who(sock)
	c := &conn{s: s, sock: sock, raw: raw, cred: cred}
	if code := s.count(c, err); code != wire.OK {
		s.noteRefusal(ctx, c, code, err)
		c.refuse("connect", code)
		s.hangUp(ctx, sock, c.acct, gate)
		return
	}
	conns.Go(c.serve)
}

// acceptMore accepts what waits behind a connection, as bare descriptors, so that to be
// refused costs the agent about as much as to connect costs the peer. What fails fails
// again in accept, which knows what to do.
func (s *Server) acceptMore(ctx context.Context, l syscall.RawConn, gate *gate, conns *sync.WaitGroup) {
	for ctx.Err() == nil {
		var fd int
		var err error
		ctlErr := l.Control(func(listener uintptr) { fd, _, err = unix.Accept4(int(listener), unix.SOCK_CLOEXEC) })
		if ctlErr != nil || err != nil {
			return
		}
		s.greetFD(ctx, fd, gate, conns)
	}
}

// greetFD is greet for a bare descriptor.
func (s *Server) greetFD(ctx context.Context, fd int, gate *gate, conns *sync.WaitGroup) {
	cred, err := s.ns.WhoFD(fd)
	c := &conn{s: s, cred: cred}
	code := s.count(c, err)
	if code != wire.OK {
		s.noteRefusal(ctx, c, code, err)
		s.observe.Refused("connect", code.String())
		_, _ = unix.SendmsgN(fd, refusalFrame("connect", code), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if unixsock.EndedFD(uintptr(fd)) {
			_ = unix.Close(fd)
			return
		}
	}
	f := os.NewFile(uintptr(fd), "connection")
	sock, err := net.FileConn(f) // which duplicates the descriptor
	if err != nil {              // there is none left
		if code == wire.OK {
			s.dismiss(c)
			c.acct.disconnect()
		}
		go func() { _ = f.Close() }()
		return
	}
	_ = f.Close()
	c.sock = sock.(*net.UnixConn)
	if code != wire.OK {
		s.hangUp(ctx, c.sock, c.acct, gate)
		return
	}
	if c.raw, err = c.sock.SyscallConn(); err != nil {
		s.dismiss(c)
		c.acct.disconnect()
		return // it is closed
	}
	conns.Go(c.serve)
}

// count counts a connection in its user's account and in all, or says why not. err is what
// came of asking who has connected.
func (s *Server) count(c *conn, err error) wire.Code {
	c.acct = s.nameless
	switch {
	case errors.Is(err, peer.ErrUnknown):
		return wire.NotYou
	case err != nil:
		return wire.Unavailable
	}
	acct, counted := s.users.connect(c.cred.Uid, s.policy.Load().quota(c.cred.Uid).Connections)
	c.acct = acct
	if !counted {
		return wire.Quota
	}
	code := s.admit(c)
	if code != wire.OK {
		acct.disconnect()
	}
	return code
}

// noteRefusal logs that a connection is refused.
func (s *Server) noteRefusal(ctx context.Context, c *conn, code wire.Code, err error) {
	ok, dropped := c.acct.log.take(time.Now())
	if !ok {
		return
	}
	log := s.log
	if c.acct != s.nameless {
		log = log.With("peer_uid", c.cred.Uid, "peer_pid", c.cred.Pid)
	}
	reason := any(code.String())
	if err != nil {
		reason = err
	}
	attrs := []any{"reason", reason}
	if dropped > 0 {
		attrs = append(attrs, droppedBefore, dropped)
	}
	log.Log(ctx, slog.LevelWarn, eventPeer, attrs...)
}

// hangUp closes a refused connection. Where descriptors lie in it that may be slow to
// close, a goroutine does it: so many for each user, and so many in all, beyond which
// nothing is accepted.
func (s *Server) hangUp(ctx context.Context, sock *net.UnixConn, acct *account, gate *gate) {
	if unixsock.Ended(sock) {
		_ = sock.Close()
		return
	}
	mine := s.waitFor(acct, gate)
	select {
	case s.closing <- struct{}{}:
	default:
		slog.New(limited{s.log.Handler(), &acct.log}).Error(eventNoDescriptor,
			"reason", fmt.Sprintf("%d refused connections wait to be closed", cap(s.closing)), "peer_uid", acct.uid)
		s.observe.Refused("accept", wire.Unavailable.String())
		select {
		case s.closing <- struct{}{}:
		case <-ctx.Done():
			go acct.hangups.HangUp(sock)
			return
		}
	}
	go func() {
		acct.hangups.HangUp(sock)
		acct.stuck.Store(false)
		if mine {
			<-acct.closing
		}
		<-s.closing
		if len(s.closing) == 0 {
			gate.set(true)
		}
	}()
}

// waitFor takes room among the refused connections of a user, and waits a moment for
// it. It reports whether there was any.
func (s *Server) waitFor(acct *account, gate *gate) bool {
	select {
	case acct.closing <- struct{}{}:
		return true
	default:
	}
	gate.set(false)
	if acct.stuck.Load() {
		return false
	}
	patience := time.NewTimer(closingPatience)
	defer patience.Stop()
	select {
	case acct.closing <- struct{}{}:
		return true
	case <-patience.C:
		acct.stuck.Store(true)
		return false
	}
}

// prepareToReceive has the kernel say of each message from whom it comes, and lets
// messages bring descriptors.
func prepareToReceive(c syscall.Conn) error {
	if err := unixsock.Prepare(c); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if err := unixsock.PassRights(c, true); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return fmt.Errorf("agent: %w", err)
	}
	return nil
}

// A gate says whether connections that wait to be accepted may bring descriptors. It
// is closed while those of refused ones are slow to close. Before Linux 6.16 it cannot
// be.
type gate struct {
	l *net.UnixListener

	mu     sync.Mutex
	closed bool
}

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == !open {
		return
	}
	if unixsock.PassRights(g.l, open) == nil {
		g.closed = !open
	}
}

// drain ends the connections: those without a request at once, the others when
// they have answered it or their time is up.
func (s *Server) drain(conns *sync.WaitGroup) {
	s.mu.Lock()
	s.draining = true
	for c := range s.conns {
		c.interrupt()
	}
	s.mu.Unlock()

	late := time.AfterFunc(s.times.drain, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			c.cut()
		}
	})
	ended := make(chan struct{})
	go func() {
		conns.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(s.times.drain + closeTimeout):
	}
	late.Stop()
	s.mu.Lock()
	s.draining = false
	s.mu.Unlock()
}

// admit counts a connection in, unless there are too many or the server stops.
func (s *Server) admit(c *conn) wire.Code {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return wire.Stopping
	case len(s.conns) >= s.users.room():
		return wire.Unavailable
	}
	s.conns[c] = struct{}{}
	return wire.OK
}

func (s *Server) dismiss(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// connections counts those that are open.
func (s *Server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}
