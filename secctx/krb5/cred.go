package krb5

import (
	"errors"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
)

// credential is a gssapi.Credential: an acceptor's keytab, an initiator's
// tickets, or both. It reads its files again when they change, so a new key or a
// renewed ticket needs no new credential.
type credential struct {
	p    *Provider
	want *name // as it was asked for, nil: any

	mu       sync.Mutex
	released bool
	acceptor *acceptorCred  // nil: initiates only
	tickets  *initiatorCred // nil: accepts only
}

// acceptorCred never changes. The content of its vault does.
type acceptorCred struct {
	want   *name // services that may be accepted, nil: all in the keytab
	keys   *vault[[]keytab.Entry]
	replay string // directory
}

// AcquireCredential makes a credential (RFC 2743 section 2.1.1) from the
// configured stores. An acceptor's keys come from the keytab. An initiator's
// tickets come from the credential cache; a Granter can get them with the client
// keytab instead.
//
// A name limits an acceptor to these services of the keytab. An initiator's name
// must be the cache's client, at every use: if the cache becomes another
// client's, uses of the credential return GSS_S_NO_CRED. The lifetime has no
// effect, since keys do not expire and tickets have their own end.
//
// The caller releases the credential. Errors: GSS_S_NO_CRED,
// GSS_S_DEFECTIVE_CREDENTIAL, GSS_S_CREDENTIALS_EXPIRED, GSS_S_UNAVAILABLE,
// GSS_S_BAD_MECH, GSS_S_BAD_NAME.
func (p *Provider) AcquireCredential(n gssapi.GssName, mechs []gssapi.GssMech, usage gssapi.CredUsage, lifetime *gssapi.GssLifetime) (gssapi.Credential, error) {
	return p.AcquireCredentialFrom(n, mechs, usage, lifetime)
}

// acquire is AcquireCredentialFrom with parsed options.
func (p *Provider) acquire(n gssapi.GssName, mechs []gssapi.GssMech, usage gssapi.CredUsage, from credStore) (*credential, error) {
	if err := p.alive(); err != nil {
		return nil, err
	}
	if mechs != nil && !slices.ContainsFunc(mechs, isKrb5) {
		return nil, fail(gssapi.ErrBadMech, nil)
	}
	c := &credential{p: p}
	var err error
	if c.want, err = ownName(n); err != nil {
		return nil, err
	}
	if usage != gssapi.CredUsageInitiateOnly {
		if c.acceptor, err = p.openAcceptor(c.want, from); err != nil {
			return nil, err
		}
	}
	if usage != gssapi.CredUsageAcceptOnly {
		if c.tickets, err = p.openInitiator(c.want, from); err != nil {
			_ = c.Release()
			return nil, err
		}
	}
	return c, nil
}

// ownName returns n as a name of this provider, nil for nil. It returns
// GSS_S_BAD_NAME for a name of another provider.
func ownName(n gssapi.GssName) (*name, error) {
	if n == nil {
		return nil, nil
	}
	own, ok := n.(*name)
	if !ok || own == nil {
		return nil, fail(gssapi.ErrBadName, ErrForeign)
	}
	return own, nil
}

func (p *Provider) openAcceptor(want *name, from credStore) (*acceptorCred, error) {
	p.mu.Lock()
	override := p.keytab
	p.mu.Unlock()
	if k := from[gssapi.CredStoreServerKeytab]; k != "" {
		override = k
	}
	path, err := p.config.keytab(override)
	if err != nil {
		return nil, err
	}
	replay, err := p.config.replayCache(from[gssapi.CredStoreRCache])
	if err != nil {
		return nil, err
	}
	keys, err := openVault(p.arena, fileAt[[]keytab.Entry](path, p.config.owners()), keytabs)
	if err != nil {
		return nil, storeError(err)
	}
	return p.checkAcceptor(&acceptorCred{want: want, keys: keys, replay: replay})
}

// checkAcceptor returns a, or GSS_S_NO_CRED if a has no key that may be used.
func (p *Provider) checkAcceptor(a *acceptorCred) (*acceptorCred, error) {
	err := a.keys.use(func(entries []keytab.Entry) error {
		why := errors.New("no key for the name in the keytab")
		for i := range entries {
			switch e := &entries[i]; {
			case p.usableKey(e, a.want):
				return nil
			case a.want == nil || a.want.matches(e.Principal):
				why = p.unsupported("key in the keytab", e.Key.EType)
			}
		}
		return failf(gssapi.ErrNoCred, "%w: %w", KRB_AP_ERR_NOKEY, why)
	})
	if err != nil {
		a.keys.wipe()
		return nil, err
	}
	p.replay.prepare(a.replay, p.config.ReplayCapacity, p.now)
	return a, nil
}

func (p *Provider) usableKey(e *keytab.Entry, want *name) bool {
	return p.permits(e.Key.EType) && (want == nil || want.matches(e.Principal))
}

