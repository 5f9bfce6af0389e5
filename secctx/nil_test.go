package secctx

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	tokens "github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// silent is a provider that, once it is told to, answers every call with nil and
// no error, or with nil pointers in the interfaces. It has every extension.
type silent struct {
	gssapi.Provider // a fake with every extension
	fake            *fakeProvider
	on, typed       bool
}

func newSilent(typed bool) *silent {
	fake := &fakeProvider{name: "silent", contextSet: 3, importSet: 3}
	return &silent{Provider: fake.combine(63), fake: fake, typed: typed}
}

// void returns nothing: a nil interface, or a nil pointer in one.
func void[T any](typed bool, nothing T) (none T) {
	if typed {
		return nothing
	}
	return none
}

func (s *silent) name() gssapi.GssName { return void[gssapi.GssName](s.typed, (*fakeName)(nil)) }
func (s *silent) credential() gssapi.Credential {
	return void[gssapi.Credential](s.typed, (*fakeCredential)(nil))
}
func (s *silent) mech() gssapi.GssMech { return void[gssapi.GssMech](s.typed, (*fakeMech)(nil)) }
func (s *silent) nameType() gssapi.GssNameType {
	return void[gssapi.GssNameType](s.typed, (*fakeNameType)(nil))
}

type (
	fakeMech     struct{ gssapi.GssMech }
	fakeNameType struct{ gssapi.GssNameType }
)

func (s *silent) context(sc gssapi.SecContext, err error) (gssapi.SecContext, error) {
	switch {
	case !s.on && err == nil:
		return &silentContext{SecContext: sc, silent: s}, nil
	case s.typed:
		return (*silentContext)(nil), nil
	}
	return nil, nil
}

func (s *silent) ImportName(name string, nt gssapi.GssNameType) (gssapi.GssName, error) {
	if s.on {
		return s.name(), nil
	}
	return s.Provider.ImportName(name, nt)
}
func (s *silent) AcquireCredential(gssapi.GssName, []gssapi.GssMech, gssapi.CredUsage, *gssapi.GssLifetime) (gssapi.Credential, error) {
	return s.credential(), nil
}
func (s *silent) InitSecContext(n gssapi.GssName, o ...gssapi.InitSecContextOption) (gssapi.SecContext, error) {
	if s.on {
		return s.context(nil, nil)
	}
	return s.context(s.Provider.InitSecContext(n, o...))
}
func (s *silent) AcceptSecContext(o ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	return s.context(s.Provider.AcceptSecContext(o...))
}
func (s *silent) ImportSecContext(b []byte) (gssapi.SecContext, error) {
	return s.context(s.Provider.ImportSecContext(b))
}
func (s *silent) InquireNamesForMech(gssapi.GssMech) ([]gssapi.GssNameType, error) {
	return []gssapi.GssNameType{s.nameType()}, nil
}
func (s *silent) IndicateMechs() ([]gssapi.GssMech, error) { return []gssapi.GssMech{s.mech()}, nil }
func (s *silent) IndicateMechsByAttrs(_, _, _ []gssapi.GssMechAttr) ([]gssapi.GssMech, error) {
	return []gssapi.GssMech{gssapi.GSS_MECH_KRB5, s.mech()}, nil
}
func (s *silent) InquireSASLNameForMech(gssapi.GssMech) (gssapi.SASLMechInfo, error) {
	return gssapi.SASLMechInfo{}, nil
}
func (s *silent) InquireMechForSASLName(string) (gssapi.GssMech, error) { return s.mech(), nil }
func (s *silent) ImportCredential([]byte) (gssapi.Credential, error)    { return s.credential(), nil }
func (s *silent) RegisterAcceptorIdentity(string) error                 { return nil }
func (s *silent) SetCCacheName(string) error                            { return nil }
func (s *silent) AcquireCredentialWithPassword(gssapi.GssName, string, time.Duration, []gssapi.GssMech, gssapi.CredUsage) (gssapi.Credential, error) {
	return s.credential(), nil
}
func (s *silent) AcquireCredentialFrom(gssapi.GssName, []gssapi.GssMech, gssapi.CredUsage, *gssapi.GssLifetime, ...gssapi.CredStoreOption) (gssapi.Credential, error) {
	return s.credential(), nil
}

// silentContext is a context that falls silent with its provider.
type silentContext struct {
	gssapi.SecContext
	silent *silent
}

