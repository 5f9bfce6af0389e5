package krb5

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccstore"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// initiatorCred is an initiator's tickets: those of a cache, and those that a
// Granter got since. It also holds what a Granter needs.
type initiatorCred struct {
	cache  *vault[*ccache.Cache] // nil: there is none, only a client keytab
	store  *ccstore.Store        // nil: the cache is in memory
	keytab string                // client keytab, empty for none
	want   *name                 // the client that was asked for, nil for any
	got    *grantedTickets
}

// grantedTickets is apart from initiatorCred, so that a cleanup can hold it.
type grantedTickets struct {
	mu     sync.Mutex
	all    []*serviceTicket
	closed bool
}

// maxGranted is how many granted tickets one credential keeps.
const maxGranted = 256

func (g *grantedTickets) wipe() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.all {
		t.key.Wipe()
	}
	g.all, g.closed = nil, true
}

// add keeps t, in place of the oldest ticket if there are too many.
func (g *grantedTickets) add(t *serviceTicket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		t.key.Wipe()
		return
	}
	if len(g.all) == maxGranted {
		g.all[0].key.Wipe()
		g.all = g.all[1:]
	}
	g.all = append(g.all, t)
}

// A serviceTicket is a ticket to make an AP-REQ of, with its session key.
type serviceTicket struct {
	client  kmsg.Principal
	service kmsg.Principal
	etype   etype.ID
	key     *memsafe.Secret
	flags   uint32        // kmsg's ticket flags
	end     time.Time     // by this host's clock
	offset  time.Duration // how far the KDC's clock is ahead of it
	encoded []byte
}

func (t *serviceTicket) copyTo(a *arena) (*serviceTicket, error) {
	d := *t
	var err error
	d.key, err = a.copy(t.key.Bytes())
	return &d, err
}

func newInitiatorCred(v *vault[*ccache.Cache]) *initiatorCred {
	i := &initiatorCred{cache: v, got: new(grantedTickets)}
	runtime.AddCleanup(i, (*grantedTickets).wipe, i.got)
	return i
}

func (i *initiatorCred) wipe() {
	if i.cache != nil {
		i.cache.wipe()
	}
	i.got.wipe()
}

func (p *Provider) openInitiator(want *name, from credStore) (*initiatorCred, error) {
	store, err := p.ccacheStore(from)
	if err != nil {
		return nil, err
	}
	keys := ""
	if p.config.Granter != nil {
		if keys, err = p.config.clientKeytab(from[gssapi.CredStoreClientKeytab]); err != nil {
			return nil, err
		}
	}
	v, err := openVault(p.arena, p.arena.cacheOf(store, p.config.owners()), ccaches)
	if err != nil {
		if keys == "" || !noFile(err) {
			return nil, storeError(err)
		}
		v = nil
	}
	i := newInitiatorCred(v)
	i.store, i.keytab, i.want = store, keys, want
	if err := p.checkInitiator(i); err != nil {
		i.wipe()
		return nil, err
	}
	return i, nil
}

// ccacheStore returns the credential cache that the option names. Without the
// option it is SetCCacheName's, or the configured one.
func (p *Provider) ccacheStore(from credStore) (*ccstore.Store, error) {
	p.mu.Lock()
	override := p.ccache
	p.mu.Unlock()
	if c := from[gssapi.CredStoreCCache]; c != "" {
		override = c
	}
	return p.config.ccache(override)
}

// checkInitiator returns an error unless the cache is of the client that was
// asked for, and holds a ticket that has not expired or may be replaced with the
// client keytab.
func (p *Provider) checkInitiator(i *initiatorCred) error {
	if i.cache == nil {
		return nil
	}
	return i.use(func(c *ccache.Cache) error {
		end := cacheEnd(c, p.now())
		switch {
		case i.keytab != "" || p.now().Before(end):
			return nil
		case end.IsZero():
			return failf(gssapi.ErrNoCred, "%w: the credential cache of %s holds none", ErrNoTicket, c.Client)
		}
		return failf(gssapi.ErrCredentialsExpired, "%w: the cache's last on %s", KRB_AP_ERR_TKT_EXPIRED, end.UTC().Format(time.RFC3339))
	})
}

// use calls f with the cache. It returns GSS_S_NO_CRED if the cache has become
// another client's.
func (i *initiatorCred) use(f func(*ccache.Cache) error) error {
	return i.cache.use(func(c *ccache.Cache) error {
		if i.want != nil && !i.want.matches(c.Client) {
			return failf(gssapi.ErrNoCred, "the credential cache is %s's", c.Client)
		}
		return f(c)
	})
}

// client returns the name of the client. It is nil if only the KDC will tell.
func (i *initiatorCred) client() (who *name, err error) {
	if i.cache == nil {
		return i.want, nil
	}
	err = i.use(func(c *ccache.Cache) error {
		who = &name{principal: c.Client}
		return nil
	})
	return who, err
}

