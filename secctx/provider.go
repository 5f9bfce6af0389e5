package secctx

import (
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// provider is a wrapped provider without its extensions, which combine adds.
// Each method is written out rather than promoted from an embedded interface:
// a method that go-gssapi adds to its Provider must not reach the inner one by
// itself, since it might make contexts.
type provider struct {
	inner    gssapi.Provider
	sealer   seal.Sealer
	audience seal.Audience
	from     []seal.Party // empty: no demand
	lifetime time.Duration
	inquire  []gssapi.Oid
	refusal  error // of every context, or nil

	// The plain formats that exports are sealed as (the first) and that imports
	// take. Each is found out when it is needed for the first time: a provider that
	// loads its library late has loaded it by the time of an export.
	exportFormats, importFormats func() ([]string, error)
}

func (p *provider) Name() string { return p.inner.Name() }

func (p *provider) ImportName(name string, nt gssapi.GssNameType) (gssapi.GssName, error) {
	return answer(p.inner.ImportName(name, nt))
}

func (p *provider) AcquireCredential(name gssapi.GssName, mechs []gssapi.GssMech, usage gssapi.CredUsage, lifetime *gssapi.GssLifetime) (gssapi.Credential, error) {
	return answer(p.inner.AcquireCredential(name, mechs, usage, lifetime))
}

func (p *provider) InquireNamesForMech(m gssapi.GssMech) ([]gssapi.GssNameType, error) {
	return answers(p.inner.InquireNamesForMech(m))
}

func (p *provider) IndicateMechs() ([]gssapi.GssMech, error) { return answers(p.inner.IndicateMechs()) }

func (p *provider) HasExtension(e gssapi.GssapiExtension) bool { return p.inner.HasExtension(e) }

func (p *provider) Release() error { return p.inner.Release() }

func (p *provider) InitSecContext(name gssapi.GssName, opts ...gssapi.InitSecContextOption) (gssapi.SecContext, error) {
	if p.refusal != nil {
		return nil, p.refusal
	}
	inner, err := answer(p.inner.InitSecContext(name, opts...))
	if err != nil {
		return nil, err
	}
	return (&secContext{p: p, inner: inner}).combine(), nil
}

func (p *provider) AcceptSecContext(opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	if p.refusal != nil {
		return nil, p.refusal
	}
	inner, err := answer(p.inner.AcceptSecContext(opts...))
	if err != nil {
		return nil, err
	}
	return (&secContext{p: p, inner: inner, acceptor: true}).combine(), nil
}

// ImportSecContext opens a sealed token and imports the context, once (RFC 2743
// 2.2.9). Its order is: authenticate, lifetime, audience, exporter, format, claim;
// only then does the mechanism see a byte. Errors:
//
//   - seal.ErrDefective, seal.ErrFormat: GSS_S_DEFECTIVE_TOKEN, a plain token too
//   - seal.ErrUnauthorized: GSS_S_UNAUTHORIZED, for the audience or the exporter
//   - seal.ErrExpired, seal.ErrSpent: GSS_S_NO_CONTEXT
//   - ErrFormatUnknown: GSS_S_FAILURE; ErrSealedBelow: GSS_S_UNAVAILABLE
//   - seal.ErrUnavailable: GSS_S_FAILURE; the ErrUncertain of seal/agent is one,
//     after which the token may be spent
//   - ErrLost: GSS_S_NO_CONTEXT; the token is spent and the mechanism did not
//     import the context, or it is half-established, or the claim came too late
//
// But for ErrLost, and maybe ErrUncertain, nothing is spent. The inner provider is given a slice of
// locked memory that is wiped, and may be unmapped, once it has returned: one
// that keeps the slice faults.
func (p *provider) ImportSecContext(token []byte) (gssapi.SecContext, error) {
	if p.refusal != nil {
		return nil, p.refusal
	}
	plain, err := p.open(token)
	if err != nil {
		return nil, err
	}
	inner, err := p.importPlain(plain)
	if err != nil {
		return nil, lost(err)
	}
	c := &secContext{p: p, inner: inner, settled: true}
	// The one time that this package inquires by itself: nobody holds names of
	// this context yet that Inquire could release.
	_, err = c.inquire()
	if err == nil && !c.established {
		err = errHalf
	}
	if err != nil {
		_, _ = inner.Delete() // nobody has it, and its token is not for the peer
		return nil, lost(err)
	}
	return c.combine(), nil
}

// open claims a token, if its exporter is one of those whose tokens are taken.
func (p *provider) open(token []byte) (*memsafe.Secret, error) {
	formats, err := p.importFormats()
	if err != nil {
		return nil, err
	}
	if len(p.from) > 0 {
		plain, err := p.sealer.OpenFrom(p.from, token, formats...)
		return plain, unopened(err)
	}
	plain, err := p.sealer.Open(token, formats...)
	return plain, unopened(err)
}

// importPlain has the mechanism import a plain token, and wipes it.
func (p *provider) importPlain(plain *memsafe.Secret) (gssapi.SecContext, error) {
	if plain == nil {
		return nil, errNothing
	}
	defer plain.Wipe()
	if plain.Len() == 0 {
		return nil, errEmptyToken
	}
	return answer(p.inner.ImportSecContext(plain.Bytes()))
}
