package negotiate

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// TestAuthenticated is the usual way: a challenge, a token, the page with the last
// token of mutual authentication. The next request is authenticated anew.
func TestAuthenticated(t *testing.T) {
	r := newRig(t)
	next := &page{t: t}
	s := server(t, r.new(Options{}).Handler(next))
	for range 2 {
		resp := get(t, s.Client(), s.URL)
		require.Equal(t, http.StatusUnauthorized, resp.status)
		require.Equal(t, []string{"Negotiate"}, resp.header.Values("WWW-Authenticate"))
		sc, token := r.token()
		resp = get(t, s.Client(), s.URL, "Authorization", token)
		require.Equal(t, http.StatusOK, resp.status)
		require.Equal(t, "alice@EXAMPLE.TEST", resp.body)
		_, info, err := sc.Continue(decode(t, resp.header))
		require.NoError(t, err)
		require.True(t, info.FullyEstablished, "the client knows the server")
	}
	require.Equal(t, 2, next.called())
	// Scheme names have no case (RFC 9110 section 11.1).
	_, token := r.token()
	require.Equal(t, http.StatusOK, get(t, s.Client(), s.URL, "Authorization", strings.Replace(token, "Negotiate ", "nEGOTIATE  ", 1)).status)
}

// refusals are the headers of requests that must not pass. The values are made
// when they are sent.
var refusals = map[string]func(r *rig) []string{
	"other scheme":      func(*rig) []string { return auth("Basic YWxpY2U6cGFzc3dvcmQ=") },
	"no token":          func(*rig) []string { return auth("Negotiate") },
	"no token, a space": func(*rig) []string { return auth("Negotiate ") },
	"not base64":        func(*rig) []string { return auth("Negotiate !!!!") },
	"not padded":        func(*rig) []string { return auth("Negotiate YBsGBisGAQUFAqARMA+gDTALBgkqhkiG9xIBAgI") },
	"NTLM":              func(*rig) []string { return auth("Negotiate TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAKAGFKAAAADw==") },
	"no mechanisms":     func(*rig) []string { return auth("Negotiate YBAGBisGAQUFAqAGMASgAjAA") },
	"no such mechanism": func(*rig) []string { return auth("Negotiate YBwGBisGAQUFAqASMBCgDjAMBgorBgEEAYI3AgIK") },
	"second leg first":  func(*rig) []string { return auth(encode([]byte{0xa1, 0x07, 0x30, 0x05, 0xa0, 0x03, 0x0a, 0x01, 0x01})) },
	"two fields": func(r *rig) []string {
		_, one := r.token()
		_, two := r.token()
		return append(auth(one), auth(two)...)
	},
	"two in one field": func(r *rig) []string { _, token := r.token(); return auth(token + ", " + token) },
	"altered":          func(r *rig) []string { _, token := r.token(); return auth(alter(token)) },
	"replayed": func(r *rig) []string {
		_, token := r.token()
		a := r.new(Options{})
		require.Equal(r.t, http.StatusOK, serve(a.Handler(&page{t: r.t}), auth(token)...).status)
		return auth(token)
	},
	"Kerberos alone": func(r *rig) []string {
		_, token := r.initiate(r.initiator, r.alice, service)
		return auth(encode(token))
	},
	"another service of the keytab": func(r *rig) []string {
		_, token := r.initiate(r.client, r.ticket(krb5test.Ticket{Service: "nfs/www.example.test"}), "nfs@www.example.test")
		return auth(encode(token))
	},
	"another host of the keytab": func(r *rig) []string {
		_, token := r.initiate(r.client, r.ticket(krb5test.Ticket{Service: "HTTP/other.example.test"}), "HTTP@other.example.test")
		return auth(encode(token))
	},
	"64 KiB": func(*rig) []string { return auth(encode(append([]byte{0x60}, make([]byte, 64<<10)...))) },
	"1 MiB":  func(*rig) []string { return auth(encode(append([]byte{0x60}, make([]byte, 1<<20)...))) },
}

func auth(value string) []string { return []string{"Authorization", value} }

// alter changes one bit of a token's last byte.
func alter(value string) string {
	token, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(value, "Negotiate "))
	token[len(token)-1] ^= 1
	return encode(token)
}