// cacheEnd returns when the ticket-granting ticket of the client's realm expires,
// by this host's clock. If none is alive, it returns when the last ticket expires.
// The result is zero if the cache holds no ticket.
func cacheEnd(c *ccache.Cache, now time.Time) time.Time {
	var granting, last time.Time
	for i := range c.Credentials {
		cr := &c.Credentials[i]
		end := cr.EndTime.Add(-c.Offset)
		if cr.Server.IsTGS() && cr.Server.Parts[1] == c.Client.Realm && end.After(granting) {
			granting = end
		}
		if end.After(last) {
			last = end
		}
	}
	if now.Before(granting) {
		return granting
	}
	return last
}

func (i *initiatorCred) inquire(now time.Time) (client string, expiry time.Time, err error) {
	if i.cache == nil {
		return i.clientText(), time.Time{}, nil
	}
	err = i.use(func(c *ccache.Cache) error {
		client, expiry = c.Client.String(), cacheEnd(c, now)
		return nil
	})
	return client, expiry, err
}

func (i *initiatorCred) clientText() string {
	if i.want == nil {
		return ""
	}
	return i.want.principal.String()
}

// ticket returns a ticket for the service: one of the cache, one that was granted
// before, or a new one of the KDC. Its key is a copy that the caller wipes.
func (p *Provider) ticket(i *initiatorCred, target *name) (*serviceTicket, error) {
	t, why, err := p.cached(i, target)
	if t != nil || err != nil {
		return t, err
	}
	client, err := i.client()
	if err != nil {
		return nil, err
	}
	if t, err := p.granted(i, client, target); t != nil || err != nil {
		return t, err
	}
	if p.config.Granter == nil {
		switch {
		case errors.Is(why, KRB_AP_ERR_TKT_EXPIRED):
			return nil, failf(gssapi.ErrCredentialsExpired, "%w: %s", why, target.principal)
		case errors.Is(why, KRB_AP_ERR_TKT_NYV):
			return nil, failf(gssapi.ErrNoCred, "%w: %s: %w, if this host's clock is right", ErrNoTicket, target.principal, why)
		case why != nil:
			return nil, failf(gssapi.ErrNoCred, "%w: %s: %w", ErrNoTicket, target.principal, why)
		}
		return nil, failf(gssapi.ErrNoCred, "%w: %s: the credential cache holds none and no Granter is configured", ErrNoTicket, target.principal)
	}
	return p.grant(i, client, target)
}

// cached returns the cache's ticket for the service that lasts longest, nil if none
// is valid now. If the cache holds tickets for the service that are not valid, why
// tells the reason.
func (p *Provider) cached(i *initiatorCred, target *name) (t *serviceTicket, why, err error) {
	if i.cache == nil {
		return nil, nil, nil
	}
	err = i.use(func(c *ccache.Cache) error {
		var best *ccache.Credential
		now := p.now().Add(c.Offset) // by the KDC's clock
		for n := range c.Credentials {
			cr := &c.Credentials[n]
			switch {
			case !cr.Client.Equal(c.Client) || !target.names(serverOf(cr)):
			case !p.usableTicket(cr.Key):
				why = p.unsupported("session key of the cached ticket", cr.Key.EType)
			case !p.begun(cr.Flags, cr.StartTime, now):
				why = KRB_AP_ERR_TKT_NYV
			case !now.Before(cr.EndTime):
				why = KRB_AP_ERR_TKT_EXPIRED
			case best == nil || cr.EndTime.After(best.EndTime):
				best = cr
			}
		}
		if best == nil {
			return nil
		}
		parsed, err := kmsg.ParseTicket(best.Ticket)
		if err != nil {
			return fail(gssapi.ErrDefectiveCredential, err)
		}
		found := &serviceTicket{client: best.Client, service: parsed.Service, etype: etype.ID(best.Key.EType), flags: best.Flags,
			end: best.EndTime.Add(-c.Offset), offset: c.Offset, encoded: bytes.Clone(best.Ticket)}
		if err := found.check(); err != nil {
			return err
		}
		if found.key, err = p.arena.copy(best.Key.Value); err == nil {
			t = found
		}
		return err
	})
	if err != nil {
		return nil, why, err
	}
	return t, why, nil
}

// serverOf returns the service of a cache's credential. MIT's library uses the
// empty realm, the referral realm, for a host that its configuration maps to no
// realm. Then the realm is in the ticket.
func serverOf(cr *ccache.Credential) kmsg.Principal {
	server := cr.Server
	if server.Realm == "" {
		if t, err := kmsg.ParseTicket(cr.Ticket); err == nil {
			server.Realm = t.Service.Realm
		}
	}
	return server
}

