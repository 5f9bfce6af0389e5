package secctx

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	ghttp "github.com/golang-auth/go-gssapi/v3/http"
	"github.com/stretchr/testify/require"
)

// halfNegotiation is a NegTokenInit that offers Kerberos and has nothing of it.
const halfNegotiation = "YBsGBisGAQUFAqARMA+gDTALBgkqhkiG9xIBAgI="

// leg is one answer of Continue, and of ContinueNeeded after it.
type leg struct {
	out  []byte
	info gssapi.SecContextInfoPartial
	more bool
	err  error
}

// scripted is a provider whose acceptors answer leg after leg.
type scripted struct {
	gssapi.Provider
	legs    []leg
	deletes int
}

func (p *scripted) InitSecContext(gssapi.GssName, ...gssapi.InitSecContextOption) (gssapi.SecContext, error) {
	return p.AcceptSecContext()
}

func (p *scripted) AcceptSecContext(...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	return &scriptedContext{SecContext: (&fakeProvider{}).newContext(), p: p, legs: p.legs, now: leg{more: true}}, nil
}

type scriptedContext struct {
	gssapi.SecContext
	p    *scripted
	legs []leg
	now  leg
}

func (c *scriptedContext) Continue([]byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	c.now, c.legs = c.legs[0], c.legs[1:]
	return c.now.out, c.now.info, c.now.err
}
func (c *scriptedContext) ContinueNeeded() bool { return c.now.more }
func (c *scriptedContext) Inquire() (*gssapi.SecContextInfo, error) {
	return &gssapi.SecContextInfo{SecContextInfoPartial: c.now.info}, nil
}
func (c *scriptedContext) Delete() ([]byte, error) { c.p.deletes++; return nil, nil }

// info returns what a mechanism says of a context with this initiator.
func info(name gssapi.GssName, established bool) gssapi.SecContextInfoPartial {
	return gssapi.SecContextInfoPartial{InitiatorName: name, Mech: gssapi.GSS_MECH_SPNEGO, FullyEstablished: established, Transferrable: true}
}

var (
	alice     = &fakeName{text: "alice@EXAMPLE.TEST"}
	anonymous = &fakeName{text: "WELLKNOWN/ANONYMOUS@WELLKNOWN:ANONYMOUS"}
	noName    *fakeName // go-gssapi-c's way to say that there is no name
	reply     = []byte("accept-incomplete")
)

// The first leg of a negotiation, as mechanisms may answer it. Bare is what
// go-gssapi's handler makes of it without the wrapper.
var firstLegs = []struct {
	name   string
	leg    leg
	bare   string
	served bool // over the wrapper
}{
	{"half open, nil pointer for a name", leg{reply, info(noName, false), true, nil}, "panic", false},
	{"half open, no name", leg{reply, info(nil, false), true, nil}, "served", false},
	{"half open, a name already", leg{reply, info(alice, false), true, nil}, "served", false},
	{"half open, no token", leg{nil, info(nil, false), true, nil}, "served", false},
	{"half open, empty token", leg{[]byte{}, info(noName, false), true, nil}, "panic", false},
	{"half open, nothing said", leg{nil, gssapi.SecContextInfoPartial{}, true, nil}, "served", false},
	{"said to be established, more needed", leg{reply, info(alice, true), true, nil}, "served", false},
	{"said to be half open, no more needed", leg{reply, info(alice, false), false, nil}, "served", false},
	{"nothing said, no more needed", leg{nil, gssapi.SecContextInfoPartial{}, false, nil}, "served", false},
	{"half open, initiated here", leg{reply, gssapi.SecContextInfoPartial{LocallyInitiated: true}, true, nil}, "served", false},
	{"half open, an anonymous name", leg{reply, info(anonymous, false), true, nil}, "served", false},
	{"established, nil pointer for a name", leg{nil, info(noName, true), false, nil}, "panic", false},
	{"established, no name", leg{nil, info(nil, true), false, nil}, "served", false},
	{"refused", leg{reply, info(alice, true), false, gssapi.ErrDefectiveToken}, "refused", false},
	{"positive control: established", leg{nil, info(alice, true), false, nil}, "served", true},
	{"positive control: established, last token", leg{reply, info(alice, true), false, nil}, "served", true},
	{"positive control: anonymous by name", leg{nil, info(anonymous, true), false, nil}, "served", true},
}

