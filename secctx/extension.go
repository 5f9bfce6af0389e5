package secctx

import (
	"time"

	"github.com/golang-auth/go-gssapi/v3"
)

//go:generate go run ./internal/gen -o combine_gen.go
//go:generate go run ./internal/gen -fakes -o fakes_gen_test.go

// What the optional interfaces of go-gssapi add to Provider. The wrapper embeds
// the inner provider as these, so that its calls are the inner one's and no
// method of Provider goes past the wrapper.
type (
	providerRFC5587 interface {
		IndicateMechsByAttrs(desired, except, critical []gssapi.GssMechAttr) ([]gssapi.GssMech, error)
	}
	providerRFC5801 interface {
		InquireSASLNameForMech(gssapi.GssMech) (gssapi.SASLMechInfo, error)
		InquireMechForSASLName(string) (gssapi.GssMech, error)
	}
	providerGGF interface {
		ImportCredential([]byte) (gssapi.Credential, error)
	}
	providerCredPassword interface {
		AcquireCredentialWithPassword(name gssapi.GssName, password string, lifetime time.Duration, mechs []gssapi.GssMech, usage gssapi.CredUsage) (gssapi.Credential, error)
	}
	providerKrb5Identity interface {
		RegisterAcceptorIdentity(string) error
		SetCCacheName(string) error
	}
	providerCredStore interface {
		AcquireCredentialFrom(name gssapi.GssName, mechs []gssapi.GssMech, usage gssapi.CredUsage, lifetime *gssapi.GssLifetime, opts ...gssapi.CredStoreOption) (gssapi.Credential, error)
	}
)

// secContextGGF and secContextRFC4121 are what the optional interfaces add to
// SecContext, behind the gate. They ask the context of the moment for the
// interface: one that came back by import may be of another type than the one
// that the handle began with.
type (
	secContextGGF     struct{ c *secContext }
	secContextRFC4121 struct{ c *secContext }
)

func (e secContextGGF) InquireByOid(oid gssapi.Oid) ([][]byte, error) {
	if err := e.c.share(); err != nil {
		return nil, err
	}
	defer e.c.unshare()
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
	if err := e.c.alone(); err != nil {
		return err
	}
	defer e.c.unalone()
	inner, ok := e.c.inner.(gssapi.SecContextExtGGF)
	if !ok {
		return errNoExtension
	}
	return inner.SetOption(option, value)
}

func (e secContextRFC4121) WrapAEAD(msg, associated []byte, conf bool, qop gssapi.QoP) ([]byte, bool, error) {
	if err := e.c.share(); err != nil {
		return nil, false, err
	}
	defer e.c.unshare()
	inner, ok := e.c.inner.(gssapi.SecContextExtRFC4121)
	if !ok {
		return nil, false, errNoExtension
	}
	return inner.WrapAEAD(msg, associated, conf, qop)
}

func (e secContextRFC4121) UnwrapAEAD(msg, associated []byte) ([]byte, bool, error) {
	if err := e.c.share(); err != nil {
		return nil, false, err
	}
	defer e.c.unshare()
	inner, ok := e.c.inner.(gssapi.SecContextExtRFC4121)
	if !ok {
		return nil, false, errNoExtension
	}
	return inner.UnwrapAEAD(msg, associated)
}
