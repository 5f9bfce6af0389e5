package secctx

import (
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// provider is a wrapped provider without its extensions, which combine adds. Each method
// is written out, and not promoted from an embedded interface. If go-gssapi adds a method
// to Provider, the method must not reach the inner provider unseen, since it might make
// contexts.
type provider struct {
	inner    gssapi.Provider
	sealer   seal.Sealer
	audience seal.Party
	from     []seal.Party // empty: no demand
	lifetime time.Duration
	inquire  []gssapi.Oid
	refusal  error // of every context, or nil

	// The first plain format is the one of exports. Imports take all of them. Both are
	// found out at the first use: a provider that loads its library late has loaded it
	// by the time of an export.
	exportFormats, importFormats func() ([]string, error)
}

func (p *provider) Name() string { return p.inner.Name() }

func (p *provider) ImportName(name string, nt gssapi.GssNameType) (gssapi.GssName, error) {
	return answer(p.inner.ImportName(name, nt))
}

func (p *provider) AcquireCredential(name gssapi.GssName, mechs []gssapi.GssMech, usage gssapi.CredUsage, lifetime *gssapi.GssLifetime) (gssapi.Credential, error) {
	return p.acquired(p.inner.AcquireCredential(name, mechs, usage, lifetime))
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
	inner, err := answer(p.inner.InitSecContext(name, initiatorOptions(opts)...))
	if err != nil {
		return nil, err
	}
	return (&secContext{p: p, inner: inner}).combine(), nil
}

func (p *provider) AcceptSecContext(opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	if p.refusal != nil {
		return nil, p.refusal
	}
	inner, err := answer(p.inner.AcceptSecContext(acceptorOptions(opts)...))
	if err != nil {
		return nil, err
	}
	return (&secContext{p: p, inner: inner, acceptor: true}).combine(), nil
}

// ImportSecContext opens a sealed token and imports the context, once (RFC 2743 2.2.9).
// It checks in this order: authenticity, lifetime, audience, exporter, format. Then it
// claims the token, and only then does the mechanism see a byte. Errors:
//
//   - seal.ErrDefective (GSS_S_DEFECTIVE_TOKEN), also for a plain token
//   - seal.ErrFormat (GSS_S_DEFECTIVE_TOKEN)
//   - seal.ErrUnauthorized (GSS_S_UNAUTHORIZED), for the audience or the exporter
//   - seal.ErrExpired, seal.ErrSpent (GSS_S_NO_CONTEXT)
//   - ErrFormatUnknown (GSS_S_FAILURE), ErrSealedBelow (GSS_S_UNAVAILABLE)
//   - seal.ErrUnavailable (GSS_S_FAILURE). After the ErrUncertain of seal/agent, which is
//     one, the token may be spent.
//   - ErrLost (GSS_S_NO_CONTEXT): the token is spent. The claim came too late, or the
//     mechanism did not import the context, or the context is half-established.
//
// After all other errors the token is not spent. The inner provider is given a slice of
// locked memory. The slice is wiped and may be unmapped once the inner provider has
// returned, so a provider that keeps the slice faults.
func (p *provider) ImportSecContext(token []byte) (gssapi.SecContext, error) {
	if p.refusal != nil {
		return nil, p.refusal
	}
	formats, err := p.importFormats()
	if err != nil {
		return nil, err
	}
	plain, err := p.open(token, formats...)
	if err != nil {
		return nil, unopened(err)
	}
	inner, err := p.importPlain(plain)
	if err != nil {
		return nil, lost(err)
	}
	c := &secContext{p: p, inner: inner, settled: true}
	// Only here does this package inquire by itself: no caller holds names of this context
	// yet, which Inquire could release.
	_, err = c.inquire()
	if err == nil && !c.established {
		err = errHalf
	}
	if err != nil {
		_, _ = inner.Delete() // no caller has the context, and the peer gets no token
		return nil, lost(err)
	}
	return c.combine(), nil
}

// open claims a token, if its exporter is one of Config.Exporters.
func (p *provider) open(token []byte, formats ...string) (*memsafe.Secret, error) {
	if len(p.from) > 0 {
		return p.sealer.OpenFrom(p.from, token, formats...)
	}
	return p.sealer.Open(token, formats...)
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