// TestRefused sends what must not pass. Each answer is byte for byte the one to no
// credentials, and the log has the reason.
func TestRefused(t *testing.T) {
	r := newRig(t)
	next := &page{t: t}
	s := server(t, r.new(Options{}).Handler(next))
	want := get(t, s.Client(), s.URL)
	silent := map[string]bool{"other scheme": true, "no token": true, "no token, a space": true} // no failure
	reasons := map[string]bool{}
	for name, fields := range refusals {
		t.Run(name, func(t *testing.T) {
			sent := fields(r.in(t))
			r.log.take()
			require.Equal(t, want, get(t, s.Client(), s.URL, sent...))
			line := r.log.take()
			require.Equal(t, !silent[name], strings.Contains(line, "reason="), "%s", line)
			require.NotContains(t, line, sent[1], "the log has the credentials")
			reasons[line] = true
		})
	}
	require.Zero(t, next.called())
	_, token := r.token()
	require.Equal(t, http.StatusOK, get(t, s.Client(), s.URL, auth(token)...).status, "the control")
}

// in is the rig for another test.
func (r *rig) in(t testing.TB) *rig {
	other := *r
	other.t = t
	return &other
}

// TestAuthorize tells a client that is authenticated and not authorized who it is,
// and nothing more.
func TestAuthorize(t *testing.T) {
	r := newRig(t)
	next := &page{t: t}
	var asked Identity
	a := r.new(Options{Authorize: func(req *http.Request, id Identity) error {
		asked = id
		if from, ok := From(req); !ok || from != id {
			return errors.New("the request has another identity")
		}
		if id.Realm != "EXAMPLE.TEST" || id.User != "bob" {
			return errors.New("not in the list")
		}
		return nil
	}})
	s := server(t, a.Handler(next))
	sc, token := r.token()
	resp := get(t, s.Client(), s.URL, auth(token)...)
	require.Equal(t, http.StatusForbidden, resp.status)
	require.Contains(t, resp.body, "alice@EXAMPLE.TEST")
	require.NotContains(t, resp.body, "list")
	require.Contains(t, r.log.take(), "not in the list")
	_, info, err := sc.Continue(decode(t, resp.header))
	require.NoError(t, err)
	require.True(t, info.FullyEstablished)
	require.Zero(t, next.called())
	require.WithinDuration(t, time.Now().Add(10*time.Hour), asked.Expires, time.Hour)

	_, bob := r.initiate(r.client, r.ticket(krb5test.Ticket{Client: "bob"}), service)
	require.Equal(t, "bob@EXAMPLE.TEST", get(t, s.Client(), s.URL, auth(encode(bob))...).body)
}

// TestEstablished gives the context to a hook, which owns it: here it goes to
// another process, sealed.
func TestEstablished(t *testing.T) {
	r := newRig(t)
	p := secctx.Wrap(r.p, host(t))
	var sealed []byte
	a, err := New(p, &Options{Service: service, Established: func(_ http.ResponseWriter, req *http.Request, sc gssapi.SecContext) {
		var err error
		sealed, err = sc.Export()
		require.NoError(t, err)
		_, ok := From(req)
		require.True(t, ok)
	}})
	require.NoError(t, err)
	defer a.Close() //nolint:errcheck // of the test
	init, token := r.token()
	resp := serve(a.Handler(&page{t: t}), auth(token)...)
	require.Equal(t, http.StatusOK, resp.status)
	_, _, err = init.Continue(decode(t, resp.header))
	require.NoError(t, err)
	sc, err := p.ImportSecContext(sealed)
	require.NoError(t, err)
	message, _, err := init.Wrap([]byte("message"), true, 0)
	require.NoError(t, err)
	plain, _, _, err := sc.Unwrap(message)
	require.NoError(t, err)
	require.Equal(t, "message", string(plain))
}

// TestFallback serves clients without Kerberos, who get the challenge as well. Half
// of a negotiation is not its business.
func TestFallback(t *testing.T) {
	r := newRig(t)
	next := &page{t: t}
	fallback := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, ok := From(req); ok {
			t.Error("somebody is authenticated")
		}
		if strings.HasPrefix(req.Header.Get("Authorization"), "Negotiate") {
			t.Error("the fallback sees the client's token")
		}
		w.Header().Add("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte("who are you, " + req.Header.Get("Authorization")))
	})
	// An authenticator around this one has let the client pass.
	outer := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			h.ServeHTTP(w, withIdentity(req, &Identity{Principal: "outer"}))
		})
	}
	s := server(t, outer(r.new(Options{Fallback: fallback}).Handler(next)))
	for name, value := range map[string]string{"nothing": "", "Basic": "Basic YWxpY2U6cGFzc3dvcmQ=", "a failure": "Negotiate TlRMTVNTUAAB"} {
		resp := get(t, s.Client(), s.URL, auth(value)...)
		require.Equal(t, []string{"Negotiate", `Basic realm="x"`}, resp.header.Values("WWW-Authenticate"), name)
		require.Equal(t, name == "Basic", strings.Contains(resp.body, "Basic YW"))
	}
	resp := get(t, s.Client(), s.URL, auth("Negotiate "+halfToken)...)
	require.Equal(t, http.StatusUnauthorized, resp.status)
	require.NotContains(t, resp.body, "who are you")
	require.NotEmpty(t, decode(t, resp.header))
	require.Zero(t, next.called())
	_, token := r.token()
	require.Equal(t, "alice@EXAMPLE.TEST", get(t, s.Client(), s.URL, auth(token)...).body)
}

