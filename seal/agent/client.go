package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// A Client asks an agent. It is a seal.Sealer. Safe for concurrent use. It connects again
// by itself if the agent was restarted, the connection was closed, or this process has
// changed its user. It runs no goroutine. Each call may return the errors of asking:
// ErrAway, ErrImpostor, ErrProtocol, ErrClosed.
type Client struct {
	_ [0]func() // not comparable

	path    string
	timeout time.Duration
	pool    *memsafe.Pool
	owned   bool // the pool is the client's to close
	clock   *boottime.Clock
	suites  []byte        // that it can seal with
	slots   chan struct{} // one for each connection there may be

	mu     sync.Mutex
	idle   []*link // the one used last is last
	closed bool
}

var _ seal.Sealer = (*Client)(nil)

// A Dialer makes clients. The zero value is the recommendation.
type Dialer struct {
	// Timeout bounds each request, with connecting and trying again. A request may get
	// up to an eighth less. Zero: five seconds. A request that gets no answer in time
	// fails with ErrAway or ErrUncertain.
	Timeout time.Duration

	// Pool is the locked memory for keys and opened tokens. Nil: one of
	// memsafe.NewPool(0), which the Client's Close closes.
	Pool *memsafe.Pool
}

// Dial returns a client of the agent that listens at an absolute path, with the
// options of the zero Dialer.
func Dial(path string) (*Client, error) { return new(Dialer).Dial(path) }

// Dial returns a client of the agent that listens at an absolute path, after it has
// connected once. It waits for its turn, until the Timeout, while many others connect.
//
// It trusts the socket only if no user but root, this process's user and the owner of
// the socket's directory could have put it there, and if the directories above vouch for
// that owner. It trusts the agent only if the agent runs as root or as that owner.
// Errors: ErrAway, ErrImpostor, memsafe.ErrLimit.
func (d *Dialer) Dial(path string) (*Client, error) {
	clock, err := boottime.New()
	if err != nil {
		return nil, unavailable(err)
	}
	c := &Client{path: path, timeout: d.Timeout, pool: d.Pool, clock: clock, slots: make(chan struct{}, clientConnections)}
	if c.timeout == 0 {
		c.timeout = defaultTimeout
	}
	for _, s := range suite.All() {
		c.suites = append(c.suites, byte(s))
	}
	l, err := c.connect(c.deadline())
	if err != nil {
		return nil, err
	}
	if c.pool == nil {
		if c.pool, err = memsafe.NewPool(0); err != nil {
			l.close()
			return nil, unavailable(err)
		}
		c.owned = true
	}
	c.idle = append(c.idle, l)
	return c, nil
}

// Close closes the connections, and the pool unless the Dialer brought it. Secrets that
// Open returned are gone with their pool. Reservations and tokens stay good. Close must
// not run beside other calls.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	for _, l := range c.idle {
		l.close()
	}
	c.idle = nil
	if c.owned {
		return c.pool.Close()
	}
	return nil
}

func (c *Client) deadline() time.Time { return time.Now().Add(c.timeout) }

func unavailable(err error) error { return fmt.Errorf("%w: %w", seal.ErrUnavailable, err) }

// Reserve is described at seal.Sealer. It is the one request that is sent again if the
// agent does not answer: a reservation that is not used only takes room until it
// expires. If the audience is a process, it must be in this process's namespace.
// Further errors: ErrRefused, ErrQuota.
func (c *Client) Reserve(req seal.Request) (*seal.Reservation, error) {
	frame, subject, err := reserveRequest(req, c.suites)
	if err != nil {
		return nil, err
	}
	if subject >= 0 {
		defer unix.Close(subject)
	}
	deadline := c.deadline()
	pause := 2 * time.Millisecond
	for try := 1; ; try++ {
		g, err := c.reserve(frame, subject, deadline)
		if err == nil {
			if err = asAsked(g.Start, req, subject); err != nil {
				g.Key.Wipe()
				_ = c.cancel(g.Start, deadline) // or it expires
				return nil, err
			}
			r := new(seal.Reservation)
			return r, r.Adopt(g)
		}
		if !errors.Is(err, ErrAway) || try == reserveTries || time.Until(deadline) < pause {
			return nil, err
		}
		time.Sleep(pause)
		pause *= 16
	}
}