// check returns GSS_S_DEFECTIVE_CREDENTIAL for names that a context cannot have,
// since it could not be exported.
func (t *serviceTicket) check() error {
	for _, n := range []kmsg.Principal{t.client, t.service} {
		if err := importable(n); err != nil {
			return fail(gssapi.ErrDefectiveCredential, err)
		}
	}
	return nil
}

// begun reports whether a ticket's time has begun. now is by the KDC's clock.
func (p *Provider) begun(flags uint32, start, now time.Time) bool {
	return flags&kmsg.FlagInvalid == 0 && !now.Add(p.config.ClockSkew).Before(start)
}

func (p *Provider) usableTicket(k kmsg.Key) bool {
	return p.permits(k.EType) && len(k.Value) == etype.ID(k.EType).KeySize()
}

// names reports whether a target name is this service. A target without a host
// stands for this host, unlike an acceptor's name.
func (n *name) names(p kmsg.Principal) bool {
	if n.principal.Realm == "" {
		return n.principal.SameName(p)
	}
	return n.principal.Equal(p)
}

func (p *Provider) granted(i *initiatorCred, client, target *name) (*serviceTicket, error) {
	i.got.mu.Lock()
	defer i.got.mu.Unlock()
	for _, t := range i.got.all {
		if target.names(t.service) && (client == nil || client.names(t.client)) && p.now().Before(t.end) {
			return t.copyTo(p.arena)
		}
	}
	return nil, nil
}

// request returns a request with what a Granter may use. The caller wipes it.
func (p *Provider) request(i *initiatorCred) (r Request, err error) {
	r = Request{Client: i.clientText(), ClientKeytab: i.keytab, FileOwner: p.config.FileOwner}
	if i.store != nil && i.store.IsFile() {
		if r.CCache, err = i.store.Path(); err != nil {
			return r, storeError(err)
		}
	}
	return r, p.granting(i, &r)
}

func (r *Request) wipe() {
	if r.TGT != nil {
		memsafe.Wipe(r.TGT.Key)
	}
}

// granting adds the cache's ticket-granting ticket to a request, and the offset of
// the KDC's clock.
func (p *Provider) granting(i *initiatorCred, r *Request) error {
	if i.cache == nil {
		return nil
	}
	return i.use(func(c *ccache.Cache) error {
		r.Offset = c.Offset
		tgt := c.Granting(p.now().Add(c.Offset), p.permits)
		if tgt == nil {
			return nil
		}
		r.TGT = &Ticket{
			Client: tgt.Client.String(), Service: tgt.Server.String(),
			EType: tgt.Key.EType, Key: bytes.Clone(tgt.Key.Value),
			Flags: tgt.Flags, StartTime: tgt.StartTime, EndTime: tgt.EndTime, Encoded: bytes.Clone(tgt.Ticket),
		}
		return nil
	})
}

// grantTimeout is how long a Granter may take, enough for a few KDCs that do not
// answer.
const grantTimeout = time.Minute

// grant gets a ticket from the Granter and keeps it.
func (p *Provider) grant(i *initiatorCred, client, target *name) (_ *serviceTicket, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), grantTimeout)
	defer cancel()
	r, err := p.request(i)
	if err != nil {
		return nil, err
	}
	r.Service = target.principal.String()
	got, err := p.config.Granter.Grant(ctx, r)
	r.wipe()
	if err != nil {
		return nil, failf(gssapi.ErrNoCred, "%w: %w", ErrNoTicket, err)
	}
	defer memsafe.Wipe(got.Key)
	t := &serviceTicket{etype: etype.ID(got.EType), flags: got.Flags, end: got.EndTime.Add(-r.Offset), offset: r.Offset, encoded: bytes.Clone(got.Encoded)}
	if t.client, err = kmsg.ParsePrincipal(got.Client); err == nil {
		t.service, err = kmsg.ParsePrincipal(got.Service)
	}
	if err == nil {
		_, err = kmsg.ParseTicket(got.Encoded)
	}
	if err == nil {
		err = t.check()
	}
	if err == nil && client != nil && !client.names(t.client) {
		err = fmt.Errorf("it is %s's and not %s's", t.client, client.principal)
	}
	if err != nil {
		return nil, failf(gssapi.ErrDefectiveCredential, "the ticket that was granted: %w", err)
	}
	if !p.begun(got.Flags, got.StartTime, p.now().Add(r.Offset)) {
		return nil, failf(gssapi.ErrNoCred, "%w: the ticket that was granted is not valid yet", ErrNoTicket)
	}
	if !p.usableTicket(kmsg.Key{EType: got.EType, Value: got.Key}) {
		return nil, fail(gssapi.ErrNoCred, p.unsupported("session key of the ticket that was granted", got.EType))
	}
	if t.key, err = p.arena.copy(got.Key); err != nil {
		return nil, err
	}
	mine, err := t.copyTo(p.arena)
	i.got.add(t)
	return mine, err
}