// KeytabCredential makes an acceptor's credential from the content of a keytab,
// for services whose keys are not in a file. It copies data, which the caller
// wipes. A name limits the acceptor to these services; nil stands for all. The
// caller releases the credential. Errors are those of AcquireCredential.
func (p *Provider) KeytabCredential(n gssapi.GssName, data []byte) (gssapi.Credential, error) {
	want, err := ownName(n)
	if err != nil {
		return nil, err
	}
	replay, err := p.config.replayCache("")
	if err != nil {
		return nil, err
	}
	keys, err := holdVault(p.arena, data, keytabs)
	if err != nil {
		return nil, storeError(err)
	}
	a, err := p.checkAcceptor(&acceptorCred{want: want, keys: keys, replay: replay})
	if err != nil {
		return nil, err
	}
	return &credential{p: p, want: want, acceptor: a}, nil
}

// CCacheCredential makes an initiator's credential from the content of a
// credential cache. It copies data, which the caller wipes. The caller releases
// the credential. Errors are those of AcquireCredential.
func (p *Provider) CCacheCredential(data []byte) (gssapi.Credential, error) {
	v, err := holdVault(p.arena, data, ccaches)
	if err != nil {
		return nil, storeError(err)
	}
	return &credential{p: p, tickets: newInitiatorCred(v)}, nil
}

// parts returns the acceptor's and the initiator's part, nil if there is none.
func (c *credential) parts() (*acceptorCred, *initiatorCred, error) {
	if c == nil {
		return nil, nil, fail(gssapi.ErrNoCred, nil)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.released {
		return nil, nil, fail(gssapi.ErrNoCred, ErrReleased)
	}
	return c.acceptor, c.tickets, nil
}

// Release wipes the keys (RFC 2743 section 2.1.2). Contexts that were made with
// the credential are not affected. A second Release does nothing.
func (c *credential) Release() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released = true
	if c.acceptor != nil {
		c.acceptor.keys.wipe()
	}
	if c.tickets != nil {
		c.tickets.wipe()
	}
	c.acceptor, c.tickets = nil, nil
	return nil
}

// Inquire describes the credential (RFC 2743 section 2.1.3). An acceptor's keys do
// not expire. The initiator's time is when the ticket-granting ticket expires, by
// this host's clock. If no such ticket is alive, it is when the last ticket
// expires.
func (c *credential) Inquire() (*gssapi.CredInfo, error) {
	acceptor, tickets, err := c.parts()
	if err != nil {
		return nil, err
	}
	info := &gssapi.CredInfo{
		NameType: gssapi.GSS_NO_NAME,
		Usage:    gssapi.CredUsageInitiateOnly,
		Mechs:    []gssapi.GssMech{gssapi.GSS_MECH_KRB5},
	}
	if acceptor != nil {
		info.Usage = gssapi.CredUsageAcceptOnly
		info.AcceptorExpiry.Status = gssapi.GssLifetimeIndefinite
	}
	if acceptor != nil && tickets != nil {
		info.Usage = gssapi.CredUsageInitiateAndAccept
	}
	if tickets != nil {
		client, expiry, err := tickets.inquire(c.p.now())
		if err != nil {
			return nil, err
		}
		info.InitiatorExpiry = lifetime(expiry, c.p.now())
		info.Name, info.NameType = client, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME
	}
	if c.want != nil {
		info.Name, info.NameType, _ = c.want.Display()
	}
	return info, nil
}

// lifetime describes the time until expiry. A zero expiry stands for no end.
func lifetime(expiry, now time.Time) gssapi.GssLifetime {
	switch {
	case expiry.IsZero():
		return gssapi.GssLifetime{Status: gssapi.GssLifetimeIndefinite}
	case !now.Before(expiry):
		return gssapi.GssLifetime{Status: gssapi.GssLifetimeExpired}
	}
	return gssapi.GssLifetime{Status: gssapi.GssLifetimeAvailable, ExpiresAt: expiry}
}

// InquireByMech is Inquire, since there is one mechanism (RFC 2743 section 2.1.5).
// It returns GSS_S_BAD_MECH for another mechanism.
func (c *credential) InquireByMech(mech gssapi.GssMech) (*gssapi.CredInfo, error) {
	if !isKrb5(mech) {
		return nil, fail(gssapi.ErrBadMech, nil)
	}
	return c.Inquire()
}

// Add is AddFrom with the configured stores (RFC 2743 section 2.1.4).
func (c *credential) Add(n gssapi.GssName, mech gssapi.GssMech, usage gssapi.CredUsage, initiatorLifetime, acceptorLifetime *gssapi.GssLifetime, mutate bool) (gssapi.Credential, error) {
	return c.AddFrom(n, mech, usage, initiatorLifetime, acceptorLifetime, mutate)
}

// noFile reports whether a store does not exist, so that the next one may serve.
func noFile(err error) bool { return errors.Is(err, fs.ErrNotExist) }