func (c *silentContext) Continue(token []byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	if c.silent.on {
		return nil, gssapi.SecContextInfoPartial{InitiatorName: c.silent.name(), Mech: c.silent.mech(), DelegatedCredential: c.silent.credential()}, nil
	}
	return c.SecContext.Continue(token)
}
func (c *silentContext) Inquire() (*gssapi.SecContextInfo, error) {
	if c.silent.on {
		return nil, nil
	}
	return c.SecContext.Inquire()
}
func (c *silentContext) ExpiresAt() (*gssapi.GssLifetime, error) {
	if c.silent.on {
		return nil, nil
	}
	return c.SecContext.ExpiresAt()
}
func (c *silentContext) Export() ([]byte, error) {
	if c.silent.on {
		_, _ = c.SecContext.Export()
		return void(c.silent.typed, []byte{}), nil
	}
	return c.SecContext.Export()
}
func (c *silentContext) Delete() ([]byte, error)                            { return nil, nil }
func (c *silentContext) ProcessToken([]byte) error                          { return nil }
func (c *silentContext) WrapSizeLimit(bool, uint, gssapi.QoP) (uint, error) { return 0, nil }
func (c *silentContext) GetMIC(b []byte, q gssapi.QoP) ([]byte, error) {
	if c.silent.on {
		return nil, nil
	}
	return c.SecContext.GetMIC(b, q)
}
func (c *silentContext) VerifyMIC([]byte, []byte) (gssapi.QoP, error) { return 0, nil }
func (c *silentContext) InquireByOid(gssapi.Oid) ([][]byte, error)    { return nil, nil }
func (c *silentContext) SetOption(gssapi.Oid, []byte) error           { return nil }
func (c *silentContext) WrapAEAD([]byte, []byte, bool, gssapi.QoP) ([]byte, bool, error) {
	return nil, false, nil
}
func (c *silentContext) UnwrapAEAD([]byte, []byte) ([]byte, bool, error) { return nil, false, nil }

// The interfaces whose methods are walked, with everything that extends them.
type (
	everyProvider interface {
		gssapi.ProviderExtRFC5587
		gssapi.ProviderExtRFC5801
		gssapi.ProviderExtGGF
		gssapi.ProviderExtCredPassword
		gssapi.ProviderExtKrb5Identity
		gssapi.ProviderExtCredStore
	}
	everyContext interface {
		gssapi.SecContextExtGGF
		gssapi.SecContextExtRFC4121
	}
)

var (
	_ everyProvider = (*silent)(nil)
	_ everyContext  = (*silentContext)(nil)
)

// callEmpty calls a method with zero arguments. It returns the results, the error
// among them, and what it panicked with.
func callEmpty(on any, method string) (results []reflect.Value, panicked any, err error) {
	defer func() { panicked = recover() }()
	m := reflect.ValueOf(on).MethodByName(method)
	var args []reflect.Value
	for i := range m.Type().NumIn() {
		if m.Type().IsVariadic() && i == m.Type().NumIn()-1 {
			break
		}
		args = append(args, reflect.Zero(m.Type().In(i)))
	}
	results = m.Call(args)
	if n := len(results); n > 0 {
		err, _ = results[n-1].Interface().(error)
	}
	return results, nil, err
}

// nils counts the nil values in a result that a caller would trip on: a nil
// interface or pointer as a result of its own or in a list, and everywhere an
// interface that holds a nil pointer.
func nils(v reflect.Value, optional bool) (n int) {
	switch v.Kind() {
	case reflect.Interface:
		if v.IsNil() {
			if !optional {
				n++
			}
			return n
		}
		return nils(v.Elem(), false)
	case reflect.Pointer:
		if v.IsNil() {
			return 1
		}
		return nils(v.Elem(), false)
	case reflect.Slice:
		for i := range v.Len() {
			n += nils(v.Index(i), false)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				n += nils(v.Field(i), true)
			}
		}
	}
	return n
}

// tripping returns the methods of an interface that answer nil without an error,
// or panic, when they are called on what fresh returns.
func tripping[T any](t *testing.T, fresh func() any) (bad []string) {
	t.Helper()
	for _, method := range iface[T]() {
		results, panicked, err := callEmpty(fresh(), method)
		require.Nil(t, panicked, "%s panicked", method)
		count := 0
		for _, r := range results {
			if r.Type() != reflect.TypeFor[error]() {
				count += nils(r, false)
			}
		}
		if err == nil && count > 0 {
			bad = append(bad, method)
		}
	}
	return bad
}

