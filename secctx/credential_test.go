package secctx

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	tokens "github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
)

// newExporter returns a provider whose credentials can be exported, wrapped, and one
// of its credentials.
func newExporter(t *testing.T, c *Config, set int) (exporter, gssapi.ProviderExtGGF, gssapi.CredentialExtGGF) {
	t.Helper()
	inner := exporter{&fakeProvider{name: "fake", credentialSet: set}}
	p := c.Wrap(inner).(gssapi.ProviderExtGGF)
	cred, err := p.AcquireCredential(nil, nil, 0, nil)
	require.NoError(t, err)
	return inner, p, cred.(gssapi.CredentialExtGGF)
}

// secretOf asks the mechanism for the secret of a credential that callers hold.
func secretOf(t *testing.T, p gssapi.Provider, inner exporter, cred gssapi.Credential) string {
	t.Helper()
	_, err := p.AcceptSecContext(gssapi.WithAcceptorCredential(cred))
	require.NoError(t, err)
	accepted := inner.used
	_, err = p.InitSecContext(&fakeName{}, gssapi.WithInitiatorCredential(cred))
	require.NoError(t, err)
	require.Equal(t, accepted, inner.used)
	return accepted
}

const aliceKey = "session key of alice"

// TestCredentialExport: the export of a credential is sealed and opens once, and the
// exporter keeps the credential.
func TestCredentialExport(t *testing.T) {
	h := newHost(t, nil)
	inner, p, cred := newExporter(t, &Config{Sealer: h}, 0)
	control, err := bare(cred).(gssapi.CredentialExtGGF).Export()
	require.NoError(t, err)
	require.Contains(t, string(control), aliceKey, "positive control: the mechanism's own export is in clear")

	for range 2 {
		token, err := cred.Export()
		require.NoError(t, err)
		require.NotContains(t, string(token), aliceKey)
		require.Equal(t, strings.Repeat("\x00", len(inner.plain)), string(inner.plain), "the plain token was not wiped")
		require.Equal(t, 1, outstanding(t, h))
		require.Equal(t, aliceKey, secretOf(t, p, inner, cred), "the exporter lost its credential")

		before := inner.imports.Load()
		got, err := p.ImportCredential(token)
		require.NoError(t, err)
		require.Equal(t, aliceKey, secretOf(t, p, inner, got))
		require.Contains(t, string(inner.importedCopy), aliceKey)
		require.Equal(t, strings.Repeat("\x00", len(inner.imported)), string(inner.imported), "the plain token was not wiped")
		require.Zero(t, outstanding(t, h))

		_, err = p.ImportCredential(token)
		require.ErrorIs(t, err, seal.ErrSpent)
		require.ErrorIs(t, err, gssapi.ErrNoCred)
		require.NotErrorIs(t, err, gssapi.ErrNoContext)
		require.Equal(t, before+1, inner.imports.Load(), "the mechanism saw the second import")
		cred = got.(gssapi.CredentialExtGGF) // an imported credential can be exported again
	}
}

// TestCredentialIsNoContext: neither token can be taken for the other, whatever the
// plain format is called. The refusals spend nothing.
func TestCredentialIsNoContext(t *testing.T) {
	for _, format := range []string{"", "fake/1", "cred/fake/1", "cred/", strings.Repeat("x", 64), "cred/" + strings.Repeat("x", 59)} {
		t.Run(format, func(t *testing.T) {
			h := newHost(t, nil)
			inner, p, cred := newExporter(t, &Config{Sealer: h, Format: format}, 0)
			r := &rig{fake: inner.fakeProvider, p: p}
			r.establish(t)
			context, err := r.sc.Export()
			require.NoError(t, err)
			credential, err := cred.Export()
			require.NoError(t, err)

			_, err = p.ImportCredential(context)
			require.ErrorIs(t, err, seal.ErrFormat)
			require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
			_, err = p.ImportSecContext(credential)
			require.ErrorIs(t, err, seal.ErrFormat)
			require.Equal(t, errDefective, TakeBack(r.sc, credential))
			require.Zero(t, inner.imports.Load(), "the mechanism saw a token")

			// A program that uses the one's format for the other does not get there.
			head, err := seal.Inspect(credential)
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(head.Format, "cred/"), head.Format)
			_, err = (&Config{Sealer: h, Format: head.Format}).Wrap(inner).ImportSecContext(credential)
			require.ErrorIs(t, err, seal.ErrFormat)

			// The positive control: where they belong.
			_, err = p.ImportCredential(credential)
			require.NoError(t, err)
			sc, err := p.ImportSecContext(context)
			require.NoError(t, err)
			r.talk(t, sc)
		})
	}
}