// negotiate sends a request with the first half of a negotiation to go-gssapi's
// handler over p. It returns what became of it, and the user that was served.
func negotiate(t *testing.T, p gssapi.Provider, around func(http.Handler) http.Handler) (became, user string) {
	t.Helper()
	next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		became = "served"
		if name, ok := ghttp.GetInitiatorName(r); ok {
			user = name.PrincipalName
		}
	})
	h, err := ghttp.NewHandler(p, next)
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Negotiate "+halfNegotiation)
	// The handler logs to its server's log.
	server := &http.Server{ErrorLog: log.New(io.Discard, "", 0)}
	r = r.WithContext(context.WithValue(r.Context(), http.ServerContextKey, server))
	w := httptest.NewRecorder()
	defer func() {
		if recover() != nil {
			became = "panic"
		}
	}()
	around(h).ServeHTTP(w, r)
	if became == "" {
		require.Equal(t, http.StatusForbidden, w.Code)
		require.Empty(t, w.Header().Get("WWW-Authenticate"))
		became = "refused"
	}
	return became, user
}

func directly(h http.Handler) http.Handler { return h }

// TestHalfOpenNeverServed drives go-gssapi's own HTTP handler: over the wrapper it
// serves nobody whose context is not established. The bare column is the control;
// a release of go-gssapi that mends its handler changes it.
func TestHalfOpenNeverServed(t *testing.T) {
	h := newHost(t, nil)
	for _, tc := range firstLegs {
		t.Run(tc.name, func(t *testing.T) {
			p := &scripted{Provider: &fakeProvider{name: "fake"}, legs: []leg{tc.leg}}
			became, _ := negotiate(t, noLocalname{p}, directly)
			require.Equal(t, tc.bare, became, "positive control: without the wrapper")

			for name, over := range map[string]gssapi.Provider{
				"wrapped":                   Wrap(noLocalname{p}, h),
				"wrapped twice":             Wrap(Wrap(noLocalname{p}, h), h),
				"wrapped, within another":   struct{ gssapi.Provider }{Wrap(noLocalname{p}, h)},
				"wrapped, in a middle ware": Wrap(noLocalname{p}, h),
			} {
				p.deletes = 0
				keep := &keeper{Provider: over}
				around := directly
				if name == "wrapped, in a middle ware" {
					around = func(h http.Handler) http.Handler { return http.StripPrefix("", http.MaxBytesHandler(h, 1000)) }
				}
				became, user := negotiate(t, keep, around)
				if tc.served {
					require.Equal(t, "served", became, name)
					require.Equal(t, tc.leg.info.InitiatorName.(*fakeName).text, user, name)
				} else {
					require.Equal(t, "refused", became, name)
				}
				if tc.leg.err == nil {
					require.Equal(t, 1, p.deletes, "%s: the context was left behind", name)
					_, _, err := keep.made.Continue([]byte("leg 2"))
					require.ErrorIs(t, err, gssapi.ErrNoContext, name)
					_, err = keep.made.Delete()
					require.NoError(t, err)
					require.Equal(t, 1, p.deletes, "%s: the context was deleted twice", name)
				}
			}
		})
	}
}

// keeper keeps the acceptor that it made.
type keeper struct {
	gssapi.Provider
	made gssapi.SecContext
}

func (k *keeper) AcceptSecContext(o ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	var err error
	k.made, err = k.Provider.AcceptSecContext(o...)
	return k.made, err
}

// noLocalname is a provider without the extension, for which the handler would
// convert the name.
type noLocalname struct{ gssapi.Provider }

func (noLocalname) HasExtension(gssapi.GssapiExtension) bool { return false }

