package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/interop/wire"
)

// node is the state of the process: one context and its connection.
type node struct {
	inner    *counted        // what the provider wraps
	provider gssapi.Provider // what the node uses
	sc       gssapi.SecContext
	conn     *net.TCPConn
	reader   *bufio.Reader
	out, in  wire.Direction
	bindings *gssapi.ChannelBinding // of the next establishment; nil: none
	listener *net.TCPListener
	workers  *net.UnixListener
}

// patience bounds every wait for a peer, so that a lost message fails a test
// rather than hanging it.
const patience = time.Minute

func newNode(m mechanism, format string, seal, leak bool, socket string) (*node, error) {
	p, err := bare(m)
	if err != nil {
		return nil, err
	}
	if leak {
		p = &leaky{Provider: p}
	}
	n := &node{inner: &counted{Provider: p}}
	n.provider = n.inner
	if seal {
		if n.provider, err = wrapped(n.inner, format); err != nil {
			return nil, err
		}
	}
	if socket != "" {
		n.workers, err = net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	}
	return n, err
}

// statuses are the words for GSS-API statuses, those of cpeer.
var statuses = []struct {
	err  error
	word string
}{
	{gssapi.InfoDuplicateToken, "duplicate"},
	{gssapi.InfoOldToken, "old"},
	{gssapi.InfoUnseqToken, "unseq"},
	{gssapi.InfoGapToken, "gap"},
	{gssapi.ErrBadMic, "bad-mic"},
	{gssapi.ErrBadBindings, "bad-bindings"},
	{gssapi.ErrNoCred, "no-cred"},
	{gssapi.ErrNoContext, "no-context"},
	{gssapi.ErrDefectiveToken, "defective-token"},
	{gssapi.ErrContextExpired, "context-expired"},
	{gssapi.ErrUnavailable, "unavailable"},
	{gssapi.ErrUnauthorized, "unauthorized"},
}

// status puts an error into those words, joined with '+'; "complete" for nil,
// "other" for an error that carries no status of the table.
func status(err error) string {
	if err == nil {
		return "complete"
	}
	var words []string
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			words = append(words, s.word)
		}
	}
	if len(words) == 0 {
		return "other"
	}
	return strings.Join(words, "+")
}

// explain is the status and what the error says.
func explain(err error) string { return status(err) + ": " + err.Error() }

func (n *node) use(c net.Conn) {
	n.conn = c.(*net.TCPConn)
	n.reader = bufio.NewReader(n.conn)
}

// extend gives the connection another spell of patience.
func (n *node) extend() error { return n.conn.SetDeadline(time.Now().Add(patience)) }

var flagWords = map[string]gssapi.ContextFlag{
	"mutual":   gssapi.ContextFlagMutual,
	"replay":   gssapi.ContextFlagReplay,
	"sequence": gssapi.ContextFlagSequence,
	"conf":     gssapi.ContextFlagConf,
	"integ":    gssapi.ContextFlagInteg,
}

func (n *node) bind(args []string) (string, error) {
	n.bindings = &gssapi.ChannelBinding{Data: []byte(args[0])}
	return "", nil
}

func (n *node) connect(args []string) (string, error) {
	var flags gssapi.ContextFlag
	for w := range strings.SplitSeq(args[2], ",") {
		f, ok := flagWords[w]
		if !ok {
			return "", errCommand
		}
		flags |= f
	}
	c, err := net.DialTimeout("tcp4", net.JoinHostPort("127.0.0.1", args[0]), patience)
	if err != nil {
		return "", err
	}
	n.use(c)
	name, err := n.provider.ImportName(args[1], gssapi.GSS_NT_HOSTBASED_SERVICE)
	if err != nil {
		return "", err
	}
	defer name.Release()
	n.sc, err = n.provider.InitSecContext(name, gssapi.WithInitiatorMech(gssapi.GSS_MECH_KRB5),
		gssapi.WithInitiatorFlags(flags), gssapi.WithInitiatorChannelBinding(n.bindings))
	if err != nil {
		return "", err
	}
	n.out, n.in = wire.FromInitiator, wire.FromAcceptor
	return "", n.establish(nil)
}

func (n *node) listen([]string) (string, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return "", err
	}
	n.listener = l
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

// acceptConn takes the one connection of the listener and makes a context for it.
func (n *node) acceptConn() error {
	if n.listener == nil {
		return errCommand
	}
	defer n.listener.Close()
	if err := n.listener.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	c, err := n.listener.Accept()
	if err != nil {
		return err
	}
	n.use(c)
	n.out, n.in = wire.FromAcceptor, wire.FromInitiator
	n.sc, err = n.provider.AcceptSecContext(gssapi.WithAcceptorChannelBinding(n.bindings))
	return err
}

func (n *node) accept([]string) (string, error) {
	if err := n.acceptConn(); err != nil {
		return "", err
	}
	token, err := n.readToken()
	if err != nil {
		return "", err
	}
	return "", n.establish(token)
}

func (n *node) readToken() ([]byte, error) {
	if err := n.extend(); err != nil {
		return nil, err
	}
	kind, body, err := wire.Read(n.reader)
	if err == nil && kind != wire.Token {
		err = fmt.Errorf("%w: %c while establishing", wire.ErrFrame, kind)
	}
	return body, err
}

// establish exchanges tokens until this side needs no more.
func (n *node) establish(token []byte) error {
	for {
		out, _, err := n.sc.Continue(token)
		if err != nil {
			return err
		}
		if len(out) > 0 {
			if err := wire.Write(n.conn, wire.Token, out); err != nil {
				return err
			}
		}
		if !n.sc.ContinueNeeded() {
			return nil
		}
		if token, err = n.readToken(); err != nil {
			return err
		}
	}
}

func (n *node) info([]string) (string, error) {
	i, err := n.sc.Inquire()
	if err != nil {
		return "", err
	}
	name, _, err := i.InitiatorName.Display()
	if err != nil {
		return "", err
	}
	left := time.Until(i.ExpiresAt.ExpiresAt).Round(time.Second)
	return fmt.Sprintf("%s %t %t %d", name, i.LocallyInitiated, i.FullyEstablished, int(left.Seconds())), nil
}

func (n *node) imports([]string) (string, error) { return strconv.Itoa(n.inner.imports), nil }

func (n *node) collect([]string) (string, error) {
	runtime.GC()
	runtime.GC() // what the first one finalized
	return "", nil
}

func (n *node) close([]string) (string, error) {
	var errs []error
	if n.sc != nil {
		_, err := n.sc.Delete()
		errs = append(errs, err)
		n.sc = nil
	}
	if n.conn != nil {
		errs = append(errs, n.conn.Close())
		n.conn = nil
	}
	return "", errors.Join(errs...)
}

func (n *node) travel([]string) (string, error) {
	token, err := n.sc.Export()
	if err != nil {
		return "", err
	}
	if _, err := n.sc.Delete(); err != nil {
		return "", err
	}
	n.sc, err = n.provider.ImportSecContext(token)
	return strconv.Itoa(len(token)), err
}

func (n *node) export([]string) (string, error) {
	token, err := n.sc.Export()
	return hex.EncodeToString(token), err
}

func (n *node) importToken(args []string) (string, error) {
	token, err := hex.DecodeString(args[0])
	if err != nil {
		return "", err
	}
	sc, err := n.provider.ImportSecContext(token)
	if err != nil {
		return "", err
	}
	n.sc = sc
	return status(nil), nil
}
