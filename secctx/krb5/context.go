package krb5

import (
	"runtime"
	"sync"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/permsg"
)

// A state is a stage in a context's life. It only grows.
type state int

const (
	stateNew         state = iota // no Continue yet
	stateWaiting                  // an initiator that waits for the AP-REP
	stateEstablished              // per-message calls work
	stateGone                     // exported, deleted or failed: nothing works, all is wiped
)

// A secContext is a gssapi.SecContext. Every call passes its gate. Per-message
// calls and questions share the gate. A call that changes the state holds it
// alone. So Export and Delete wait for calls under way, and later calls find the
// context gone.
type secContext struct {
	p         *Provider
	initiator bool
	secrets   *secrets

	gate  sync.RWMutex
	state state
	setup *setup // nil once established or gone
	facts facts
}

// setup is what only the establishment needs.
type setup struct {
	cred     gssapi.Credential
	bindings [16]byte // hash of the channel bindings
	bound    bool     // there are channel bindings
	target   *name
	flags    gssapi.ContextFlag // asked for
	lifetime time.Duration

	// An initiator that waits for the AP-REP.
	etype  etype.ID
	ctime  time.Time
	seq    uint32
	result facts
}

// facts are what Inquire tells of an established context. They go into the
// interprocess token.
type facts struct {
	initiator *name
	acceptor  *name
	flags     gssapi.ContextFlag
	expires   time.Time // whole seconds

	// delegated is what the client delegates, nil for nothing. It does not go into
	// the interprocess token, nor does its flag.
	delegated *credential
}

// secrets are all keys of a context. They are a separate object, so that a cleanup
// of the context can hold them. They hold the arena, which must outlive the memory
// that was cut from it.
type secrets struct {
	arena   *arena
	mu      sync.Mutex
	key     *memsafe.Secret // ticket session key, while an AP-REP is awaited
	subkey  *memsafe.Secret // the initiator's, likewise
	session *permsg.Session // once established
}

func (s *secrets) wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key.Wipe()
	s.subkey.Wipe()
	if s.session != nil {
		s.session.Wipe()
	}
	s.key, s.subkey, s.session = nil, nil, nil
}

// newContext makes a context. Its secrets are wiped if it is dropped without a
// Delete.
func (p *Provider) newContext(initiator bool) *secContext {
	c := &secContext{p: p, initiator: initiator, secrets: &secrets{arena: p.arena}}
	runtime.AddCleanup(c, (*secrets).wipe, c.secrets)
	return c
}

// InitSecContext makes an initiator's context (RFC 2743 section 2.2.1). The first
// Continue takes an empty token and returns the first token. Without a credential
// the configured credential cache is read.
//
// Of the flags it honours mutual, replay and sequence. Confidentiality and
// integrity are always there. With gssapi.ContextFlagDeleg it delegates if it can.
// With gssapi.ContextFlagDelegPolicy it does so if the KDC trusts the service with
// it. The context's flags say whether it delegated: see the package documentation.
//
// Errors: GSS_S_BAD_NAME, GSS_S_BAD_MECH, GSS_S_BAD_BINDINGS,
// GSS_S_DEFECTIVE_CREDENTIAL; GSS_S_UNAVAILABLE for DCE style; GSS_S_FAILURE for a
// negative lifetime or a provider that was released.
func (p *Provider) InitSecContext(n gssapi.GssName, opts ...gssapi.InitSecContextOption) (gssapi.SecContext, error) {
	if err := p.alive(); err != nil {
		return nil, err
	}
	var o gssapi.InitSecContextOptions
	for _, opt := range opts {
		opt(&o)
	}
	target, err := ownName(n)
	if err != nil {
		return nil, err
	}
	switch {
	case target == nil:
		return nil, fail(gssapi.ErrBadName, nil)
	case !isKrb5(o.Mech):
		return nil, fail(gssapi.ErrBadMech, nil)
	case o.Flags&gssapi.ContextFlagDceStyle != 0:
		return nil, failf(gssapi.ErrUnavailable, "DCE style is not supported")
	case o.Lifetime < 0:
		return nil, failf(gssapi.ErrFailure, "lifetime %v", o.Lifetime)
	}
	s := &setup{cred: o.Credential, target: target, flags: o.Flags, lifetime: o.Lifetime}
	if err := s.bind(o.ChannelBinding); err != nil {
		return nil, err
	}
	if err := ownCredential(o.Credential); err != nil {
		return nil, err
	}
	c := p.newContext(true)
	c.setup = s
	return c, nil
}

