package demo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// A Node holds contexts and serves their peers: the acceptor, which establishes
// them, and the workers, which import them.
type Node struct {
	host *seal.Host
	p    gssapi.Provider
	tap  *tap

	mu       sync.Mutex
	changed  *sync.Cond // of mu: a session came, or served a message
	sessions map[int]*session
	received []Outcome // by handoff, and not yet asked for
}

// A session is a context, and its peer's connection while it is here.
type session struct {
	sc       gssapi.SecContext
	conn     net.Conn
	here     chan struct{} // closed once the connection is
	stopping atomic.Bool
	served   chan error // the end of serving
	count    int        // messages served here
	recorded []byte     // the last sealed message as it crossed the wire
}

// NewNode opens the keyring and the sockets at which sessions are handed over. The keytab
// may be absent: a worker has none.
func NewNode(dir, keytab, socket string) (*Node, error) {
	host, err := seal.OpenHost(&seal.Options{Directory: dir})
	if err != nil {
		return nil, err
	}
	mech, err := krb5.New(&krb5.Config{Keytab: keytab, ReplayCache: dir + "/replay"})
	if err != nil {
		return nil, err
	}
	n := &Node{host: host, sessions: map[int]*session{}}
	n.changed = sync.NewCond(&n.mu)
	n.tap = &tap{Provider: mech, format: mech.PlainFormat()}
	n.p = secctx.Wrap(n.tap, host) // the one line that a program changes
	return n, n.open(socket)
}

// Accept listens, and establishes a context with each client that connects. Sessions are
// numbered as they come.
func (n *Node) Accept(_ struct{}, addr *string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	*addr = l.Addr().String()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if err := n.establish(conn); err != nil {
				fmt.Fprintln(os.Stderr, "acceptor:", err)
				conn.Close()
			}
		}
	}()
	return nil
}

func (n *Node) establish(conn net.Conn) error {
	sc, err := n.p.AcceptSecContext()
	if err != nil {
		return err
	}
	for sc.ContinueNeeded() {
		_, token, err := readFrame(conn)
		if err != nil {
			return err
		}
		out, _, err := sc.Continue(token)
		if err != nil {
			return err
		}
		if len(out) > 0 {
			if err := writeFrame(conn, frameToken, out); err != nil {
				return err
			}
		}
	}
	return n.serve(n.add(sc), conn)
}

func (n *Node) add(sc gssapi.SecContext) (handle int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	handle = len(n.sessions)
	n.sessions[handle] = &session{sc: sc, here: make(chan struct{}), served: make(chan error, 1)}
	n.changed.Broadcast()
	return handle
}

func (n *Node) session(handle int) (*session, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.sessions[handle]
	if s == nil {
		return nil, fmt.Errorf("no session %d", handle)
	}
	return s, nil
}

// serve answers the peer until the connection is wanted elsewhere.
func (n *Node) serve(handle int, conn net.Conn) error {
	s, err := n.session(handle)
	if err != nil {
		return err
	}
	s.conn = conn
	close(s.here)
	go func() {
		for {
			kind, body, err := s.next()
			if err == nil {
				err = n.answer(s, kind, body)
			}
			if err != nil {
				s.served <- err
				return
			}
		}
	}()
	return nil
}

// errStopped ends serving between two messages.
var errStopped = errors.New("stopped")

// next reads a whole frame, so that no half of a frame is left in a connection that is
// handed on.
func (s *session) next() (kind byte, body []byte, err error) {
	if s.stopping.Load() {
		return 0, nil, errStopped
	}
	first := make([]byte, 1)
	if _, err := s.conn.Read(first); errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, nil, errStopped
	} else if err != nil {
		return 0, nil, err
	}
	return readFrame(io.MultiReader(bytes.NewReader(first), undeterred{s.conn}))
}

// undeterred reads on when stop has set a deadline meanwhile.
type undeterred struct{ net.Conn }

func (u undeterred) Read(b []byte) (int, error) {
	for {
		n, err := u.Conn.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if err := u.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
	}
}

func (n *Node) answer(s *session, kind byte, body []byte) error {
	text, sealed, _, err := s.sc.Unwrap(body)
	if err != nil {
		return err
	}
	out, _, err := s.sc.Wrap([]byte(answerTo(string(text))), sealed, 0)
	if err != nil {
		return err
	}
	n.mu.Lock()
	s.count++
	if sealed {
		s.recorded = body
	}
	n.changed.Broadcast()
	n.mu.Unlock()
	return writeFrame(s.conn, kind, out)
}

