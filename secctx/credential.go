package secctx

import (
	"errors"
	"fmt"
	"slices"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// ExportCredential is the Export method of a wrapped credential (GFD.24 2.1.1), for
// a named audience; the zero Audience is the exporting user, whatever the Config
// says. The token holds the credential's keys, sealed, and ImportCredential of a
// wrapped provider opens it once. It is good for Config.Lifetime. Unlike a context,
// the credential stays usable here, on success and on every error:
//
//   - GSS_S_UNAVAILABLE: the credential is not one of a wrapped provider that can be
//     exported
//   - ErrFormatUnknown, seal.ErrRequest, seal.ErrUnavailable: GSS_S_FAILURE
//   - seal.ErrUnauthorized: GSS_S_UNAUTHORIZED
//   - the mechanism's own, as it is
//
// The plain token is wiped. The sealed token is the caller's. Safe for concurrent
// use as far as the credential is.
func ExportCredential(cred gssapi.Credential, to seal.Party) ([]byte, error) {
	if w, ok := cred.(interface{ wrapped() *credential }); ok {
		return w.wrapped().export(to)
	}
	return nil, errNoCredentialExport
}

// credential is a wrapped credential without its extensions, which combine adds.
// Only credentials that can be exported are wrapped. The others have no way past
// the seal, and are the inner provider's own.
type credential struct {
	p     *provider
	inner gssapi.CredentialExtGGF
}

// wrapped is how ExportCredential and bare find a credential under its extensions.
func (c *credential) wrapped() *credential { return c }

// credential returns what callers get for an inner credential, which may be nil.
func (p *provider) credential(c gssapi.Credential) gssapi.Credential {
	c = optional(c)
	if inner, ok := c.(gssapi.CredentialExtGGF); ok {
		return (&credential{p, inner}).combine()
	}
	return c
}

// acquired is answer for a call that returns a credential.
func (p *provider) acquired(c gssapi.Credential, err error) (gssapi.Credential, error) {
	c, err = answer(c, err)
	return p.credential(c), err
}

// changed is acquired for a call that may return nil, because it changed the
// credential that it was called on.
func (p *provider) changed(c gssapi.Credential, err error) (gssapi.Credential, error) {
	return p.credential(c), err
}

// bare returns the inner credential, which alone the inner provider knows.
func bare(c gssapi.Credential) gssapi.Credential {
	if w, ok := c.(interface{ wrapped() *credential }); ok {
		return w.wrapped().inner
	}
	return c
}

// initiatorOptions are opts with the inner credential.
func initiatorOptions(opts []gssapi.InitSecContextOption) []gssapi.InitSecContextOption {
	if len(opts) == 0 {
		return nil
	}
	return append(slices.Clip(opts), func(o *gssapi.InitSecContextOptions) { o.Credential = bare(o.Credential) })
}

// acceptorOptions are opts with the inner credential.
func acceptorOptions(opts []gssapi.AcceptSecContextOption) []gssapi.AcceptSecContextOption {
	if len(opts) == 0 {
		return nil
	}
	return append(slices.Clip(opts), func(o *gssapi.AcceptSecContextOptions) { o.Credential = bare(o.Credential) })
}

func (c *credential) Export() ([]byte, error) { return c.export(c.p.audience) }

func (c *credential) export(to seal.Party) ([]byte, error) {
	formats, err := c.p.exportFormats()
	if err != nil {
		return nil, err
	}
	r, err := answer(c.p.sealer.Reserve(seal.Request{Format: credentialFormat(formats[0]), Audience: to, Lifetime: c.p.lifetime}))
	if err != nil {
		return nil, refused(err)
	}
	// For every way out but a successful Seal, a panic of the mechanism among them.
	defer func() { _ = r.Cancel() }()
	plain, err := c.inner.Export()
	defer memsafe.Wipe(plain)
	if err != nil {
		return nil, err
	}
	if len(plain) == 0 {
		return nil, status(gssapi.ErrFailure, errEmptyToken)
	}
	token, err := r.Seal(plain)
	if err != nil {
		return nil, refused(err)
	}
	return token, nil
}

// importCredential opens a sealed credential and has the mechanism import it, once.
func (p *provider) importCredential(token []byte, into func([]byte) (gssapi.Credential, error)) (gssapi.Credential, error) {
	formats, err := p.importFormats()
	if err != nil {
		return nil, err
	}
	plain, err := answer(p.open(token, credentialFormat(formats[0])))
	if err != nil {
		return nil, noCredential(err)
	}
	defer plain.Wipe()
	cred, err := p.acquired(into(plain.Bytes()))
	if err != nil {
		return nil, status(gssapi.ErrDefectiveCredential, fmt.Errorf("secctx: the token of a credential is spent, and the mechanism did not import it; export the credential again: %w", err))
	}
	return cred, nil
}

// noCredential gives a sealer's refusal to open a credential its status. Nothing is
// lost, since the exporter still has the credential.
func noCredential(err error) error {
	if errors.Is(err, seal.ErrLost) || errors.Is(err, seal.ErrSpent) || errors.Is(err, seal.ErrExpired) {
		return status(gssapi.ErrNoCred, err)
	}
	return unopened(err)
}

func (c *credential) Release() error { return c.inner.Release() }

func (c *credential) Inquire() (*gssapi.CredInfo, error) { return answer(c.inner.Inquire()) }

func (c *credential) InquireByMech(mech gssapi.GssMech) (*gssapi.CredInfo, error) {
	return answer(c.inner.InquireByMech(mech))
}

func (c *credential) Add(name gssapi.GssName, mech gssapi.GssMech, usage gssapi.CredUsage, initiator, acceptor *gssapi.GssLifetime, mutate bool) (gssapi.Credential, error) {
	return c.p.changed(c.inner.Add(name, mech, usage, initiator, acceptor, mutate))
}

func (c *credential) InquireByOid(oid gssapi.Oid) ([][]byte, error) {
	if !c.p.mayInquire(oid) {
		return nil, errNoInquiry
	}
	return c.inner.InquireByOid(oid)
}

// What the optional interfaces of go-gssapi add to Credential, beside GGF, which
// every wrapped credential has.
type (
	credentialRFC4178      struct{ c *credential }
	credentialRFC5588      struct{ c *credential }
	credentialS4U          struct{ c *credential }
	credentialCredPassword struct{ c *credential }
	credentialCredStore    struct{ c *credential }
)

func (e credentialRFC4178) SetNegotiationMechs(mechs []gssapi.GssMech) error {
	return e.c.inner.(gssapi.CredentialExtRFC4178).SetNegotiationMechs(mechs)
}

func (e credentialRFC4178) GetNegotiationMechs() ([]gssapi.GssMech, error) {
	return answers(e.c.inner.(gssapi.CredentialExtRFC4178).GetNegotiationMechs())
}

func (e credentialRFC5588) StoreCredential(usage gssapi.CredUsage, mech gssapi.GssMech, overwrite, makeDefault bool) ([]gssapi.GssMech, gssapi.CredUsage, error) {
	stored, usage, err := e.c.inner.(gssapi.CredentialExtRFC5588).StoreCredential(usage, mech, overwrite, makeDefault)
	stored, err = answers(stored, err)
	return stored, usage, err
}

func (e credentialS4U) AquireImpersonateName(name gssapi.GssName, mechs []gssapi.GssMech, usage gssapi.CredUsage, lifetime gssapi.GssLifetime) (gssapi.Credential, error) {
	return e.c.p.acquired(e.c.inner.(gssapi.CredentialExtS4U).AquireImpersonateName(name, mechs, usage, lifetime))
}

func (e credentialS4U) AddImpersonateName(impersonator gssapi.Credential, name gssapi.GssName, mech gssapi.GssMech, usage gssapi.CredUsage, initiator, acceptor gssapi.GssLifetime) (gssapi.Credential, error) {
	return e.c.p.changed(e.c.inner.(gssapi.CredentialExtS4U).AddImpersonateName(bare(impersonator), name, mech, usage, initiator, acceptor))
}

func (e credentialCredPassword) AddWithPassword(name gssapi.GssName, password string, mech gssapi.GssMech, usage gssapi.CredUsage, initiator, acceptor gssapi.GssLifetime) (gssapi.Credential, error) {
	return e.c.p.changed(e.c.inner.(gssapi.CredentialExtCredPassword).AddWithPassword(name, password, mech, usage, initiator, acceptor))
}

func (e credentialCredStore) StoreInto(mech gssapi.GssMech, usage gssapi.CredUsage, overwrite, defaultCred bool, opts ...gssapi.CredStoreOption) ([]gssapi.GssMech, gssapi.CredUsage, error) {
	stored, usage, err := e.c.inner.(gssapi.CredentialExtCredStore).StoreInto(mech, usage, overwrite, defaultCred, opts...)
	stored, err = answers(stored, err)
	return stored, usage, err
}

func (e credentialCredStore) AddFrom(name gssapi.GssName, mech gssapi.GssMech, usage gssapi.CredUsage, initiator, acceptor *gssapi.GssLifetime, mutate bool, opts ...gssapi.CredStoreOption) (gssapi.Credential, error) {
	return e.c.p.changed(e.c.inner.(gssapi.CredentialExtCredStore).AddFrom(name, mech, usage, initiator, acceptor, mutate, opts...))
}