// AcceptSecContext makes an acceptor's context (RFC 2743 section 2.2.2). Continue
// takes the initiator's token. Without a credential the configured keytab is read.
//
// Channel bindings that are given must be the initiator's too. An initiator that
// sent none is refused, unless [Config.BindingsIfSent] is set.
//
// Errors: GSS_S_DEFECTIVE_CREDENTIAL, GSS_S_BAD_BINDINGS; GSS_S_FAILURE for a
// provider that was released.
func (p *Provider) AcceptSecContext(opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	if err := p.alive(); err != nil {
		return nil, err
	}
	var o gssapi.AcceptSecContextOptions
	for _, opt := range opts {
		opt(&o)
	}
	if err := ownCredential(o.Credential); err != nil {
		return nil, err
	}
	s := &setup{cred: o.Credential}
	if err := s.bind(o.ChannelBinding); err != nil {
		return nil, err
	}
	if o.Credential == nil {
		if dir, err := p.config.replayCache(""); err == nil {
			p.replay.prepare(dir, p.config.ReplayCapacity, p.now)
		}
	}
	c := p.newContext(false)
	c.setup = s
	return c, nil
}

func ownCredential(c gssapi.Credential) error {
	if c == nil {
		return nil
	}
	if own, ok := c.(*credential); !ok || own == nil {
		return fail(gssapi.ErrDefectiveCredential, ErrForeign)
	}
	return nil
}

// ContinueNeeded reports whether the context waits for a token, or for its
// first Continue.
func (c *secContext) ContinueNeeded() bool {
	c.gate.RLock()
	defer c.gate.RUnlock()
	return c.state == stateNew || c.state == stateWaiting
}

// Continue takes the context one step further. An initiator's first call has an
// empty token, all others have the peer's. An error ends the context and wipes it.
// A token beside an error is for the peer and tells it why. Errors:
//
//   - GSS_S_DEFECTIVE_TOKEN, GSS_S_BAD_MIC, GSS_S_BAD_BINDINGS, GSS_S_BAD_MECH
//   - GSS_S_NO_CRED, GSS_S_DEFECTIVE_CREDENTIAL, GSS_S_CREDENTIALS_EXPIRED
//   - GSS_S_UNAUTHORIZED for a client or a path of realms that is refused
//   - GSS_S_UNAVAILABLE for DCE style and user-to-user authentication
//   - GSS_S_FAILURE with a [Code]
//   - GSS_S_NO_CONTEXT for a context that is gone: it never starts anew
func (c *secContext) Continue(tok []byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	c.gate.Lock()
	defer c.gate.Unlock()
	var out []byte
	var err error
	switch {
	case c.state == stateGone:
		return nil, gssapi.SecContextInfoPartial{}, fail(gssapi.ErrNoContext, ErrGone)
	case c.state == stateEstablished:
		return nil, gssapi.SecContextInfoPartial{}, fail(gssapi.ErrFailure, ErrEstablished)
	case !c.initiator:
		out, err = c.accept(tok)
	case c.state == stateNew:
		out, err = c.initiate(tok)
	default:
		err = c.finish(tok)
	}
	if err != nil {
		c.end()
		return out, gssapi.SecContextInfoPartial{}, err
	}
	return out, c.partial(), nil
}

// end wipes the context. The gate is held.
func (c *secContext) end() {
	c.state, c.setup, c.facts = stateGone, nil, facts{}
	c.secrets.wipe()
}

// establish ends the setup. The gate is held.
func (c *secContext) establish(f facts, s *permsg.Session) {
	c.secrets.mu.Lock()
	c.secrets.session = s
	c.secrets.mu.Unlock()
	c.state, c.setup, c.facts = stateEstablished, nil, f
}

// Delete wipes the context (RFC 2743 section 2.2.3). It waits for calls under way.
// There is never a token for the peer (RFC 4121 section 4.3). On a context that is
// gone it does nothing.
func (c *secContext) Delete() ([]byte, error) {
	if c == nil {
		return nil, nil
	}
	c.gate.Lock()
	defer c.gate.Unlock()
	c.end()
	return nil, nil
}

// ProcessToken takes a peer's context deletion token, which is empty in this
// mechanism (RFC 4121 section 4.3). Any other token is GSS_S_DEFECTIVE_TOKEN.
func (c *secContext) ProcessToken(tok []byte) error {
	c.gate.RLock()
	defer c.gate.RUnlock()
	if err := c.live(); err != nil {
		return err
	}
	if len(tok) > 0 {
		return failf(gssapi.ErrDefectiveToken, "a context deletion token is empty")
	}
	return nil
}

// live returns an error unless the context is established. It may have expired.
// The gate is held.
func (c *secContext) live() error {
	switch c.state {
	case stateEstablished:
		return nil
	case stateNew:
		return fail(gssapi.ErrNoContext, ErrNotStarted)
	case stateWaiting:
		return fail(gssapi.ErrNoContext, ErrNotEstablished)
	}
	return fail(gssapi.ErrNoContext, ErrGone)
}

// unexpired is live, and returns GSS_S_CONTEXT_EXPIRED for an expired context. The
// gate is held.
func (c *secContext) unexpired() error {
	if err := c.live(); err != nil {
		return err
	}
	if !c.p.now().Before(c.facts.expires) {
		return fail(gssapi.ErrContextExpired, nil)
	}
	return nil
}