// TestNilFromProvider calls every method of every interface of go-gssapi on a
// wrapped provider whose inner one answers nil: there is an error instead, and
// never a panic. A method that go-gssapi adds is called too.
func TestNilFromProvider(t *testing.T) {
	h := newHost(t, nil)
	for _, typed := range []bool{false, true} {
		s := newSilent(typed)
		p := Wrap(s, h)
		context := func(p gssapi.Provider) func() any {
			return func() any {
				s.on = false
				r := &rig{fake: &fakeProvider{}, p: p}
				r.establish(t)
				s.on = true
				return r.sc
			}
		}
		s.on = true
		providerMethods := []string{"AcquireCredential", "AcquireCredentialFrom", "AcquireCredentialWithPassword", "AcceptSecContext",
			"ImportCredential", "ImportName", "ImportSecContext", "IndicateMechs", "IndicateMechsByAttrs", "InitSecContext", "InquireMechForSASLName", "InquireNamesForMech"}
		slices.Sort(providerMethods)
		require.Equal(t, providerMethods, tripping[everyProvider](t, func() any { return s }), "positive control: the provider alone")
		require.Empty(t, tripping[everyProvider](t, func() any { return p }))

		contextMethods := []string{"ExpiresAt", "Inquire"}
		if typed {
			contextMethods = []string{"Continue", "ExpiresAt", "Inquire"}
		}
		require.Equal(t, contextMethods, tripping[everyContext](t, context(s)), "positive control: its contexts alone")
		require.Empty(t, tripping[everyContext](t, context(p)))

		// What comes first in a context's life, and not after it is established.
		s.on = false
		sc, err := p.AcceptSecContext()
		require.NoError(t, err)
		s.on = true
		require.Empty(t, tripping[everyContext](t, func() any { return sc }))
	}
}

// everyCredentialMethod is a credential with everything that extends it.
type everyCredentialMethod interface {
	gssapi.CredentialExtGGF
	gssapi.CredentialExtRFC4178
	gssapi.CredentialExtRFC5588
	gssapi.CredentialExtS4U
	gssapi.CredentialExtCredPassword
	gssapi.CredentialExtCredStore
}

// silentCredential answers nil, or nil pointers.
type silentCredential struct{ *silent }

func (c silentCredential) Release() error                                         { return nil }
func (c silentCredential) Inquire() (*gssapi.CredInfo, error)                     { return nil, nil }
func (c silentCredential) InquireByMech(gssapi.GssMech) (*gssapi.CredInfo, error) { return nil, nil }
func (c silentCredential) Export() ([]byte, error)                                { return nil, nil }
func (c silentCredential) InquireByOid(gssapi.Oid) ([][]byte, error)              { return nil, nil }
func (c silentCredential) SetNegotiationMechs([]gssapi.GssMech) error             { return nil }
func (c silentCredential) GetNegotiationMechs() ([]gssapi.GssMech, error) {
	return []gssapi.GssMech{c.mech()}, nil
}
func (c silentCredential) Add(gssapi.GssName, gssapi.GssMech, gssapi.CredUsage, *gssapi.GssLifetime, *gssapi.GssLifetime, bool) (gssapi.Credential, error) {
	return c.credential(), nil
}
func (c silentCredential) StoreCredential(gssapi.CredUsage, gssapi.GssMech, bool, bool) ([]gssapi.GssMech, gssapi.CredUsage, error) {
	return []gssapi.GssMech{c.mech()}, 0, nil
}
func (c silentCredential) AquireImpersonateName(gssapi.GssName, []gssapi.GssMech, gssapi.CredUsage, gssapi.GssLifetime) (gssapi.Credential, error) {
	return c.credential(), nil
}
func (c silentCredential) AddImpersonateName(gssapi.Credential, gssapi.GssName, gssapi.GssMech, gssapi.CredUsage, gssapi.GssLifetime, gssapi.GssLifetime) (gssapi.Credential, error) {
	return c.credential(), nil
}
func (c silentCredential) AddWithPassword(gssapi.GssName, string, gssapi.GssMech, gssapi.CredUsage, gssapi.GssLifetime, gssapi.GssLifetime) (gssapi.Credential, error) {
	return c.credential(), nil
}
func (c silentCredential) StoreInto(gssapi.GssMech, gssapi.CredUsage, bool, bool, ...gssapi.CredStoreOption) ([]gssapi.GssMech, gssapi.CredUsage, error) {
	return []gssapi.GssMech{c.mech()}, 0, nil
}
func (c silentCredential) AddFrom(gssapi.GssName, gssapi.GssMech, gssapi.CredUsage, *gssapi.GssLifetime, *gssapi.GssLifetime, bool, ...gssapi.CredStoreOption) (gssapi.Credential, error) {
	return c.credential(), nil
}

// TestNilFromCredential is TestNilFromProvider for credentials. Four calls may answer
// nil, because they may have changed the credential itself: but never a nil pointer.
func TestNilFromCredential(t *testing.T) {
	for _, typed := range []bool{false, true} {
		s := newSilent(typed)
		p := Wrap(s, newHost(t, nil)).(*provider63)
		inner := silentCredential{s}
		cred := p.credential(inner)
		require.Equal(t, []string{"Add", "AddFrom", "AddImpersonateName", "AddWithPassword", "AquireImpersonateName", "GetNegotiationMechs", "Inquire", "InquireByMech", "StoreCredential", "StoreInto"},
			tripping[everyCredentialMethod](t, func() any { return inner }), "positive control: the credential alone")
		mayBeNil := []string{"Add", "AddFrom", "AddImpersonateName", "AddWithPassword"}
		require.Equal(t, mayBeNil, tripping[everyCredentialMethod](t, func() any { return cred }))
		for _, method := range mayBeNil {
			results, _, err := callEmpty(cred, method)
			require.NoError(t, err)
			require.True(t, results[0].IsNil(), method)
		}
		_, err := cred.(gssapi.CredentialExtGGF).Export()
		require.ErrorIs(t, err, errEmptyToken)
	}
}