// TestProxy speaks the headers of a proxy, and reads no others.
func TestProxy(t *testing.T) {
	r := newRig(t)
	next := &page{t: t}
	s := server(t, r.new(Options{Proxy: true}).Handler(next))
	sc, token := r.token()
	for _, fields := range [][]string{nil, auth(token)} {
		resp := get(t, s.Client(), s.URL, fields...)
		require.Equal(t, http.StatusProxyAuthRequired, resp.status)
		require.Equal(t, []string{"Negotiate"}, resp.header.Values("Proxy-Authenticate"))
		require.Empty(t, resp.header.Values("WWW-Authenticate"))
	}
	resp := get(t, s.Client(), s.URL, "Proxy-Authorization", token, "Authorization", "Bearer of the origin")
	require.Equal(t, http.StatusOK, resp.status)
	out, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(resp.header.Get("Proxy-Authenticate"), "Negotiate "))
	require.NoError(t, err)
	_, _, err = sc.Continue(out)
	require.NoError(t, err)
}

// scripted is a provider whose acceptors answer as they are told.
type scripted struct {
	gssapi.Provider
	info gssapi.SecContextInfoPartial
	more bool
	nil  bool
	ends int
}

func (p *scripted) AcceptSecContext(...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	if p.nil {
		return (*scriptedContext)(nil), nil
	}
	return &scriptedContext{p: p}, nil
}

type scriptedContext struct {
	gssapi.SecContext
	p *scripted
}

func (c *scriptedContext) Continue([]byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	return []byte("out"), c.p.info, nil
}
func (c *scriptedContext) ContinueNeeded() bool    { return c.p.more }
func (c *scriptedContext) Delete() ([]byte, error) { c.p.ends++; return nil, nil }

// credential counts its releases.
type credential struct {
	gssapi.Credential
	released int
}

func (c *credential) Release() error { c.released++; return nil }

// TestDelegated gives a delegated credential to the next handler, and releases it in
// every case, once.
func TestDelegated(t *testing.T) {
	r := newRig(t)
	alice := &scriptedName{text: "alice@EXAMPLE.TEST"}
	deny := func(*http.Request, Identity) error { return errors.New("no") }
	for name, c := range map[string]struct {
		info   gssapi.SecContextInfoPartial
		o      Options
		served bool
	}{
		"served":          {gssapi.SecContextInfoPartial{InitiatorName: alice, FullyEstablished: true}, Options{}, true},
		"not authorized":  {gssapi.SecContextInfoPartial{InitiatorName: alice, FullyEstablished: true}, Options{Authorize: deny}, false},
		"no name":         {gssapi.SecContextInfoPartial{FullyEstablished: true}, Options{}, false},
		"not established": {gssapi.SecContextInfoPartial{InitiatorName: alice}, Options{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			cred := &credential{}
			c.info.DelegatedCredential = cred
			c.o.Service = service
			a, err := New(&scripted{Provider: r.mech, info: c.info}, &c.o)
			require.NoError(t, err)
			defer a.Close() //nolint:errcheck // of the test
			served := false
			resp := serve(a.Handler(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				served = true
				require.Same(t, cred, Delegated(req))
				require.Zero(t, cred.released)
			})), auth("Negotiate YAA=")...)
			require.Equal(t, c.served, served, resp.status)
			require.Equal(t, 1, cred.released)
		})
	}
	require.Nil(t, Delegated(httptest.NewRequest(http.MethodGet, "/", nil)))
}

type scriptedName struct {
	gssapi.GssName
	text string
	err  error
}

func (n *scriptedName) Display() (string, gssapi.GssNameType, error) {
	return n.text, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME, n.err
}

