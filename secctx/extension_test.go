package secctx

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
)

// iface returns the methods of an interface.
func iface[T any]() []string { return methods(reflect.TypeFor[T]()) }

func methods(t reflect.Type) (names []string) {
	for i := range t.NumMethod() {
		names = append(names, t.Method(i).Name)
	}
	slices.Sort(names)
	return names
}

// union returns the methods of a set of extensions over a base.
func union(base []string, extensions [][]string, set int) []string {
	all := slices.Clone(base)
	for i, x := range extensions {
		if set&(1<<i) != 0 {
			all = append(all, x...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// The extensions in the order of the bits of a set.
var (
	providerExtensions = [][]string{
		iface[gssapi.ProviderExtRFC5587](), iface[gssapi.ProviderExtRFC5801](), iface[gssapi.ProviderExtGGF](),
		iface[gssapi.ProviderExtCredPassword](), iface[gssapi.ProviderExtKrb5Identity](), iface[gssapi.ProviderExtCredStore](),
	}
	contextExtensions = [][]string{iface[gssapi.SecContextExtGGF](), iface[gssapi.SecContextExtRFC4121]()}
)

// TestProviderExtensions: for each of the 64 sets, the wrapper has the methods
// of the interfaces that the inner provider has, and no others, and they are
// the inner one's.
func TestProviderExtensions(t *testing.T) {
	h := newHost(t, nil)
	base := iface[gssapi.Provider]()
	half := []string{"ImportHalf"} // always there, for package spnego's function
	for set := range 1 << len(providerExtensions) {
		fake := &fakeProvider{name: "fake"}
		inner := fake.combine(set)
		want := union(base, providerExtensions, set)
		require.Equal(t, want, methods(reflect.TypeOf(inner)), "the fake itself, set %d", set)
		p := Wrap(inner, h)
		require.Equal(t, union(want, [][]string{half}, 1), methods(reflect.TypeOf(p)), "set %d", set)
		require.Equal(t, extensionCalls(inner), extensionCalls(p), "set %d", set)
		half := len(fake.log) / 2
		require.Equal(t, fake.log[:half], fake.log[half:], "the inner provider was asked otherwise, set %d", set)
		require.Equal(t, set&^(1<<2) != 0, half > 0)
	}
}

// extensionCalls calls what a provider has, but ImportCredential, which is sealed, and
// returns the answers.
func extensionCalls(p gssapi.Provider) (out []any) {
	add := func(v ...any) { out = append(out, v...) }
	add(p.Name())
	if x, ok := p.(gssapi.ProviderExtRFC5587); ok {
		m, err := x.IndicateMechsByAttrs(nil, nil, nil)
		add("5587", m, err)
	}
	if x, ok := p.(gssapi.ProviderExtRFC5801); ok {
		i, err := x.InquireSASLNameForMech(gssapi.GSS_MECH_KRB5)
		add("5801", i, err)
		m, err := x.InquireMechForSASLName("GS2")
		add(m, err)
	}
	if x, ok := p.(gssapi.ProviderExtCredPassword); ok {
		c, err := x.AcquireCredentialWithPassword(nil, "password", time.Minute, nil, 0)
		add("password", c, err)
	}
	if x, ok := p.(gssapi.ProviderExtKrb5Identity); ok {
		add("identity", x.RegisterAcceptorIdentity("keytab"), x.SetCCacheName("ccache"))
	}
	if x, ok := p.(gssapi.ProviderExtCredStore); ok {
		c, err := x.AcquireCredentialFrom(nil, nil, 0, nil)
		add("store", c, err)
	}
	return out
}

// TestAnswers: nil is an error where a result is owed. What comes beside an error
// is passed on, and the error is the inner one's.
func TestAnswers(t *testing.T) {
	var pointer *fakeName
	name, err := answer[gssapi.GssName](pointer, nil)
	require.Equal(t, errNothing, err)
	require.True(t, name == nil)
	name, err = answer[gssapi.GssName](pointer, errFake)
	require.Equal(t, errFake, err)
	require.True(t, name == nil)
	name, err = answer[gssapi.GssName](alice, errFake)
	require.Equal(t, errFake, err)
	require.Equal(t, alice, name)

	list, err := answers([]gssapi.GssName{alice, pointer}, nil)
	require.Equal(t, errNothing, err)
	require.Nil(t, list)
	list, err = answers([]gssapi.GssName{alice, pointer}, errFake)
	require.Equal(t, errFake, err)
	require.Len(t, list, 2)
	list, err = answers[gssapi.GssName](nil, nil)
	require.NoError(t, err)
	require.Empty(t, list)
}

// TestContextExtensions: the same for the 4 sets of a context, whichever way it
// was made, and behind the gate.
func TestContextExtensions(t *testing.T) {
	h := newHost(t, nil)
	base := iface[gssapi.SecContext]()
	half := [][]string{{"ExportHalf"}} // always there, for package spnego's function
	for set := range 1 << len(contextExtensions) {
		want := union(base, contextExtensions, set)
		require.Equal(t, want, methods(reflect.TypeOf((&fakeSecContext{}).combine(set))), "the fake itself, set %d", set)
		want = union(want, half, 1)
		r := newRigOf(t, &Config{Sealer: h}, &fakeProvider{contextSet: set, importSet: set})
		require.Equal(t, want, methods(reflect.TypeOf(r.sc)), "accepted, set %d", set)
		name, err := r.p.ImportName("host@x", gssapi.GSS_NT_HOSTBASED_SERVICE)
		require.NoError(t, err)
		sc, err := r.p.InitSecContext(name)
		require.NoError(t, err)
		require.Equal(t, want, methods(reflect.TypeOf(sc)), "initiated, set %d", set)

		token, err := Export(r.sc, seal.Party{})
		require.NoError(t, err)
		r.dead(t, r.sc)
		sc, err = r.p.ImportSecContext(token)
		require.NoError(t, err)
		require.Equal(t, want, methods(reflect.TypeOf(sc)), "imported, set %d", set)
		r.talk(t, sc)
	}
}

// TestContextExtensionCalls: what they do on a live context is the mechanism's.
func TestContextExtensionCalls(t *testing.T) {
	r := newRigOf(t, &Config{Sealer: newHost(t, nil)}, &fakeProvider{contextSet: 3})
	aead := r.sc.(gssapi.SecContextExtRFC4121)
	out, conf, err := aead.WrapAEAD([]byte("message "), []byte("header"), true, 0)
	require.NoError(t, err)
	require.True(t, conf)
	msg, _, _, err := r.peer.Unwrap(out)
	require.NoError(t, err)
	require.Equal(t, "message header", string(msg))
	out, _, err = r.peer.Wrap([]byte("message header"), true, 0)
	require.NoError(t, err)
	msg, conf, err = aead.UnwrapAEAD(out, []byte("header"))
	require.NoError(t, err)
	require.True(t, conf)
	require.Equal(t, "message ", string(msg))
	ggf := r.sc.(gssapi.SecContextExtGGF)
	require.NoError(t, ggf.SetOption(gssapi.Oid("option"), []byte("value")))
	require.Equal(t, []string{"SetOption option value"}, r.fake.log)
}

// TestExtensionGoneAfterTakeBack: the handle keeps its methods, the context that
// came back may have fewer.
func TestExtensionGoneAfterTakeBack(t *testing.T) {
	r := newRigOf(t, &Config{Sealer: newHost(t, nil)}, &fakeProvider{contextSet: 3, importSet: 0})
	token, err := r.sc.Export()
	require.NoError(t, err)
	require.NoError(t, TakeBack(r.sc, token))
	for _, name := range []string{"InquireByOid", "SetOption", "WrapAEAD", "UnwrapAEAD"} {
		out, err := calls(r.sc)[name]()
		require.ErrorIs(t, err, gssapi.ErrUnavailable, name)
		require.Empty(t, out, name)
	}
	r.talk(t, r.sc)
}

// TestInquireByOid: the identifiers that give keys away are refused, and the
// mechanism is not asked; those known to be harmless, and those allowed, pass.
func TestInquireByOid(t *testing.T) {
	const mit, heimdal = "\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x05", "\x2a\x85\x70\x2b\x0d"
	r := newRigOf(t, &Config{Sealer: newHost(t, nil), AllowInquire: []gssapi.Oid{gssapi.Oid(mit + "\x06"), nil}},
		&fakeProvider{contextSet: 1})
	x := r.sc.(gssapi.SecContextExtGGF)
	for _, tc := range []struct {
		name    string
		oid     string
		allowed bool
	}{
		{"MIT ticket flags", mit + "\x01", true},
		{"MIT authorization data of type 128", mit + "\x0a\x81\x00", true},
		{"MIT time of authentication", mit + "\x0c", true},
		{"SASL strength", mit + "\x0f", true},
		{"Heimdal ticket flags", heimdal + "\x02", true},
		{"Heimdal authorization data of type 1", heimdal + "\x03\x01", true},
		{"Heimdal time of authentication", heimdal + "\x0c", true},
		{"MIT lucid context 1, allowed by Config", mit + "\x06\x01", true},
		{"session key", mit + "\x05", false},
		{"session key, with an arc more", mit + "\x05\x01", false},
		{"NegoEx key", mit + "\x10", false},
		{"NegoEx key to verify", mit + "\x11", false},
		{"Heimdal lucid context", heimdal + "\x06\x01", false},
		{"Heimdal subkey", heimdal + "\x08", false},
		{"Heimdal initiator subkey", heimdal + "\x09", false},
		{"Heimdal acceptor subkey", heimdal + "\x0a", false},
		{"Heimdal service key", heimdal + "\x0d", false},
		{"NTLM session key", heimdal + "\x14", false},
		{"arc above", mit, false},
		{"an arc that begins alike", mit + "\x81\x01", false},
		{"unknown", "\x2a\x03", false},
		{"nothing", "", false},
	} {
		asked := false
		r.fake.at = func(string) error { asked = true; return nil }
		data, err := x.InquireByOid(gssapi.Oid(tc.oid))
		require.Equal(t, tc.allowed, asked, tc.name)
		if tc.allowed {
			require.NoError(t, err, tc.name)
			require.Len(t, data, 2, tc.name)
			continue
		}
		require.ErrorIs(t, err, gssapi.ErrUnavailable, tc.name)
		require.Nil(t, data, tc.name)
	}
}