// TestNilAfterClaim: where the token is spent, the context is lost, and every
// call says so. No mechanism that answers nil has brought it back.
func TestNilAfterClaim(t *testing.T) {
	h := newHost(t, nil)
	for _, typed := range []bool{false, true} {
		for _, tc := range []struct {
			name  string
			spend func(r *rig, token []byte) error
		}{
			{"import", func(r *rig, token []byte) error { _, err := r.p.ImportSecContext(token); return err }},
			{"take back", func(r *rig, token []byte) error { return TakeBack(r.sc, token) }},
		} {
			t.Run(tc.name, func(t *testing.T) {
				s := newSilent(typed)
				r := &rig{fake: &fakeProvider{}, p: Wrap(s, h)}
				r.establish(t)
				token, err := r.sc.Export()
				require.NoError(t, err)
				s.on = true
				err = tc.spend(r, token)
				require.ErrorIs(t, err, ErrLost)
				require.ErrorIs(t, err, gssapi.ErrNoContext)
				require.ErrorContains(t, err, "returned nil")
				s.on = false
				require.Error(t, TakeBack(r.sc, token))
				r.dead(t, r.sc)
				_, err = r.sc.Delete()
				require.NoError(t, err)

				// The positive control: a provider that answers brings it back.
				r.establish(t)
				token, err = r.sc.Export()
				require.NoError(t, err)
				require.NoError(t, tc.spend(r, token))
			})
		}
	}
}

// TestNilWhileExporting: the mechanism gave up the context for nothing, or does
// not bring it back after sealing failed.
func TestNilWhileExporting(t *testing.T) {
	h := newHost(t, nil)
	for _, typed := range []bool{false, true} {
		s := newSilent(typed)
		r := &rig{fake: s.fake, p: Wrap(s, h)}

		r.establish(t)
		s.on = true
		token, err := r.sc.Export()
		require.ErrorIs(t, err, gssapi.ErrFailure, "no lifetime, so nothing is given up")
		require.Nil(t, token)
		s.on = false
		r.talk(t, r.sc)

		c := r.sc.(interface{ base() *secContext }).base()
		inner := c.inner.(*silentContext)
		c.inner = &emptyExport{inner, typed}
		token, err = r.sc.Export()
		require.ErrorIs(t, err, ErrLost)
		require.Nil(t, token)
		r.dead(t, r.sc)

		for _, back := range []bool{false, true} {
			r.establish(t)
			s.fake.pad = tokens.MaxPlain // too large to be sealed
			s.fake.at = func(step string) error { s.on = s.on || step == "export" && !back; return nil }
			token, err = r.sc.Export()
			s.fake.at, s.fake.pad, s.on = nil, 0, false
			require.Nil(t, token)
			require.ErrorIs(t, err, seal.ErrRequest)
			require.Equal(t, !back, errors.Is(err, ErrLost))
			if back {
				r.talk(t, r.sc) // the positive control
			} else {
				r.dead(t, r.sc)
			}
		}
	}
}

// emptyExport is a context whose export gives nothing.
type emptyExport struct {
	*silentContext
	typed bool
}

func (c *emptyExport) Export() ([]byte, error) { return void(c.typed, []byte{}), nil }

// TestNilFromSealer: a sealer of the program's own that answers nil loses no
// context that is still here.
func TestNilFromSealer(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	c := r.sc.(*secContext)
	c.p.sealer = nilSealer{}
	token, err := r.sc.Export()
	require.ErrorIs(t, err, gssapi.ErrFailure)
	require.Nil(t, token)
	r.talk(t, r.sc)
	_, err = r.p.ImportSecContext([]byte("token"))
	require.ErrorIs(t, err, ErrLost)
	c.state = exported
	require.ErrorIs(t, TakeBack(r.sc, c.sealed[:]), ErrLost)
}

// nilSealer is a sealer that answers nil.
type nilSealer struct{}

func (nilSealer) Reserve(seal.Request) (*seal.Reservation, error)     { return nil, nil }
func (nilSealer) Open([]byte, ...string) (*memsafe.Secret, error)     { return nil, nil }
func (nilSealer) TakeBack([]byte, ...string) (*memsafe.Secret, error) { return nil, nil }
func (nilSealer) OpenFrom([]seal.Party, []byte, ...string) (*memsafe.Secret, error) {
	return nil, nil
}
