package secctx

import (
	"time"

	"github.com/golang-auth/go-gssapi/v3"
)

//go:generate go run ./internal/gen -o combine_gen.go
//go:generate go run ./internal/gen -fakes -o fakes_gen_test.go

// The types of this file are what the optional interfaces of go-gssapi add to
// Provider and to SecContext. Each is embedded beside the base type, so that it
// adds its own methods alone. The compiler checks that they are complete: see the
// assertions in combine_gen.go.

// Those of Provider. combine embeds one only if the inner provider has it.
type (
	providerRFC5587      struct{ p *provider }
	providerRFC5801      struct{ p *provider }
	providerGGF          struct{ p *provider }
	providerCredPassword struct{ p *provider }
	providerKrb5Identity struct{ p *provider }
	providerCredStore    struct{ p *provider }
)

func (e providerRFC5587) IndicateMechsByAttrs(desired, except, critical []gssapi.GssMechAttr) ([]gssapi.GssMech, error) {
	return answers(e.p.inner.(gssapi.ProviderExtRFC5587).IndicateMechsByAttrs(desired, except, critical))
}

func (e providerRFC5801) InquireSASLNameForMech(m gssapi.GssMech) (gssapi.SASLMechInfo, error) {
	return e.p.inner.(gssapi.ProviderExtRFC5801).InquireSASLNameForMech(m)
}

func (e providerRFC5801) InquireMechForSASLName(name string) (gssapi.GssMech, error) {
	return answer(e.p.inner.(gssapi.ProviderExtRFC5801).InquireMechForSASLName(name))
}

func (e providerGGF) ImportCredential(token []byte) (gssapi.Credential, error) {
	return e.p.importCredential(token, e.p.inner.(gssapi.ProviderExtGGF).ImportCredential)
}

func (e providerCredPassword) AcquireCredentialWithPassword(name gssapi.GssName, password string, lifetime time.Duration, mechs []gssapi.GssMech, usage gssapi.CredUsage) (gssapi.Credential, error) {
	return e.p.acquired(e.p.inner.(gssapi.ProviderExtCredPassword).AcquireCredentialWithPassword(name, password, lifetime, mechs, usage))
}

func (e providerKrb5Identity) RegisterAcceptorIdentity(identity string) error {
	return e.p.inner.(gssapi.ProviderExtKrb5Identity).RegisterAcceptorIdentity(identity)
}

func (e providerKrb5Identity) SetCCacheName(name string) error {
	return e.p.inner.(gssapi.ProviderExtKrb5Identity).SetCCacheName(name)
}

func (e providerCredStore) AcquireCredentialFrom(name gssapi.GssName, mechs []gssapi.GssMech, usage gssapi.CredUsage, lifetime *gssapi.GssLifetime, opts ...gssapi.CredStoreOption) (gssapi.Credential, error) {
	return e.p.acquired(e.p.inner.(gssapi.ProviderExtCredStore).AcquireCredentialFrom(name, mechs, usage, lifetime, opts...))
}

// Those of SecContext, behind the gate. They ask the present inner context for the
// interface: a context that came back by import may be of another type than the
// one that the handle began with.
type (
	secContextGGF     struct{ c *secContext }
	secContextRFC4121 struct{ c *secContext }
)

func (e secContextGGF) InquireByOid(oid gssapi.Oid) ([][]byte, error) {
	if err := e.c.begin(); err != nil {
		return nil, err
	}
	defer e.c.end()
	inner, ok := e.c.inner.(gssapi.SecContextExtGGF)
	if !ok {
		return nil, errNoExtension
	}
	if !e.c.p.mayInquire(oid) {
		return nil, errNoInquiry
	}
	return inner.InquireByOid(oid)
}

func (e secContextGGF) SetOption(option gssapi.Oid, value []byte) error {
	if err := e.c.lock(); err != nil {
		return err
	}
	defer e.c.unlock()
	inner, ok := e.c.inner.(gssapi.SecContextExtGGF)
	if !ok {
		return errNoExtension
	}
	return inner.SetOption(option, value)
}

func (e secContextRFC4121) WrapAEAD(msg, associated []byte, conf bool, qop gssapi.QoP) ([]byte, bool, error) {
	if err := e.c.begin(); err != nil {
		return nil, false, err
	}
	defer e.c.end()
	inner, ok := e.c.inner.(gssapi.SecContextExtRFC4121)
	if !ok {
		return nil, false, errNoExtension
	}
	return inner.WrapAEAD(msg, associated, conf, qop)
}

func (e secContextRFC4121) UnwrapAEAD(msg, associated []byte) ([]byte, bool, error) {
	if err := e.c.begin(); err != nil {
		return nil, false, err
	}
	defer e.c.end()
	inner, ok := e.c.inner.(gssapi.SecContextExtRFC4121)
	if !ok {
		return nil, false, errNoExtension
	}
	return inner.UnwrapAEAD(msg, associated)
}