// TestDoubtfulContexts refuses contexts that have a flaw, and leaves none behind.
func TestDoubtfulContexts(t *testing.T) {
	r := newRig(t)
	var none *scriptedName
	alice := &scriptedName{text: "alice@EXAMPLE.TEST"}
	full := func(n gssapi.GssName, f gssapi.ContextFlag) gssapi.SecContextInfoPartial {
		return gssapi.SecContextInfoPartial{InitiatorName: n, FullyEstablished: true, Flags: f}
	}
	for name, c := range map[string]struct {
		p      *scripted
		served bool
	}{
		"control":               {&scripted{info: full(alice, 0)}, true},
		"not established":       {&scripted{info: gssapi.SecContextInfoPartial{InitiatorName: alice}}, false},
		"waits for a token":     {&scripted{info: full(alice, 0), more: true}, false},
		"half, a nil name":      {&scripted{info: gssapi.SecContextInfoPartial{InitiatorName: none}, more: true}, false},
		"no name":               {&scripted{info: full(nil, 0)}, false},
		"a nil pointer":         {&scripted{info: full(none, 0)}, false},
		"an empty name":         {&scripted{info: full(&scriptedName{}, 0)}, false},
		"a name with a newline": {&scripted{info: full(&scriptedName{text: "alice\r\nX: y"}, 0)}, false},
		"a name that fails":     {&scripted{info: full(&scriptedName{text: "alice", err: gssapi.ErrBadName}, 0)}, false},
		"anonymous":             {&scripted{info: full(alice, gssapi.ContextFlagAnon)}, false},
		"no context":            {&scripted{nil: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.p.Provider = r.mech
			a, err := New(c.p, &Options{Service: service})
			require.NoError(t, err)
			defer a.Close() //nolint:errcheck // of the test
			next := &page{t: t}
			resp := serve(a.Handler(next), auth("Negotiate YAA=")...)
			require.Equal(t, c.served, resp.status == http.StatusOK)
			require.Equal(t, c.served, next.called() == 1)
			if !c.p.nil {
				require.Equal(t, 1, c.p.ends, "the context was left behind")
			}
		})
	}
}

// TestNew finds at the start what cannot work.
func TestNew(t *testing.T) {
	r := newRig(t)
	var none *scripted
	for name, c := range map[string]struct {
		p    gssapi.Provider
		o    *Options
		want string
	}{
		"no provider":           {nil, nil, "needs a provider"},
		"a nil pointer":         {none, nil, "needs a provider"},
		"no key":                {r.p, &Options{Service: "HTTP@elsewhere.example.test"}, `no key for the service "HTTP@elsewhere.example.test"`},
		"no service":            {r.p, &Options{Service: "@"}, "service"},
		"bindings":              {r.p, &Options{Service: service, Bindings: 7}, "Options.Bindings"},
		"a cookie of no sealer": {r.p, &Options{Service: service, Half: Cookie(nil, "")}, "needs a sealer"},
		"a cookie of a proxy":   {r.p, &Options{Service: service, Proxy: true, Half: Cookie(host(t), "")}, "proxy"},
		"a cookie's name":       {r.p, &Options{Service: service, Half: Cookie(host(t), "a b")}, "name of a cookie"},
		"a cookie, no SPNEGO":   {r.mech, &Options{Service: service, Half: Cookie(host(t), "")}, "needs a provider of secctx/spnego"},
		"wrapped, no SPNEGO":    {secctx.Wrap(r.mech, host(t)), &Options{Service: service, Half: Cookie(host(t), "")}, "needs a provider of secctx/spnego"},
	} {
		_, err := New(c.p, c.o)
		require.ErrorContains(t, err, c.want, name)
	}
	// Without options it is HTTP/ of this host, which the keytab does not have.
	_, err := New(r.p, nil)
	require.ErrorContains(t, err, "Options.Service")
	_, err = New(secctx.Wrap(r.p, host(t)), &Options{Service: service, Half: Cookie(host(t), "")})
	require.NoError(t, err)
}

// TestPrincipal splits names.
func TestPrincipal(t *testing.T) {
	for text, want := range map[string][2]string{
		"alice@EXAMPLE.TEST":            {"alice", "EXAMPLE.TEST"},
		`alice\@corp.test@EXAMPLE.TEST`: {`alice\@corp.test`, "EXAMPLE.TEST"},
		`alice\\@EXAMPLE.TEST`:          {`alice\\`, "EXAMPLE.TEST"},
		"host/www@A@B":                  {"host/www", "A@B"},
		"alice":                         {"alice", ""},
		`alice\`:                        {`alice\`, ""},
	} {
		user, realm := splitPrincipal(text)
		require.Equal(t, want, [2]string{user, realm}, text)
	}
}
