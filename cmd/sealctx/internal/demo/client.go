package demo

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5"
)

// A Client is an initiator: it knows nothing of sealctx.
type Client struct {
	conn net.Conn
	sc   gssapi.SecContext
	sent int

	quit atomic.Bool
	done chan error // the end of what Begin began
	from int        // its first message
}

// ConnectArgs says where to and with which tickets.
type ConnectArgs struct{ Addr, Service, CCache string }

// Connect establishes a context, with mutual authentication, replay detection
// and sequencing.
func (c *Client) Connect(args ConnectArgs, _ *struct{}) error {
	if c.conn != nil { // of a session before
		c.conn.Close()
	}
	p, err := krb5.New(&krb5.Config{CCache: args.CCache})
	if err != nil {
		return err
	}
	name, err := p.ImportName(args.Service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
	if err != nil {
		return err
	}
	flags := gssapi.ContextFlagMutual | gssapi.ContextFlagReplay | gssapi.ContextFlagSequence |
		gssapi.ContextFlagConf | gssapi.ContextFlagInteg
	c.sc, err = p.InitSecContext(name, gssapi.WithInitiatorFlags(flags))
	if err != nil {
		return err
	}
	if c.conn, err = net.Dial("tcp", args.Addr); err != nil {
		return err
	}
	var token []byte
	for c.sc.ContinueNeeded() {
		if token, _, err = c.sc.Continue(token); err != nil {
			return err
		}
		if len(token) > 0 {
			if err := writeFrame(c.conn, frameToken, token); err != nil {
				return err
			}
		}
		if c.sc.ContinueNeeded() {
			if _, token, err = readFrame(c.conn); err != nil {
				return err
			}
		}
	}
	return nil
}

// Exchanged counts messages, each of them answered in kind.
type Exchanged struct{ First, Last, Sealed, Signed int }

// Exchange sends n messages, sealed and signed by turns, and checks each answer:
// the context of the other side must be the one that got all messages before,
// or sequencing shows it.
func (c *Client) Exchange(n int, reply *Exchanged) error {
	from := c.sent + 1
	for range n {
		if err := c.one(); err != nil {
			return err
		}
	}
	*reply = exchanged(from, c.sent)
	return nil
}

// exchanged counts: messages with odd numbers are sealed.
func exchanged(first, last int) Exchanged {
	signed := last/2 - (first-1)/2
	return Exchanged{First: first, Last: last, Sealed: last - first + 1 - signed, Signed: signed}
}

func (c *Client) one() error {
	c.sent++
	kind := byte(frameSealed)
	if c.sent%2 == 0 {
		kind = frameSigned
	}
	if err := c.exchange(kind, fmt.Sprintf("message %d: pay 100 to Bob", c.sent)); err != nil {
		return fmt.Errorf("message %d: %w", c.sent, err)
	}
	return nil
}

// Begin exchanges messages, as Exchange does, until End.
func (c *Client) Begin(_ struct{}, _ *struct{}) error {
	c.done, c.from = make(chan error, 1), c.sent+1
	go func() {
		var err error
		for err == nil && !c.quit.Load() {
			err = c.one()
		}
		c.done <- err
	}()
	return nil
}

// End ends what Begin began, after the message under way.
func (c *Client) End(_ struct{}, reply *Exchanged) error {
	c.quit.Store(true)
	if err := <-c.done; err != nil {
		return err
	}
	*reply = exchanged(c.from, c.sent)
	return nil
}

func (c *Client) exchange(kind byte, text string) error {
	wrapped, sealed, err := c.sc.Wrap([]byte(text), kind == frameSealed, 0)
	if err != nil {
		return err
	}
	if sealed != (kind == frameSealed) {
		return errors.New("the mechanism did not protect it as asked")
	}
	if err := writeFrame(c.conn, kind, wrapped); err != nil {
		return err
	}
	gotKind, body, err := readFrame(c.conn)
	if err != nil {
		return err
	}
	answer, sealed, _, err := c.sc.Unwrap(body)
	switch {
	case err != nil: // a gap, a duplicate or a forgery
		return err
	case gotKind != kind || sealed != (kind == frameSealed):
		return errors.New("the answer is protected otherwise than the question")
	case string(answer) != answerTo(text):
		return fmt.Errorf("the answer is %q", answer)
	}
	return nil
}

func answerTo(text string) string { return "done: " + text }