// TestCredentialFormats: all names of contexts and of credentials are different.
func TestCredentialFormats(t *testing.T) {
	names := []string{"x", "cred/x", "cred_x", "cred/cred/x", "cred/", "cred", "", strings.Repeat("y", 64), "cred/" + strings.Repeat("y", 59), strings.Repeat("y", 200), "cred/ ", " "}
	seen := map[string]string{}
	for _, name := range names {
		c := contextFormat(name)
		for kind, format := range map[string]string{"context " + name: c, "credential " + name: credentialFormat(c)} {
			require.Empty(t, seen[format], "%q is %q too", format, kind)
			seen[format] = kind
			require.LessOrEqual(t, len(format), maxFormat)
			require.Equal(t, strings.HasPrefix(kind, "credential"), strings.HasPrefix(format, credentialPrefix), format)
		}
	}
}

// TestCredentialAudience: the method exports for the configured audience, the
// function for the one it is given. Both keep to the configured lifetime.
func TestCredentialAudience(t *testing.T) {
	h := newHost(t, nil)
	other, err := seal.Process(1) // not this process, but alive
	require.NoError(t, err)
	inner, p, cred := newExporter(t, &Config{Sealer: h, Audience: other, Lifetime: 7 * time.Second}, 0)
	token, err := cred.Export()
	require.NoError(t, err)
	head, err := seal.Inspect(token)
	require.NoError(t, err)
	require.Equal(t, other, head.Audience)
	require.Equal(t, 7*time.Second, head.Expires-head.Issued)
	_, err = p.ImportCredential(token)
	require.ErrorIs(t, err, seal.ErrUnauthorized)
	require.ErrorIs(t, err, gssapi.ErrUnauthorized)
	require.Zero(t, inner.imports.Load())

	token, err = ExportCredential(cred, seal.Party{})
	require.NoError(t, err)
	_, err = p.ImportCredential(token)
	require.NoError(t, err)

	token, err = ExportCredential(cred, seal.Party{})
	require.NoError(t, err)
	stranger := (&Config{Sealer: h, Exporters: []seal.Party{seal.User(uint32(os.Geteuid()) + 1)}}).Wrap(inner).(gssapi.ProviderExtGGF)
	_, err = stranger.ImportCredential(token)
	require.ErrorIs(t, err, seal.ErrUnauthorized, "an exporter that is not trusted")
	_, err = p.ImportCredential(token)
	require.NoError(t, err)

	_, err = ExportCredential(cred, seal.Group(4711))
	require.ErrorIs(t, err, seal.ErrRequest)
	require.ErrorIs(t, err, gssapi.ErrFailure)
	for _, c := range []gssapi.Credential{nil, &fakeCredential{}, bare(cred)} {
		_, err = ExportCredential(c, seal.Party{})
		require.ErrorIs(t, err, gssapi.ErrUnavailable)
	}
}

