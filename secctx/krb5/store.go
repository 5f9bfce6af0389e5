package krb5

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
)

// credStore is the options of the credential store extension.
type credStore map[gssapi.CredStoreOpt]string

// SetOption implements gssapi.CredStore. It returns GSS_S_UNAVAILABLE for an
// option that this mechanism does not have, such as a password.
func (s credStore) SetOption(option int, value string) error {
	switch o := gssapi.CredStoreOpt(option); o {
	case gssapi.CredStoreCCache, gssapi.CredStoreClientKeytab, gssapi.CredStoreServerKeytab, gssapi.CredStoreRCache:
		s[o] = value
		return nil
	}
	return failf(gssapi.ErrUnavailable, "%w: option %d", ErrStore, option)
}

// GetOption implements gssapi.CredStore.
func (s credStore) GetOption(option int) (string, bool) {
	v, ok := s[gssapi.CredStoreOpt(option)]
	return v, ok
}

func readOptions(opts []gssapi.CredStoreOption) (credStore, error) {
	s := make(credStore)
	for _, o := range opts {
		if err := o(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// AcquireCredentialFrom is AcquireCredential with other stores than the
// configured ones. The options name a credential cache, a client keytab, a
// keytab, or the directory of a replay cache. It returns GSS_S_UNAVAILABLE for
// other options, and for kinds of stores that it does not know.
func (p *Provider) AcquireCredentialFrom(n gssapi.GssName, mechs []gssapi.GssMech, usage gssapi.CredUsage, _ *gssapi.GssLifetime, opts ...gssapi.CredStoreOption) (gssapi.Credential, error) {
	from, err := readOptions(opts)
	if err != nil {
		return nil, err
	}
	c, err := p.acquire(n, mechs, usage, from)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// RegisterAcceptorIdentity sets the keytab for credentials that are acquired
// from now on. An empty identity stands for the configured keytab.
func (p *Provider) RegisterAcceptorIdentity(identity string) error {
	path, err := file(identity)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keytab = path
	return nil
}

// SetCCacheName sets the credential cache for credentials that are acquired
// from now on, by a name as in [Config.CCache]. An empty name stands for the
// configured cache. It returns GSS_S_UNAVAILABLE for kinds of caches that it does
// not know; it does not look for the cache.
func (p *Provider) SetCCacheName(ccacheName string) error {
	if ccacheName != "" {
		if _, err := p.config.store(ccacheName); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ccache = ccacheName
	return nil
}

// AddFrom implements gssapi.CredentialExtCredStore. It returns a credential with
// the acceptor's or initiator's part added. If mutate is set, that is c itself.
// Otherwise it is a new credential with its own copy of c's keys, and the caller
// releases both. It returns GSS_S_DUPLICATE_ELEMENT if c has the part already.
func (c *credential) AddFrom(n gssapi.GssName, mech gssapi.GssMech, usage gssapi.CredUsage, _, _ *gssapi.GssLifetime, mutate bool, opts ...gssapi.CredStoreOption) (gssapi.Credential, error) {
	if !isKrb5(mech) {
		return nil, fail(gssapi.ErrBadMech, nil)
	}
	from, err := readOptions(opts)
	if err != nil {
		return nil, err
	}
	acceptor, tickets, err := c.parts()
	if err != nil {
		return nil, err
	}
	if acceptor != nil && usage != gssapi.CredUsageInitiateOnly || tickets != nil && usage != gssapi.CredUsageAcceptOnly {
		return nil, fail(gssapi.ErrDuplicateElement, nil)
	}
	added, err := c.p.acquire(n, []gssapi.GssMech{mech}, usage, from)
	if err != nil {
		return nil, err
	}
	target := c
	if !mutate {
		if target, err = c.duplicate(); err != nil {
			_ = added.Release()
			return nil, err
		}
	}
	if err := target.merge(added); err != nil {
		_ = added.Release()
		return nil, err
	}
	return target, nil
}

// merge moves added's part into c. It returns an error if c was released or has
// the part by now.
func (c *credential) merge(added *credential) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.released:
		return fail(gssapi.ErrNoCred, ErrReleased)
	case c.acceptor != nil && added.acceptor != nil, c.tickets != nil && added.tickets != nil:
		return fail(gssapi.ErrDuplicateElement, nil)
	case c.acceptor == nil:
		c.acceptor = added.acceptor
	default:
		c.tickets = added.tickets
	}
	return nil
}

// duplicate returns a copy of c, which has one part.
func (c *credential) duplicate() (*credential, error) {
	acceptor, tickets, err := c.parts()
	if err != nil {
		return nil, err
	}
	d := &credential{p: c.p, want: c.want}
	if acceptor != nil {
		keys, err := copyVault(acceptor.keys)
		if err != nil {
			return nil, err
		}
		d.acceptor = &acceptorCred{want: acceptor.want, keys: keys, replay: acceptor.replay}
		return d, nil
	}
	var cache *vault[*ccache.Cache]
	if tickets.cache != nil {
		if cache, err = copyVault(tickets.cache); err != nil {
			return nil, err
		}
	}
	d.tickets = newInitiatorCred(cache)
	d.tickets.store, d.tickets.keytab, d.tickets.want = tickets.store, tickets.keytab, tickets.want
	return d, nil
}

// StoreInto writes an initiator's tickets into a credential cache. The option
// names the cache; without it the cache is SetCCacheName's or the configured one.
// The cache is a file or in a directory: another kind is GSS_S_UNAVAILABLE. The
// file has mode 0600 and appears whole. An acceptor's keys are not stored.
//
// It returns GSS_S_DUPLICATE_ELEMENT if the file exists and overwrite is false.
// The parameter for the default credential has no effect.
func (c *credential) StoreInto(mech gssapi.GssMech, usage gssapi.CredUsage, overwrite, _ bool, opts ...gssapi.CredStoreOption) ([]gssapi.GssMech, gssapi.CredUsage, error) {
	fails := func(err error) ([]gssapi.GssMech, gssapi.CredUsage, error) { return nil, 0, err }
	if !isKrb5(mech) {
		return fails(fail(gssapi.ErrBadMech, nil))
	}
	from, err := readOptions(opts)
	if err != nil {
		return fails(err)
	}
	store, err := c.p.ccacheStore(from)
	if err != nil {
		return fails(err)
	}
	if !store.IsFile() {
		return fails(failf(gssapi.ErrUnavailable, "%w: %s: tickets are stored in files only", ErrStore, store))
	}
	path, err := store.Path()
	if err != nil {
		return fails(storeError(err))
	}
	_, tickets, err := c.parts()
	if err != nil {
		return fails(err)
	}
	if tickets == nil || tickets.cache == nil || usage == gssapi.CredUsageAcceptOnly {
		return fails(failf(gssapi.ErrNoCred, "%w: only an initiator's tickets can be stored", ErrStore))
	}
	if err := tickets.use(func(cc *ccache.Cache) error { return c.p.writeCCache(path, cc, overwrite) }); err != nil {
		return fails(err)
	}
	return []gssapi.GssMech{gssapi.GSS_MECH_KRB5}, gssapi.CredUsageInitiateOnly, nil
}

// StoreCredential is StoreInto without options (RFC 5588 section B.1).
func (c *credential) StoreCredential(usage gssapi.CredUsage, mech gssapi.GssMech, overwrite, makeDefault bool) ([]gssapi.GssMech, gssapi.CredUsage, error) {
	return c.StoreInto(mech, usage, overwrite, makeDefault)
}

func (p *Provider) writeCCache(path string, cc *ccache.Cache, overwrite bool) error {
	buf, err := p.arena.alloc(cc.Size())
	if err != nil {
		return err
	}
	defer buf.Wipe()
	b, err := cc.MarshalTo(buf.Bytes())
	if err != nil {
		return fail(gssapi.ErrFailure, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".krb5cc-*") // mode 0600
	if err != nil {
		return fail(gssapi.ErrFailure, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(gssapi.ErrFailure, err)
	}
	if overwrite {
		err = os.Rename(f.Name(), path)
	} else if err = os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return failf(gssapi.ErrDuplicateElement, "%w", err)
	}
	if err != nil {
		return fail(gssapi.ErrFailure, err)
	}
	return nil
}

// These are the optional interfaces of go-gssapi that the package implements.
var (
	_ gssapi.ProviderExtCredStore    = (*Provider)(nil)
	_ gssapi.ProviderExtKrb5Identity = (*Provider)(nil)
	_ gssapi.CredentialExtCredStore  = (*credential)(nil)
	_ gssapi.CredentialExtRFC5588    = (*credential)(nil)
	_ gssapi.SecContextExtRFC4121    = (*secContext)(nil)
)
