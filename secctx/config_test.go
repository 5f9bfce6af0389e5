package secctx

import (
	"runtime"
	"strings"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
)

// named is a provider that names its plain format.
type named struct {
	gssapi.Provider
	format string
}

func (n named) PlainFormat() string { return n.format }

// reader is a provider that reads other formats than its own.
type reader struct{ gssapi.Provider }

func (reader) PlainFormat() string     { return "own/1" }
func (reader) ImportFormats() []string { return []string{"other/1", "cred/other/1"} }

func TestPlainFormat(t *testing.T) {
	fake := &fakeProvider{name: "example.org/mechanism"}
	long := strings.Repeat("x", 65)
	formats, err := plainFormats("", reader{fake})
	require.NoError(t, err)
	require.Len(t, formats, 3)
	require.Equal(t, []string{"own/1", "other/1"}, formats[:2])
	require.NotContains(t, formats[2], credentialPrefix, "a credential's format is no context's")
	for _, tc := range []struct {
		name     string
		config   string
		provider gssapi.Provider
		want     string
	}{
		{"name and architecture", "", fake, "example.org/mechanism/" + runtime.GOARCH},
		{"provider's own", "", named{fake, "krb5/1"}, "krb5/1"},
		{"provider's own is empty", "", named{fake, ""}, "example.org/mechanism/" + runtime.GOARCH},
		{"configured", "mit/1/amd64", named{fake, "krb5/1"}, "mit/1/amd64"},
		{"longest", long[:64], fake, long[:64]},
		{"too long", long, fake, long[:47] + "#9537c5fdf120482f"},
		{"space", "my format", fake, "my_format#3fbc7034851c6eed"},
		{"not ASCII", "käse", fake, "k_se#28f37578d6827128"},
		{"no UTF-8", "\xff", fake, "_#a8100ae6aa1940d0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			formats, err := plainFormats(tc.config, tc.provider)
			require.NoError(t, err)
			require.Equal(t, []string{tc.want}, formats)
		})
	}
}

// TestAnyFormatSeals: no name makes the sealer refuse.
func TestAnyFormatSeals(t *testing.T) {
	h := newHost(t, nil)
	_, err := h.Reserve(seal.Request{Format: "my format"})
	require.Error(t, err, "positive control: the sealer refuses it")
	for _, format := range []string{"my format", "käse", strings.Repeat("x", 500), "\x00\xff", "a"} {
		r := newRigOf(t, &Config{Sealer: h, Format: format}, &fakeProvider{})
		token, err := r.sc.Export()
		require.NoError(t, err)
		sc, err := r.p.ImportSecContext(token)
		require.NoError(t, err)
		r.talk(t, sc)
	}
}

// TestConfigIsCopied: what is changed after Wrap changes nothing.
func TestConfigIsCopied(t *testing.T) {
	c := &Config{Sealer: newHost(t, nil), AllowInquire: []gssapi.Oid{gssapi.Oid("abc")}}
	r := newRigOf(t, c, &fakeProvider{contextSet: 1})
	c.AllowInquire[0][0] = 'x'
	c.Sealer, c.Audience, c.Format = nil, seal.Group(4711), "other"
	_, err := r.sc.(gssapi.SecContextExtGGF).InquireByOid(gssapi.Oid("abc"))
	require.NoError(t, err)
	_, err = r.sc.Export()
	require.NoError(t, err)
}

func TestWrapNothing(t *testing.T) {
	h := newHost(t, nil)
	require.Panics(t, func() { Wrap(nil, h) })
	require.Panics(t, func() { Wrap(&fakeProvider{}, nil) })
	require.Panics(t, func() { Wrap(&fakeProvider{}, (*seal.Host)(nil)) })
	require.NotPanics(t, func() { Wrap(&fakeProvider{}, h) })
}

// TestWrapTwice: a wrapped provider is a provider.
func TestWrapTwice(t *testing.T) {
	h := newHost(t, nil)
	fake := &fakeProvider{name: "fake"}
	r := &rig{fake: fake, p: (&Config{Sealer: h, Format: "outer"}).Wrap(Wrap(fake.combine(0), h))}
	r.establish(t)
	token, err := r.sc.Export()
	require.NoError(t, err)
	sc, err := r.p.ImportSecContext(token)
	require.NoError(t, err)
	r.talk(t, sc)
}