// reserveRequest returns the frame that asks for a reservation, and a descriptor
// of the process that is its audience, or -1.
func reserveRequest(req seal.Request, suites []byte) (frame []byte, subject int, err error) {
	ask := wire.ReserveRequest{
		Lifetime: req.Lifetime, Mechanism: req.Mechanism, Format: []byte(req.Format),
		Suites: suites,
	}
	subject = -1
	if req.Lifetime < 0 {
		return nil, -1, fmt.Errorf("%w: lifetime of %v", seal.ErrRequest, req.Lifetime)
	}
	if req.Audience != (seal.Party{}) {
		if ask.Audience, err = req.Audience.MarshalBinary(); err != nil {
			return nil, -1, err
		}
		if ask.Audience[0] == token.KindProcess {
			if subject, err = subjectOf(ask.Audience[1:]); err != nil {
				return nil, -1, err
			}
			ask.Audience = ask.Audience[:1]
		}
	}
	if frame, err = ask.Marshal(); err != nil {
		if subject >= 0 {
			_ = unix.Close(subject)
		}
		return nil, -1, fmt.Errorf("%w: a field is too long", seal.ErrRequest)
	}
	return frame, subject, nil
}

// asAsked checks that the agent reserved what was asked for. An agent's mistake is found
// before a context is given up. So is a later process with the id of the process asked
// for: subject is the descriptor that the agent was shown.
func asAsked(start []byte, req seal.Request, subject int) error {
	h, _, err := token.ParseHeader(start)
	if err != nil {
		return fmt.Errorf("%w: its reservation is none", ErrProtocol)
	}
	want := req.Audience
	if want == (seal.Party{}) {
		want = seal.User(uint32(os.Geteuid()))
	}
	bin, err := want.MarshalBinary()
	if err != nil {
		return err
	}
	sameAudience := h.Audience.Kind == bin[0]
	switch {
	case !sameAudience:
	case bin[0] != token.KindProcess:
		sameAudience = string(h.Audience.Value) == string(bin[1:])
	case !sameNumber(h.Audience.Value, bin[1:]):
		// The agent knows the process by another number, or it is another process.
		now, _, err := peer.Process(subject)
		if err == nil && now != want {
			err = fmt.Errorf("%w: %w: %v is another one now", seal.ErrRequest, ask.ErrAudience, want)
		}
		if err != nil {
			return err
		}
	}
	if string(h.Format) != req.Format || string(h.Mechanism) != string(req.Mechanism) || !sameAudience {
		if !sameAudience && req.Audience == (seal.Party{}) {
			return fmt.Errorf("%w: it takes user %d for another: is it in another user namespace?", ErrProtocol, os.Geteuid())
		}
		return fmt.Errorf("%w: its reservation is not the one asked for", ErrProtocol)
	}
	return nil
}

// Open is described at seal.Sealer. It is sent once. Further errors: ErrUncertain,
// after which the token may be spent; ErrAway, ErrQuota, ErrProtocol.
func (c *Client) Open(b []byte, formats ...string) (*memsafe.Secret, error) {
	return c.redeem(wire.Open, b, nil, formats)
}

// OpenFrom is described at seal.Sealer. It is sent once, as Open is. An agent
// that is too old for demands answers with ErrProtocol, and nothing is spent.
func (c *Client) OpenFrom(exporters []seal.Party, b []byte, formats ...string) (*memsafe.Secret, error) {
	if len(exporters) == 0 {
		return nil, fmt.Errorf("%w: no exporter is named", seal.ErrRequest)
	}
	return c.redeem(wire.Open, b, exporters, formats)
}

// TakeBack is described at seal.Sealer. It is sent once, as Open is.
func (c *Client) TakeBack(b []byte, formats ...string) (*memsafe.Secret, error) {
	return c.redeem(wire.TakeBack, b, nil, formats)
}

// openRequest returns the frame that asks for a token. Of the formats it names the
// token's own: the agent looks whether it is that, once the token is authentic.
func openRequest(op wire.Op, b []byte, exporters []seal.Party, formats []string) ([]byte, error) {
	if len(exporters) > wire.MaxExporters {
		return nil, fmt.Errorf("%w: %d exporters, at most %d can be demanded", seal.ErrRequest, len(exporters), wire.MaxExporters)
	}
	if len(b) > token.MaxToken {
		return nil, seal.ErrDefective
	}
	t, _ := token.Parse(b) // bytes that are no token go to the agent, which refuses and logs them
	ask := wire.OpenRequest{Token: b}
	if slices.Contains(formats, string(t.Format)) {
		ask.Format = t.Format
	} else if i := slices.IndexFunc(formats, func(f string) bool { return token.ValidFormat([]byte(f)) }); i >= 0 {
		ask.Format = []byte(formats[i]) // the agent refuses it, and its answer names both
	}
	for _, e := range exporters {
		bin, err := e.MarshalBinary()
		if err != nil {
			return nil, err
		}
		ask.Exporters = append(ask.Exporters, bin)
	}
	return ask.Marshal(op)
}

