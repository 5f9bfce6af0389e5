package krb5

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/rcache"
)

// ProviderName is the name under which this provider is registered:
// gssapi.NewProvider(krb5.ProviderName).
const ProviderName = "github.com/sealctx/sealctx/secctx/krb5"

// plainFormat is the name and version of the interprocess tokens' format.
const plainFormat = "sealctx-krb5/1"

func init() {
	gssapi.RegisterProvider(ProviderName, func() (gssapi.Provider, error) { return New(nil) })
}

// A Provider is the mechanism. Make one with [New]. Safe for concurrent use.
type Provider struct {
	config  Config
	arena   *arena
	now     func() time.Time
	stamped atomic.Int64 // the last authenticator's time, Unix microseconds

	mu       sync.Mutex
	released bool
	keytab   string // RegisterAcceptorIdentity
	ccache   string // SetCCacheName
	replay   *replayCaches
}

// replayCaches is a separate object, so that a cleanup of the provider can close
// them.
type replayCaches struct {
	mu    sync.Mutex
	byDir map[string]*rcache.Cache // nil once closed
}

func (r *replayCaches) at(dir string, capacity int) (*rcache.Cache, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byDir == nil {
		return nil, ErrReleased
	}
	if c := r.byDir[dir]; c != nil {
		return c, nil
	}
	c, err := rcache.New(dir, capacity) // opens nothing
	if err == nil {
		r.byDir[dir] = c
	}
	return c, err
}

// prepare opens the cache, so that it remembers from now on. Errors are left to
// the contexts that need the cache.
func (r *replayCaches) prepare(dir string, capacity int, clock func() time.Time) {
	if c, err := r.at(dir, capacity); err == nil {
		_ = c.Prepare(clock)
	}
}

func (r *replayCaches) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.byDir {
		_ = c.Close()
	}
	r.byDir = nil
}

// New makes a provider. A nil config is the zero value. It locks the first memory
// for keys and fails with memsafe.ErrLimit if the process may lock none. More
// memory is locked as contexts need it, at most 256 bytes each. It opens the
// replay cache, see [Config.ReplayCache]. Errors of the replay cache are left to
// the contexts that need it.
func New(config *Config) (*Provider, error) {
	p := &Provider{now: time.Now, replay: &replayCaches{byDir: make(map[string]*rcache.Cache)}}
	if config != nil {
		p.config = *config
		p.config.Enctypes = slices.Clone(config.Enctypes)
	}
	if err := p.config.check(); err != nil {
		return nil, err
	}
	a, err := newArena()
	if err != nil {
		return nil, fail(gssapi.ErrFailure, err)
	}
	p.arena = a
	runtime.AddCleanup(p, (*replayCaches).close, p.replay)
	if dir := p.config.chosenReplayCache(); dir != "" {
		p.replay.prepare(dir, p.config.ReplayCapacity, p.now)
	}
	return p, nil
}

// Name returns [ProviderName].
func (p *Provider) Name() string { return ProviderName }

// PlainFormat returns the name of the interprocess tokens' format. Package secctx
// binds it into sealed tokens, so that no other parser reads them.
func (p *Provider) PlainFormat() string { return plainFormat }

// Release closes the replay cache. Nothing new can be started. Contexts and
// credentials live on until they are deleted, released or dropped.
func (p *Provider) Release() error {
	p.mu.Lock()
	p.released = true
	p.mu.Unlock()
	p.replay.close()
	return nil
}

// alive returns GSS_S_FAILURE once the provider was released.
func (p *Provider) alive() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.released {
		return fail(gssapi.ErrFailure, ErrReleased)
	}
	return nil
}

// HasExtension reports whether an extension is there: credential stores, storing
// of credentials, Kerberos identities, the AEAD calls, and the flag for channel
// bindings that were checked.
func (p *Provider) HasExtension(e gssapi.GssapiExtension) bool {
	switch e {
	case gssapi.HasExtCredStore, gssapi.HasExtRFC5588, gssapi.HasExtGGF, gssapi.HasExtKrb5Identity, gssapi.HasExtRFC4121,
		gssapi.HasExtChannelBindingSignalling:
		return true
	}
	return false
}

// IndicateMechs returns the one mechanism (RFC 2743 section 2.4.2).
func (p *Provider) IndicateMechs() ([]gssapi.GssMech, error) {
	return []gssapi.GssMech{gssapi.GSS_MECH_KRB5}, nil
}

// InquireNamesForMech returns the types that ImportName takes (RFC 2743
// section 2.4.12). GSS_S_BAD_MECH for another mechanism.
func (p *Provider) InquireNamesForMech(m gssapi.GssMech) ([]gssapi.GssNameType, error) {
	if !isKrb5(m) {
		return nil, fail(gssapi.ErrBadMech, nil)
	}
	return slices.Clone(nameTypes), nil
}

// permits reports whether an encryption type is accepted.
func (p *Provider) permits(id int32) bool {
	return etype.ID(id).Valid() && (len(p.config.Enctypes) == 0 || slices.Contains(p.config.Enctypes, id))
}

// unsupported returns the error for an encryption type that is not accepted. It
// says what has the type, and why it is refused.
func (p *Provider) unsupported(what string, id int32) error {
	switch err := etype.ID(id).Check(); {
	case err != nil:
		return fmt.Errorf("%w: %s of enctype %d: %w", KDC_ERR_ETYPE_NOSUPP, what, id, err)
	case !p.permits(id):
		return fmt.Errorf("%w: %s of enctype %d, which Config.Enctypes leaves out", KDC_ERR_ETYPE_NOSUPP, what, id)
	}
	return fmt.Errorf("%w: %s of enctype %d has the wrong size", KDC_ERR_ETYPE_NOSUPP, what, id)
}

// maxAhead is how far stamps may run ahead of the clock. If they are further
// ahead, the clock was set back, and they start again from it: stamps from before
// would soon be outside every peer's clock skew.
const maxAhead = time.Second

// stamp returns the time for an authenticator, in microseconds. While the clock
// goes forward no two stamps are equal: acceptors that know authenticators by
// their time would take the second for a replay.
func (p *Provider) stamp() time.Time {
	now := p.now().UnixMicro()
	for {
		last := p.stamped.Load()
		t := now
		if ahead := last - now; ahead >= 0 && ahead <= maxAhead.Microseconds() {
			t = last + 1
		}
		if p.stamped.CompareAndSwap(last, t) {
			return time.UnixMicro(t)
		}
	}
}