// stop takes a session's connection from its server, between two messages.
func (s *session) stop() error {
	<-s.here
	s.stopping.Store(true)
	if err := s.conn.SetReadDeadline(time.Now()); err != nil {
		return err
	}
	if err := <-s.served; !errors.Is(err, errStopped) {
		return fmt.Errorf("serving ended: %w", err)
	}
	return s.conn.SetReadDeadline(time.Time{})
}

// ExportArgs say what to export, for which process and for how long.
type ExportArgs struct {
	Session  int
	Pid      int
	Lifetime time.Duration
}

// Exported is a sealed token, and what a thief finds in it and in the plain one
// that it was made of.
type Exported struct {
	Token       []byte
	Plain       int    // bytes of the plain token
	PlainKeyAt  int    // where keys stand in it, -1 if nowhere
	PlainKey    int    // how many bytes of them
	Stolen      string // the recorded message that they opened
	SealedKeyAt int    // the same of the sealed token
	After       string // what the exporter's own handle answers now
}

// Export gives up a session.
func (n *Node) Export(args ExportArgs, reply *Exported) error {
	s, err := n.session(args.Session)
	if err != nil {
		return err
	}
	if err := s.stop(); err != nil {
		return err
	}
	to, err := seal.Process(args.Pid)
	if err != nil {
		return err
	}
	if args.Lifetime == 0 {
		reply.Token, err = secctx.Export(s.sc, to)
	} else {
		reply.Token, err = n.exportBriefly(s, args.Lifetime)
	}
	if err != nil {
		return err
	}
	plain := n.tap.plain()
	reply.Plain, reply.PlainKeyAt, reply.SealedKeyAt = len(plain), -1, -1
	if at, size, text, ok := krb5test.Eavesdrop(plain, s.recorded); ok {
		reply.PlainKeyAt, reply.PlainKey, reply.Stolen = at, size, string(text)
	}
	if at, _, _, ok := krb5test.Eavesdrop(reply.Token, s.recorded); ok {
		reply.SealedKeyAt = at
	}
	_, _, err = s.sc.Wrap([]byte("one more"), true, 0)
	reply.After = status(err)
	return nil
}

// exportBriefly exports a session under another lifetime than the provider's:
// lifetimes are a wrapper's affair, so the context moves to one that has it.
func (n *Node) exportBriefly(s *session, lifetime time.Duration) ([]byte, error) {
	brief := (&secctx.Config{Sealer: n.host, Lifetime: lifetime}).Wrap(n.tap)
	token, err := s.sc.Export()
	if err != nil {
		return nil, err
	}
	if s.sc, err = brief.ImportSecContext(token); err != nil {
		return nil, err
	}
	return s.sc.Export()
}

// Outcome is how an import went.
type Outcome struct {
	Session int    // if it went well
	Peer    string // who the context's peer is
	Status  string // the GSS status
	Reason  string // the library's error
}

// Import imports a token as any program would.
func (n *Node) Import(token []byte, reply *Outcome) error {
	sc, err := n.p.ImportSecContext(token)
	reply.Status = status(err)
	if err != nil {
		reply.Reason = err.Error()
		return nil
	}
	reply.Peer, reply.Session, err = n.own(sc)
	return err
}

// own keeps a context that came from another node.
func (n *Node) own(sc gssapi.SecContext) (peer string, handle int, err error) {
	info, err := sc.Inquire()
	if err != nil {
		return "", 0, err
	}
	if peer, _, err = info.InitiatorName.Display(); err != nil {
		return "", 0, err
	}
	return peer, n.add(sc), nil
}

// State tells how a token stands, without spending it.
func (n *Node) State(token []byte, reply *string) error {
	state, err := n.host.Status(token)
	*reply = state.String()
	return err
}

// Busy waits until a session is here and has served a message.
func (n *Node) Busy(handle int, _ *struct{}) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.sessions[handle] == nil || n.sessions[handle].count == 0 {
		n.changed.Wait()
	}
	return nil
}

// Served tells how many messages of a session were served here.
func (n *Node) Served(handle int, count *int) error {
	s, err := n.session(handle)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	*count = s.count
	return nil
}

// status names the GSS status that an error carries.
func status(err error) string {
	for _, s := range []struct {
		err  error
		name string
	}{
		{nil, "COMPLETE"},
		{gssapi.ErrDefectiveToken, "DEFECTIVE_TOKEN"},
		{gssapi.ErrUnauthorized, "UNAUTHORIZED"},
		{gssapi.ErrNoContext, "NO_CONTEXT"},
		{gssapi.ErrContextExpired, "CONTEXT_EXPIRED"},
		{gssapi.ErrFailure, "FAILURE"},
	} {
		if errors.Is(err, s.err) {
			return s.name
		}
	}
	return "another status"
}