// TestCredentialFaults: whatever fails, there is no token, no slot is taken, and the
// exporter has its credential.
func TestCredentialFaults(t *testing.T) {
	for _, tc := range []struct {
		name  string
		cause func(*fakeProvider, *failing)
		err   error
	}{
		{"reserve", func(_ *fakeProvider, s *failing) { s.reserve = seal.ErrUnavailable }, seal.ErrUnavailable},
		{"policy", func(_ *fakeProvider, s *failing) { s.reserve = seal.ErrUnauthorized }, gssapi.ErrUnauthorized},
		{"mechanism", func(b *fakeProvider, _ *failing) { b.at = func(string) error { return gssapi.ErrCredentialsExpired } }, gssapi.ErrCredentialsExpired},
		{"empty token", func(b *fakeProvider, _ *failing) { b.empty = true }, errEmptyToken},
		{"too large", func(b *fakeProvider, _ *failing) { b.pad = tokens.MaxPlain }, seal.ErrRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t, nil)
			s := &failing{Sealer: h}
			inner, p, cred := newExporter(t, &Config{Sealer: s}, 0)
			tc.cause(inner.fakeProvider, s)
			token, err := cred.Export()
			require.Nil(t, token)
			require.ErrorIs(t, err, tc.err)
			require.NotContains(t, string(inner.plain), aliceKey)
			require.Zero(t, outstanding(t, h))
			inner.at, inner.empty, inner.pad, s.reserve = nil, false, 0, nil
			token, err = cred.Export()
			require.NoError(t, err)
			_, err = p.ImportCredential(token)
			require.NoError(t, err)
		})
	}
}

// TestCredentialImportFaults: before the claim nothing is spent; after it the error
// says that the token is, and nothing of the plain token is left.
func TestCredentialImportFaults(t *testing.T) {
	h := newHost(t, nil)
	s := &failing{Sealer: h}
	inner, p, cred := newExporter(t, &Config{Sealer: s}, 0)
	token, err := cred.Export()
	require.NoError(t, err)
	for _, bad := range [][]byte{nil, []byte("cred"), token[1:], append([]byte{}, token[:len(token)-1]...), append(append([]byte{}, token...), 0)} {
		_, err := p.ImportCredential(bad)
		require.ErrorIs(t, err, seal.ErrDefective)
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	}
	for _, refusal := range []struct{ err, status error }{
		{seal.ErrUnavailable, gssapi.ErrFailure},
		{seal.ErrUnauthorized, gssapi.ErrUnauthorized},
		{seal.ErrExpired, gssapi.ErrNoCred},
		{seal.ErrSpent, gssapi.ErrNoCred},
		{errTooLate, gssapi.ErrNoCred},
		{fmt.Errorf("%w: %v", seal.ErrLost, seal.ErrDefective), gssapi.ErrNoCred}, // at the agent
	} {
		s.open = refusal.err
		_, err = p.ImportCredential(token)
		require.ErrorIs(t, err, refusal.err)
		require.ErrorIs(t, err, refusal.status)
		require.NotErrorIs(t, err, gssapi.ErrNoContext, "no context is lost")
		require.NotErrorIs(t, err, ErrLost)
	}
	s.open = nil
	require.Zero(t, inner.imports.Load())

	inner.at = func(string) error { return errFake }
	_, err = p.ImportCredential(token)
	require.ErrorIs(t, err, errFake)
	require.ErrorIs(t, err, gssapi.ErrDefectiveCredential)
	require.ErrorContains(t, err, "export the credential again")
	require.NotContains(t, string(inner.imported), aliceKey)
	require.Contains(t, string(inner.importedCopy), aliceKey, "positive control")
	inner.at = nil
	_, err = p.ImportCredential(token)
	require.ErrorIs(t, err, seal.ErrSpent)
	require.Equal(t, aliceKey, secretOf(t, p, inner, cred))
}

