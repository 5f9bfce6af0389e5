package spnego

import (
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
)

// ProviderName begins the name of every provider of this package.
const ProviderName = "github.com/sealctx/sealctx/secctx/spnego"

// Limits. Peers choose these sizes.
const (
	// DefaultMaxToken is the longest negotiation token in bytes. The largest
	// Kerberos token that Windows makes has 48,000 bytes.
	DefaultMaxToken = 64 << 10

	// maxMechTypes is the longest list of mechanisms in bytes. Windows sends five
	// mechanisms in 50 bytes. A half-open negotiation carries the list, and has to
	// fit into a cookie.
	maxMechTypes = 1024

	// maxLegs is how many tokens of the peer one negotiation takes. Kerberos
	// takes three with a signature.
	maxLegs = 8
)

// A Config says what is negotiated. The zero value takes what the inner provider
// has.
type Config struct {
	// Mechs are the mechanisms that may be negotiated. The initiator offers them
	// in this order. Empty: those that the inner provider indicates, without
	// SPNEGO.
	Mechs []gssapi.GssMech

	// Raw makes acceptors take tokens of these mechanisms without a negotiation
	// around them as well, as MIT's library does. Some HTTP clients send such
	// tokens, python3-requests-kerberos among them.
	Raw bool

	// MaxToken is the longest token of a peer in bytes. Zero: DefaultMaxToken.
	MaxToken int
}

// A Provider is the negotiation mechanism over an inner provider. Make one with
// [New]. Safe for concurrent use as far as the inner provider is.
type Provider struct {
	inner    gssapi.Provider
	mechs    []gssapi.GssMech
	list     []byte // mechs as a MechTypeList
	raw      bool
	maxToken int
}

// New makes a provider over an inner one, which it does not own: Release releases
// the inner provider too, as a wrapped provider of package secctx does. A nil
// config is the zero one. It returns GSS_S_BAD_MECH if there is no mechanism to
// negotiate, and GSS_S_FAILURE without an inner provider.
func New(inner gssapi.Provider, c *Config) (*Provider, error) {
	if v := reflect.ValueOf(inner); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, status(gssapi.ErrFailure, errors.New("spnego: New needs a provider to negotiate for"))
	}
	if c == nil {
		c = &Config{}
	}
	mechs := c.Mechs
	if len(mechs) == 0 {
		var err error
		if mechs, err = inner.IndicateMechs(); err != nil {
			return nil, err
		}
	}
	p := &Provider{inner: inner, raw: c.Raw, maxToken: c.MaxToken}
	if p.maxToken <= 0 {
		p.maxToken = DefaultMaxToken
	}
	var oids [][]byte
	for _, m := range mechs {
		if m == nil || isSPNEGO(m) || slices.ContainsFunc(p.mechs, func(o gssapi.GssMech) bool { return slices.Equal(o.Oid(), m.Oid()) }) {
			continue
		}
		p.mechs, oids = append(p.mechs, m), append(oids, m.Oid())
	}
	p.list = buildMechs(oids)
	if !validMechs(p.list) {
		return nil, status(gssapi.ErrBadMech, errors.New("spnego: the inner provider has no mechanism that can be negotiated"))
	}
	return p, nil
}

func isSPNEGO(m gssapi.GssMech) bool { return slices.Equal(m.Oid(), oidSPNEGO) }

// mech returns the mechanism that an object identifier of the peer stands for, or
// nil.
func (p *Provider) mech(oid []byte) gssapi.GssMech {
	oid = plainOID(oid)
	for _, m := range p.mechs {
		if slices.Equal(m.Oid(), oid) {
			return m
		}
	}
	return nil
}

// Name returns [ProviderName] and the inner provider's name.
func (p *Provider) Name() string { return ProviderName + "+" + p.inner.Name() }

// PlainFormat names the format of the interprocess tokens: that of this package
// and that of the inner provider. It is empty if the inner provider does not name
// its own.
func (p *Provider) PlainFormat() string {
	inner := p.innerFormat()
	if inner == "" {
		return ""
	}
	return plainFormat + "+" + inner
}

func (p *Provider) innerFormat() string {
	if f, ok := p.inner.(interface{ PlainFormat() string }); ok {
		return f.PlainFormat()
	}
	return ""
}

// Release releases the inner provider.
func (p *Provider) Release() error { return p.inner.Release() }

// ImportName imports a name of the inner provider.
func (p *Provider) ImportName(name string, nt gssapi.GssNameType) (gssapi.GssName, error) {
	return p.inner.ImportName(name, nt)
}

// AcquireCredential acquires a credential of the inner provider. SPNEGO among
// mechs stands for every mechanism.
func (p *Provider) AcquireCredential(name gssapi.GssName, mechs []gssapi.GssMech, usage gssapi.CredUsage, lifetime *gssapi.GssLifetime) (gssapi.Credential, error) {
	return p.inner.AcquireCredential(name, innerMechs(mechs), usage, lifetime)
}

