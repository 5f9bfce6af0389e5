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

// plainFormat names the interprocess tokens' format and version.
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

// replayCaches is apart from the provider, so that a cleanup can close them.
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
	c, err := rcache.New(dir, capacity) // which waits for nobody
	if err == nil {
		r.byDir[dir] = c
	}
	return c, err
}

// prepare opens the cache, so that it remembers from here on. What is wrong with
// it is told to whoever needs it, when a context is accepted.
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

// New makes a provider. A nil config is the zero one. It locks the first
// memory for keys, and fails with memsafe.ErrLimit where the process may lock
// none; more is locked as contexts need it, 256 bytes each or less. It opens the
// replay cache, see [Config.ReplayCache]; what is wrong with that is an error of
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

// PlainFormat names the format of the interprocess tokens, so that whoever
// seals one can bind it to the parser that may read it.
func (p *Provider) PlainFormat() string { return plainFormat }

// Release closes the replay cache; nothing new can be started. Contexts and
// credentials live on, until they are deleted, released or dropped.
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

// HasExtension reports the extensions: credential stores, storing credentials,
// Kerberos identities, the AEAD calls, and the flag that says channel bindings were
// checked.
func (p *Provider) HasExtension(e gssapi.GssapiExtension) bool {
	switch e {
	case gssapi.HasExtCredStore, gssapi.HasExtRFC5588, gssapi.HasExtKrb5Identity, gssapi.HasExtRFC4121,
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

// permits reports whether an encryption type is taken.
func (p *Provider) permits(id int32) bool {
	return etype.ID(id).Valid() && (len(p.config.Enctypes) == 0 || slices.Contains(p.config.Enctypes, id))
}

// unsupported is the error for an encryption type that is not taken: what has it,
// and why that is so.
func (p *Provider) unsupported(what string, id int32) error {
	switch err := etype.ID(id).Check(); {
	case err != nil:
		return fmt.Errorf("%w: %s of enctype %d: %w", KDC_ERR_ETYPE_NOSUPP, what, id, err)
	case !p.permits(id):
		return fmt.Errorf("%w: %s of enctype %d, which Config.Enctypes leaves out", KDC_ERR_ETYPE_NOSUPP, what, id)
	}
	return fmt.Errorf("%w: %s of enctype %d has the wrong size", KDC_ERR_ETYPE_NOSUPP, what, id)
}

// maxAhead is how far stamps may run ahead of the clock. Further than that the
// clock was set back, and stamps that went on from before would soon be outside
// every peer's clock skew.
const maxAhead = time.Second

// stamp returns the time for an authenticator, to the microsecond and never
// the same twice while the clock goes forward: acceptors that know
// authenticators by their time would take the second for a replay.
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
