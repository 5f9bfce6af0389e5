package secctx

import (
	"errors"
	"sync"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx/internal/blind"
)

// state is where a handle's context is.
type state uint8

const (
	live     state = iota // here
	exported              // in a token, or in the process that imported the token
	gone                  // in no process: ErrLost
	deleted               // ended by the caller
)

// secContext is a wrapped context without its extensions, which combine adds.
//
// Every call passes the gate. Per-message calls share the gate. A call that changes the
// context as a whole, or the names that the mechanism keeps, has the gate alone. So
// Export begins when the calls under way have ended, and later calls find no context.
type secContext struct {
	p        *provider
	acceptor bool // made by AcceptSecContext

	gate  sync.RWMutex
	state state
	inner gssapi.SecContext

	// kept are contexts that the mechanism exported. They own names and
	// credentials that the caller may still hold, so they live until Delete.
	kept []gssapi.SecContext

	established  bool // the mechanism said last that both sides are done
	transferable bool
	mech         gssapi.GssMech // or nil
	named        bool           // the caller may hold names of inner
	settled      bool           // inner was imported, or tried to export: Continue must not reach it

	// The token that the context is in, while it is exported.
	sealed [tagSize]byte     // its tail
	slot   *seal.Reservation // its place in the register
}

// base returns the context without its extensions, for Export, TakeBack and Status.
func (c *secContext) base() *secContext { return c }

// refusal returns the error of a handle without a context, or nil.
func (c *secContext) refusal() error {
	switch c.state {
	case live:
		return nil
	case exported:
		return errExported
	case deleted:
		return errDeleted
	}
	return errLost
}

// begin admits a call beside others. Unless it returns an error, the caller must call end.
func (c *secContext) begin() error {
	c.gate.RLock()
	err := c.refusal()
	if err != nil {
		c.gate.RUnlock()
	}
	return err
}

func (c *secContext) end() { c.gate.RUnlock() }

// lock admits a call by itself. Unless it returns an error, the caller must call unlock.
func (c *secContext) lock() error {
	c.gate.Lock()
	err := c.refusal()
	if err != nil {
		c.gate.Unlock()
	}
	return err
}

func (c *secContext) unlock() { c.gate.Unlock() }

// learn keeps what the mechanism says about the context. Export cannot ask again,
// because Inquire of go-gssapi-c releases the names that it gave out.
func (c *secContext) learn(info *gssapi.SecContextInfoPartial) {
	c.established = info.FullyEstablished && !c.inner.ContinueNeeded()
	c.transferable = info.Transferrable
	c.mech = optional(info.Mech)
}

func (c *secContext) Continue(token []byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	if err := c.lock(); err != nil {
		return nil, gssapi.SecContextInfoPartial{}, err
	}
	defer c.unlock()
	if c.settled {
		return nil, gssapi.SecContextInfoPartial{}, errEstablished
	}
	c.named = true
	out, info, err := c.inner.Continue(token)
	if err != nil {
		return out, gssapi.SecContextInfoPartial{}, err
	}
	c.learn(&info)
	c.disclose(&info)
	if c.acceptor && (!c.established || info.InitiatorName == nil) && blind.Handler() {
		_, _ = c.inner.Delete() // the handler deletes no context that failed
		c.state = deleted
		return nil, gssapi.SecContextInfoPartial{}, errBlindHandler
	}
	return out, info, nil
}

// disclose changes what the mechanism says into what callers may rely on. An absent name
// or credential becomes nil: go-gssapi-c returns nil pointers in the interfaces, which
// compare as not nil. Before the context is established, an acceptor has authenticated
// no name and taken no credential (RFC 2743 2.2.6: names are valid if the context is
// open).
func (c *secContext) disclose(info *gssapi.SecContextInfoPartial) {
	info.FullyEstablished = c.established
	info.InitiatorName = optional(info.InitiatorName)
	info.DelegatedCredential = c.p.credential(info.DelegatedCredential)
	info.Mech = c.mech
	if c.acceptor && !c.established {
		info.InitiatorName, info.DelegatedCredential = nil, nil
	}
}

func (c *secContext) ContinueNeeded() bool {
	if c.begin() != nil {
		return false
	}
	defer c.end()
	return c.inner.ContinueNeeded()
}

func (c *secContext) Inquire() (*gssapi.SecContextInfo, error) {
	if err := c.lock(); err != nil {
		return nil, err
	}
	defer c.unlock()
	c.named = true
	return c.inquire()
}

// inquire asks the mechanism, which may release the names that it gave out.
func (c *secContext) inquire() (*gssapi.SecContextInfo, error) {
	info, err := answer(c.inner.Inquire())
	if err != nil {
		return nil, err
	}
	c.learn(&info.SecContextInfoPartial)
	c.disclose(&info.SecContextInfoPartial)
	info.AcceptorName = optional(info.AcceptorName)
	return info, nil
}

// Delete ends the context. After an export Delete ends what the mechanism kept, and
// returns no token for the peer: the context itself continues where its token is
// imported. A second Delete does nothing.
func (c *secContext) Delete() ([]byte, error) {
	c.gate.Lock()
	defer c.gate.Unlock()
	var token []byte
	var errs []error
	if c.state == live {
		var err error
		token, err = c.inner.Delete()
		errs = append(errs, err)
	} else if c.state != deleted {
		errs = append(errs, deleteKept(c.inner))
	}
	for _, k := range c.kept {
		errs = append(errs, deleteKept(k))
	}
	c.state, c.kept, c.slot = deleted, nil, nil
	return token, errors.Join(errs...)
}

// deleteKept frees what the mechanism kept of a context that it gave up. An error that
// says that there is no context is expected.
func deleteKept(sc gssapi.SecContext) error {
	if _, err := sc.Delete(); err != nil && !errors.Is(err, gssapi.ErrNoContext) {
		return err
	}
	return nil
}

func (c *secContext) ProcessToken(token []byte) error {
	if err := c.lock(); err != nil {
		return err
	}
	defer c.unlock()
	return c.inner.ProcessToken(token)
}

func (c *secContext) ExpiresAt() (*gssapi.GssLifetime, error) {
	if err := c.begin(); err != nil {
		return nil, err
	}
	defer c.end()
	return answer(c.inner.ExpiresAt())
}

func (c *secContext) WrapSizeLimit(conf bool, max uint, qop gssapi.QoP) (uint, error) {
	if err := c.begin(); err != nil {
		return 0, err
	}
	defer c.end()
	return c.inner.WrapSizeLimit(conf, max, qop)
}

func (c *secContext) GetMIC(msg []byte, qop gssapi.QoP) ([]byte, error) {
	if err := c.begin(); err != nil {
		return nil, err
	}
	defer c.end()
	return c.inner.GetMIC(msg, qop)
}

func (c *secContext) VerifyMIC(msg, mic []byte) (gssapi.QoP, error) {
	if err := c.begin(); err != nil {
		return 0, err
	}
	defer c.end()
	return c.inner.VerifyMIC(msg, mic)
}

func (c *secContext) Wrap(msg []byte, conf bool, qop gssapi.QoP) ([]byte, bool, error) {
	if err := c.begin(); err != nil {
		return nil, false, err
	}
	defer c.end()
	return c.inner.Wrap(msg, conf, qop)
}

func (c *secContext) Unwrap(msg []byte) ([]byte, bool, gssapi.QoP, error) {
	if err := c.begin(); err != nil {
		return nil, false, 0, err
	}
	defer c.end()
	return c.inner.Unwrap(msg)
}