// innerMechs are the mechanisms to acquire an inner credential for.
func innerMechs(mechs []gssapi.GssMech) []gssapi.GssMech {
	if slices.ContainsFunc(mechs, func(m gssapi.GssMech) bool { return m != nil && isSPNEGO(m) }) {
		return nil
	}
	return mechs
}

// IndicateMechs returns the one mechanism, SPNEGO.
func (p *Provider) IndicateMechs() ([]gssapi.GssMech, error) {
	return []gssapi.GssMech{gssapi.GSS_MECH_SPNEGO}, nil
}

// InquireNamesForMech returns the name types of the inner provider's first
// mechanism for SPNEGO, and passes on every other mechanism.
func (p *Provider) InquireNamesForMech(m gssapi.GssMech) ([]gssapi.GssNameType, error) {
	if m == nil || isSPNEGO(m) {
		m = p.mechs[0]
	}
	return p.inner.InquireNamesForMech(m)
}

// HasExtension reports whether the inner provider has an extension.
func (p *Provider) HasExtension(e gssapi.GssapiExtension) bool { return p.inner.HasExtension(e) }

// extension returns the inner provider as one of the optional interfaces.
func extension[T any](p *Provider) (T, error) {
	e, ok := p.inner.(T)
	if !ok {
		return e, errNoExtension
	}
	return e, nil
}

// IndicateMechsByAttrs is the inner provider's (RFC 5587 section 3.4.2).
func (p *Provider) IndicateMechsByAttrs(desired, except, critical []gssapi.GssMechAttr) ([]gssapi.GssMech, error) {
	e, err := extension[gssapi.ProviderExtRFC5587](p)
	if err != nil {
		return nil, err
	}
	return e.IndicateMechsByAttrs(desired, except, critical)
}

// InquireSASLNameForMech is the inner provider's (RFC 5801 section 10).
func (p *Provider) InquireSASLNameForMech(m gssapi.GssMech) (gssapi.SASLMechInfo, error) {
	e, err := extension[gssapi.ProviderExtRFC5801](p)
	if err != nil {
		return gssapi.SASLMechInfo{}, err
	}
	return e.InquireSASLNameForMech(m)
}

// InquireMechForSASLName is the inner provider's (RFC 5801 section 11).
func (p *Provider) InquireMechForSASLName(name string) (gssapi.GssMech, error) {
	e, err := extension[gssapi.ProviderExtRFC5801](p)
	if err != nil {
		return nil, err
	}
	return e.InquireMechForSASLName(name)
}

// ImportCredential is the inner provider's (GFD.24 section 2.1.2).
func (p *Provider) ImportCredential(b []byte) (gssapi.Credential, error) {
	e, err := extension[gssapi.ProviderExtGGF](p)
	if err != nil {
		return nil, err
	}
	return e.ImportCredential(b)
}

// AcquireCredentialWithPassword is the inner provider's.
func (p *Provider) AcquireCredentialWithPassword(name gssapi.GssName, password string, lifetime time.Duration, mechs []gssapi.GssMech, usage gssapi.CredUsage) (gssapi.Credential, error) {
	e, err := extension[gssapi.ProviderExtCredPassword](p)
	if err != nil {
		return nil, err
	}
	return e.AcquireCredentialWithPassword(name, password, lifetime, innerMechs(mechs), usage)
}

// RegisterAcceptorIdentity is the inner provider's.
func (p *Provider) RegisterAcceptorIdentity(identity string) error {
	e, err := extension[gssapi.ProviderExtKrb5Identity](p)
	if err != nil {
		return err
	}
	return e.RegisterAcceptorIdentity(identity)
}

// SetCCacheName is the inner provider's.
func (p *Provider) SetCCacheName(name string) error {
	e, err := extension[gssapi.ProviderExtKrb5Identity](p)
	if err != nil {
		return err
	}
	return e.SetCCacheName(name)
}

// AcquireCredentialFrom is the inner provider's.
func (p *Provider) AcquireCredentialFrom(name gssapi.GssName, mechs []gssapi.GssMech, usage gssapi.CredUsage, lifetime *gssapi.GssLifetime, opts ...gssapi.CredStoreOption) (gssapi.Credential, error) {
	e, err := extension[gssapi.ProviderExtCredStore](p)
	if err != nil {
		return nil, err
	}
	return e.AcquireCredentialFrom(name, innerMechs(mechs), usage, lifetime, opts...)
}

// The optional interfaces, whether or not the inner provider has them.
var (
	_ gssapi.ProviderExtRFC5587      = (*Provider)(nil)
	_ gssapi.ProviderExtRFC5801      = (*Provider)(nil)
	_ gssapi.ProviderExtGGF          = (*Provider)(nil)
	_ gssapi.ProviderExtCredPassword = (*Provider)(nil)
	_ gssapi.ProviderExtKrb5Identity = (*Provider)(nil)
	_ gssapi.ProviderExtCredStore    = (*Provider)(nil)
)