// TestEveryCredentialIsSealed: by whichever call a credential comes out of the
// provider, its export is sealed, and the provider knows it when it comes back.
func TestEveryCredentialIsSealed(t *testing.T) {
	h := newHost(t, nil)
	inner, p, first := newExporter(t, &Config{Sealer: h}, 31)
	sealed := func(cred gssapi.Credential, err error) {
		t.Helper()
		require.NoError(t, err)
		token, err := cred.(gssapi.CredentialExtGGF).Export()
		require.NoError(t, err)
		require.NotContains(t, string(token), fakeCredentialMagic)
		require.NotEmpty(t, secretOf(t, p, inner, cred))
	}
	token, err := first.Export()
	require.NoError(t, err)
	sealed(first, nil)
	sealed(p.ImportCredential(token))
	sealed(first.Add(nil, gssapi.GSS_MECH_KRB5, 0, nil, nil, false))
	sealed(first.(gssapi.CredentialExtS4U).AquireImpersonateName(nil, nil, 0, gssapi.GssLifetime{}))
	sealed(first.(gssapi.CredentialExtS4U).AddImpersonateName(first, nil, gssapi.GSS_MECH_KRB5, 0, gssapi.GssLifetime{}, gssapi.GssLifetime{}))
	sealed(first.(gssapi.CredentialExtCredPassword).AddWithPassword(nil, "", gssapi.GSS_MECH_KRB5, 0, gssapi.GssLifetime{}, gssapi.GssLifetime{}))
	sealed(first.(gssapi.CredentialExtCredStore).AddFrom(nil, gssapi.GSS_MECH_KRB5, 0, nil, nil, false))
	for _, changed := range []func() (gssapi.Credential, error){
		func() (gssapi.Credential, error) { return first.Add(nil, gssapi.GSS_MECH_KRB5, 0, nil, nil, true) },
		func() (gssapi.Credential, error) {
			return first.(gssapi.CredentialExtCredStore).AddFrom(nil, gssapi.GSS_MECH_KRB5, 0, nil, nil, true)
		},
	} {
		cred, err := changed()
		require.NoError(t, err)
		require.True(t, cred == nil, "nothing new where the credential itself was changed")
	}

	// A delegated one, by Continue and by Inquire.
	delegated := info(alice, true)
	delegated.DelegatedCredential = &fakeExportable{b: inner.fakeProvider, secret: "delegated"}
	half := &scripted{Provider: inner, legs: []leg{{nil, delegated, false, nil}}}
	over := Wrap(half, h)
	sc, err := over.AcceptSecContext()
	require.NoError(t, err)
	_, got, err := sc.Continue(nil)
	require.NoError(t, err)
	sealed(got.DelegatedCredential, nil)
	inquired, err := sc.Inquire()
	require.NoError(t, err)
	sealed(inquired.DelegatedCredential, nil)

	// The other ways to acquire one, of a provider that has them all.
	every := &everyCredential{exporter: inner}
	all := Wrap(every, h)
	sealed(all.(gssapi.ProviderExtCredPassword).AcquireCredentialWithPassword(nil, "", 0, nil, 0))
	sealed(all.(gssapi.ProviderExtCredStore).AcquireCredentialFrom(nil, nil, 0, nil))
	_, err = first.(gssapi.CredentialExtS4U).AddImpersonateName(&fakeCredential{}, nil, gssapi.GSS_MECH_KRB5, 0, gssapi.GssLifetime{}, gssapi.GssLifetime{})
	require.ErrorIs(t, err, gssapi.ErrDefectiveCredential, "positive control: the mechanism looks at what it is given")
}

// everyCredential acquires credentials in every way.
type everyCredential struct{ exporter }

func (e *everyCredential) AcquireCredentialWithPassword(gssapi.GssName, string, time.Duration, []gssapi.GssMech, gssapi.CredUsage) (gssapi.Credential, error) {
	return e.AcquireCredential(nil, nil, 0, nil)
}

func (e *everyCredential) AcquireCredentialFrom(gssapi.GssName, []gssapi.GssMech, gssapi.CredUsage, *gssapi.GssLifetime, ...gssapi.CredStoreOption) (gssapi.Credential, error) {
	return e.AcquireCredential(nil, nil, 0, nil)
}

// credentialExtensions in the order of the bits of a set.
var credentialExtensions = [][]string{
	iface[gssapi.CredentialExtRFC4178](), iface[gssapi.CredentialExtRFC5588](), iface[gssapi.CredentialExtS4U](),
	iface[gssapi.CredentialExtCredPassword](), iface[gssapi.CredentialExtCredStore](),
}