// TestHonestAcceptor: a caller that looks goes on with the next leg, also within
// an HTTP handler of its own, and learns no name and takes no credential before
// the context is established.
func TestHonestAcceptor(t *testing.T) {
	for _, name := range []*fakeName{noName, alice} {
		half := info(name, false)
		half.DelegatedCredential = &fakeCredential{}
		full := info(alice, true)
		full.DelegatedCredential = &fakeCredential{}
		inner := &scripted{Provider: &fakeProvider{name: "fake"}, legs: []leg{{reply, half, true, nil}, {nil, full, false, nil}}}
		p := Wrap(inner, newHost(t, nil))
		establish := func() {
			sc, err := p.AcceptSecContext()
			require.NoError(t, err)
			out, got, err := sc.Continue([]byte("leg 1"))
			require.NoError(t, err)
			require.Equal(t, reply, out)
			require.True(t, sc.ContinueNeeded())
			require.False(t, got.FullyEstablished)
			require.True(t, got.InitiatorName == nil, "a name before it is authenticated")
			require.True(t, got.DelegatedCredential == nil)
			require.Equal(t, gssapi.GSS_MECH_SPNEGO, got.Mech)
			inquired, err := sc.Inquire()
			require.NoError(t, err, "RFC 2743 2.2.6 allows it")
			require.False(t, inquired.FullyEstablished)
			require.True(t, inquired.InitiatorName == nil)
			require.Equal(t, gssapi.GSS_MECH_SPNEGO, inquired.Mech)
			_, err = sc.Export()
			require.ErrorIs(t, err, errHalf)

			_, got, err = sc.Continue([]byte("leg 2"))
			require.NoError(t, err)
			require.False(t, sc.ContinueNeeded())
			require.True(t, got.FullyEstablished)
			require.Equal(t, alice, got.InitiatorName)
			require.NotNil(t, got.DelegatedCredential)
		}
		establish()
		served := false
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) { establish(); served = true }).
			ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		require.True(t, served)
		require.Zero(t, inner.deletes)
	}
}

// TestInitiatorKnowsItself: an initiator's own name is no identity to be believed,
// and stays.
func TestInitiatorKnowsItself(t *testing.T) {
	inner := &scripted{Provider: &fakeProvider{name: "fake"}, legs: []leg{{reply, info(alice, false), true, nil}}}
	sc, err := Wrap(inner, newHost(t, nil)).InitSecContext(&fakeName{})
	require.NoError(t, err)
	_, got, err := sc.Continue(nil)
	require.NoError(t, err)
	require.False(t, got.FullyEstablished)
	require.Equal(t, alice, got.InitiatorName)
	inquired, err := sc.Inquire()
	require.NoError(t, err)
	require.Equal(t, alice, inquired.InitiatorName)
}

// TestErrorTellsNothing: what a mechanism says beside an error is not passed on,
// but for the token, which is the peer's.
func TestErrorTellsNothing(t *testing.T) {
	inner := &scripted{Provider: &fakeProvider{name: "fake"}, legs: []leg{{reply, info(alice, true), false, gssapi.ErrBadMic}}}
	sc, err := Wrap(inner, newHost(t, nil)).AcceptSecContext()
	require.NoError(t, err)
	out, got, err := sc.Continue(nil)
	require.ErrorIs(t, err, gssapi.ErrBadMic)
	require.Equal(t, reply, out)
	require.Zero(t, got)
}

// TestDoneByOneSideOnly: a context of which the mechanism says two things is not
// established, for callers that look at either.
func TestDoneByOneSideOnly(t *testing.T) {
	for _, l := range []leg{{reply, info(alice, true), true, nil}, {reply, info(alice, false), false, nil}} {
		p := Wrap(&scripted{Provider: &fakeProvider{name: "fake"}, legs: []leg{l}}, newHost(t, nil))
		sc, err := p.AcceptSecContext()
		require.NoError(t, err)
		_, got, err := sc.Continue(nil)
		require.NoError(t, err)
		require.False(t, got.FullyEstablished)
		require.True(t, got.InitiatorName == nil)
	}
}