func (c *Client) redeem(op wire.Op, b []byte, exporters []seal.Party, formats []string) (*memsafe.Secret, error) {
	frame, err := openRequest(op, b, exporters, formats)
	if err != nil {
		return nil, err
	}
	// The plain token is shorter than the sealed one, so there is room for it,
	// or for a refusal's text.
	plain, err := c.pool.Alloc(max(len(b), wire.MaxText+8))
	if err != nil {
		return nil, unavailable(err)
	}
	n, err := c.receivePlain(op, frame, plain)
	if err != nil {
		plain.Wipe()
		return nil, c.located(err)
	}
	plain.Truncate(n)
	return plain, nil
}

// located adds to the one ErrDefective that says something which agent was asked.
func (c *Client) located(err error) error {
	if errors.Is(err, seal.ErrDefective) && err != seal.ErrDefective { //nolint:errorlint // that one is wrapped
		return fmt.Errorf("%w (agent at %s)", err, c.path)
	}
	return err
}

func (c *Client) receivePlain(op wire.Op, frame []byte, plain *memsafe.Secret) (int, error) {
	prefix := make([]byte, wire.PlainPrefixSize)
	h, err := c.ask(op, frame, -1, c.deadline(), prefix, plain.Bytes())
	if err != nil {
		return 0, err
	}
	n, err := wire.PlainLength(h, prefix)
	if err != nil {
		return 0, fmt.Errorf("%w: lengths do not agree", ErrProtocol)
	}
	return n, nil
}

// reserve asks once. The key arrives in locked memory of its own.
func (c *Client) reserve(frame []byte, subject int, deadline time.Time) (g ask.Grant, err error) {
	key, err := c.pool.Alloc(token.KeySize)
	if err != nil {
		return g, unavailable(err)
	}
	prefix := make([]byte, wire.KeyPrefixSize)
	suffix := make([]byte, max(2+token.MaxBound+token.CommitmentSize, wire.MaxText+8))
	h, err := c.ask(wire.Reserve, frame, subject, deadline, prefix, key.Bytes(), suffix)
	if err != nil {
		key.Wipe()
		return g, err
	}
	slot, err := c.slotOf(h, prefix, suffix)
	if err != nil {
		key.Wipe()
		return g, err
	}
	return ask.Grant{Start: slot.start, Key: key, Slot: slot}, nil
}

// slotOf reads what came around the key in the answer to a reserve request.
func (c *Client) slotOf(h wire.Header, prefix, suffix []byte) (*agentSlot, error) {
	now, err := c.clock.Now()
	if err != nil {
		return nil, unavailable(err)
	}
	start, err := wire.ParseReserved(h, prefix, token.KeySize, suffix)
	if err != nil {
		return nil, fmt.Errorf("%w: its reservation is none", ErrProtocol)
	}
	head, _, err := token.ParseHeader(start)
	if err != nil {
		return nil, fmt.Errorf("%w: its reservation is none", ErrProtocol)
	}
	return &agentSlot{client: c, start: start, granted: now, expires: head.Expires}, nil
}

// agentSlot is a slot in the agent's register.
type agentSlot struct {
	client  *Client
	start   []byte
	granted time.Duration // when the agent's answer came, since boot
	expires time.Duration
	away    bool // the agent does not answer
}

// Valid asks the agent how the token stands, unless its word is recent: it may have
// been restarted since it reserved, or have retired the epoch, and then nobody could
// open the token, while the context is gone (doc/adr/0018). Without an answer the
// token stays here. An agent that refuses to say how it stands, for its size or for a
// process that has changed its user, has not said that it is worthless: it refuses so
// only after it has found the token authentic, or before it looks.
func (s *agentSlot) Valid(sealed []byte) error {
	now, err := s.client.clock.Now()
	if err != nil {
		return err
	}
	if now >= s.expires {
		return fmt.Errorf("%w: before it was sealed", seal.ErrExpired)
	}
	if now-s.granted < recentGrant {
		return nil
	}
	state, err := s.client.Status(sealed)
	switch {
	case errors.Is(err, ErrQuota), errors.Is(err, seal.ErrUnauthorized):
		return nil
	case errors.Is(err, seal.ErrDefective):
		return fmt.Errorf("its key was retired before it was sealed, or the agent was restarted: %v", err) // no token is defective: none is made
	case err != nil:
		s.away = errors.Is(err, ErrAway)
		return err
	case state == seal.Expired:
		return fmt.Errorf("%w: before it was sealed", seal.ErrExpired)
	case state != seal.Outstanding:
		return fmt.Errorf("%w: its reservation is %v before it was sealed", ErrProtocol, state)
	}
	return nil
}