// TestCredentialExtensions: for each of the 32 sets, a wrapped credential has the
// methods of the interfaces that the inner one has, and no others, and what they
// answer is the inner one's, but for Export and InquireByOid.
func TestCredentialExtensions(t *testing.T) {
	h := newHost(t, nil)
	for set := range 1 << len(credentialExtensions) {
		inner, _, cred := newExporter(t, &Config{Sealer: h}, set)
		want := union(iface[gssapi.CredentialExtGGF](), credentialExtensions, set)
		require.Equal(t, want, methods(reflect.TypeOf(bare(cred))), "the fake itself, set %d", set)
		require.Equal(t, want, methods(reflect.TypeOf(cred)), "set %d", set)
		_, err := cred.Export()
		require.NoError(t, err)
		for _, method := range want {
			switch method {
			case "Export", "InquireByOid", "Add", "AddFrom", "AddWithPassword", "AquireImpersonateName", "AddImpersonateName":
				continue // TestEveryCredentialIsSealed
			}
			inner.log = nil
			got := callArgs(cred, method)
			from := callArgs(bare(cred), method)
			require.Equal(t, from, got, "%s, set %d", method, set)
		}
	}
}

// callArgs calls a method with arguments that fakes take, and returns the results.
func callArgs(on any, method string) (out []any) {
	m := reflect.ValueOf(on).MethodByName(method)
	var args []reflect.Value
	for i := range m.Type().NumIn() {
		if m.Type().IsVariadic() && i == m.Type().NumIn()-1 {
			break
		}
		arg := reflect.Zero(m.Type().In(i))
		if m.Type().In(i) == reflect.TypeFor[gssapi.GssMech]() {
			arg = reflect.ValueOf(gssapi.GssMech(gssapi.GSS_MECH_KRB5)).Convert(m.Type().In(i))
		}
		args = append(args, arg)
	}
	for _, r := range m.Call(args) {
		out = append(out, r.Interface())
	}
	return out
}

// TestCredentialInquireByOid: an inquiry that might return keys is refused.
func TestCredentialInquireByOid(t *testing.T) {
	inner, _, cred := newExporter(t, &Config{Sealer: newHost(t, nil), AllowInquire: []gssapi.Oid{gssapi.Oid("allowed")}}, 0)
	_, err := cred.InquireByOid(gssapi.Oid("session key"))
	require.ErrorIs(t, err, gssapi.ErrUnavailable)
	require.Empty(t, inner.log)
	_, err = cred.InquireByOid(gssapi.Oid("allowed"))
	require.Equal(t, errFake, err, "positive control: the mechanism's own answer")
}

// TestCredentialsOfOthers: a credential that cannot be exported is the inner one's.
func TestCredentialsOfOthers(t *testing.T) {
	p := Wrap(&fakeProvider{name: "fake"}, newHost(t, nil))
	cred, err := p.AcquireCredential(&fakeName{}, nil, 0, nil)
	require.NoError(t, err)
	require.IsType(t, (*fakeCredential)(nil), cred)
	_, err = p.AcceptSecContext(gssapi.WithAcceptorCredential(cred))
	require.NoError(t, err)
}

// TestCredentialWrappedTwice: two wrappers seal twice, and find the credential.
func TestCredentialWrappedTwice(t *testing.T) {
	h := newHost(t, nil)
	inner := exporter{&fakeProvider{name: "fake"}}
	p := (&Config{Sealer: h, Format: "outer"}).Wrap(Wrap(inner, h)).(gssapi.ProviderExtGGF)
	cred, err := p.AcquireCredential(nil, nil, 0, nil)
	require.NoError(t, err)
	token, err := cred.(gssapi.CredentialExtGGF).Export()
	require.NoError(t, err)
	got, err := p.ImportCredential(token)
	require.NoError(t, err)
	require.Equal(t, aliceKey, secretOf(t, p, inner, got))
}