// Cancel tells the agent, so that the slot is free early. The key was in this process
// alone and no token under it has left, so that no process can open one, whether the
// agent hears of it or not.
func (s *agentSlot) Cancel() error {
	if s.away {
		return nil
	}
	err := s.client.cancel(s.start, s.client.deadline())
	if errors.Is(err, seal.ErrUnavailable) || errors.Is(err, seal.ErrDefective) {
		return nil
	}
	return err
}

func (c *Client) cancel(start []byte, deadline time.Time) error {
	frame, err := wire.MarshalCancel(start)
	if err != nil {
		return err
	}
	_, err = c.askPlainly(wire.Cancel, frame, deadline)
	return err
}

func (s *agentSlot) Release() {}

// State is not known without a question.
func (s *agentSlot) State() ask.State { return ask.Unknown }

// Status asks how a token stands, without spending it, as Status of a seal.Host does.
// The agent tells the token's exporter, its audience, root and its own user; for others
// the error wraps seal.ErrUnauthorized. Further errors wrap seal.ErrDefective, or are
// those of asking.
func (c *Client) Status(b []byte) (seal.State, error) {
	if len(b) > token.MaxToken {
		return seal.Unknown, seal.ErrDefective
	}
	frame, err := wire.MarshalInspect(b)
	if err != nil {
		return seal.Unknown, seal.ErrDefective
	}
	body, err := c.askPlainly(wire.Inspect, frame, c.deadline())
	if err == nil && len(body) != 1 {
		err = ErrProtocol
	}
	if err != nil {
		return seal.Unknown, c.located(err)
	}
	return seal.State(body[0]), nil
}

// An Account is what an agent tells a user of itself.
type Account struct {
	Admin       bool       // this process may rotate and retire, and sees keys
	Outstanding int        // tokens that this user has outstanding
	Limit       int        // tokens that this user may have outstanding
	Suites      []string   // of the agent, the preferred one first
	Keys        []seal.Key // nil unless Admin
}

// Account asks the agent what this user has and may. Its errors are those of asking.
func (c *Client) Account() (*Account, error) {
	frame, err := wire.MarshalStat()
	if err != nil {
		return nil, err
	}
	body, err := c.askPlainly(wire.Stat, frame, c.deadline())
	if err != nil {
		return nil, err
	}
	w, err := wire.ParseStatus(body)
	if err != nil {
		return nil, ErrProtocol
	}
	a := &Account{Admin: w.Admin, Outstanding: int(w.Outstanding), Limit: int(w.Limit)}
	for _, s := range w.Suites {
		a.Suites = append(a.Suites, suite.Suite(s).String())
	}
	for _, e := range w.Epochs {
		a.Keys = append(a.Keys, seal.Key{
			ID: e.ID, Suite: suite.Suite(e.Suite).String(), Seals: e.Seals, Age: e.Age,
			Outstanding: int(e.Outstanding), Capacity: int(e.Limit), MaxLifetime: e.MaxLifetime,
		})
	}
	return a, nil
}

// Keys lists the agent's living keys, as Keys of a seal.Host does. Only root and the
// agent's own user may; for others the error wraps ErrRefused. Further errors are those
// of asking.
func (c *Client) Keys() ([]seal.Key, error) {
	a, err := c.Account()
	if err != nil {
		return nil, err
	}
	if !a.Admin {
		return nil, fmt.Errorf("%w: it tells its keys only to root and to its own user", ErrRefused)
	}
	return a.Keys, nil
}

// Rotate has the agent make the next key of each suite, as Rotate of a seal.Host does.
// Only root and the agent's own user may; for others the error wraps ErrRefused.
func (c *Client) Rotate() error {
	frame, err := wire.MarshalRotate(0)
	if err == nil {
		_, err = c.askPlainly(wire.Rotate, frame, c.deadline())
	}
	return err
}

// Retire has the agent end a key, as Retire of a seal.Host does. Only root and the
// agent's own user may; for others the error wraps ErrRefused. It wraps ErrUnknownEpoch
// if there is no living key with this id.
func (c *Client) Retire(id [16]byte) error {
	frame, err := wire.MarshalRetire(id)
	if err == nil {
		_, err = c.askPlainly(wire.Retire, frame, c.deadline())
	}
	return err
}

// String says which agent this is.
func (c *Client) String() string { return "agent " + c.path }
