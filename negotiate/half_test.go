package negotiate

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// second is a client's token of the second leg and later: what it has of the
// mechanism, and its signature.
func second(mechToken, mic []byte) string {
	var b cryptobyte.Builder
	field := func(b *cryptobyte.Builder, n uint8, value []byte) {
		if value == nil {
			return
		}
		b.AddASN1(asn1.Tag(n).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1OctetString(value) })
	}
	b.AddASN1(asn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			field(b, 2, mechToken)
			field(b, 3, mic)
		})
	})
	return encode(b.BytesOrPanic())
}

// parts is an acceptor's answer: the mechanism's token and the signature.
func parts(t testing.TB, answer []byte) (mechToken, mic []byte) {
	t.Helper()
	s := cryptobyte.String(answer)
	var in, seq cryptobyte.String
	require.True(t, s.ReadASN1(&in, asn1.Tag(1).ContextSpecific().Constructed()) && in.ReadASN1(&seq, asn1.SEQUENCE))
	for !seq.Empty() {
		var f, o cryptobyte.String
		var tag asn1.Tag
		require.True(t, seq.ReadAnyASN1(&f, &tag))
		if f.ReadASN1(&o, asn1.OCTET_STRING) {
			if tag == asn1.Tag(2).ContextSpecific().Constructed() {
				mechToken = o
			} else {
				mic = o
			}
		}
	}
	return mechToken, mic
}

// walk is a negotiation of three legs, since NTLM comes first in the client's list.
// It calls between with each answer before the next leg.
func (r *rig) walk(send func(value string) response, between func(leg int, resp response)) response {
	r.t.Helper()
	resp := send("Negotiate " + ntlmFirst)
	require.Equal(r.t, http.StatusUnauthorized, resp.status, r.log.take())
	mechToken, mic := parts(r.t, decode(r.t, resp.header))
	require.Nil(r.t, mechToken)
	require.Nil(r.t, mic)
	between(1, resp)

	init, request := r.initiate(r.initiator, r.alice, service)
	resp = send(second(request, nil))
	require.Equal(r.t, http.StatusUnauthorized, resp.status, r.log.take())
	mechToken, mic = parts(r.t, decode(r.t, resp.header))
	_, _, err := init.Continue(mechToken)
	require.NoError(r.t, err)
	_, err = init.VerifyMIC([]byte(mechTypes), mic)
	require.NoError(r.t, err)
	between(2, resp)

	mic, err = init.GetMIC([]byte(mechTypes), 0)
	require.NoError(r.t, err)
	return send(second(nil, mic))
}

func nothing(int, response) {}

// TestLegs goes through three requests: over one connection, and with a cookie over
// a connection each, with another authenticator over the same keys each time.
func TestLegs(t *testing.T) {
	r := newRig(t)
	next := &page{t: t}
	never := func(int, response) { require.Zero(t, next.called(), "half of a negotiation reached the next handler") }
	t.Run("connection", func(t *testing.T) {
		s := server(t, r.new(Options{}).Handler(next))
		resp := r.in(t).walk(func(value string) response { return get(t, s.Client(), s.URL, auth(value)...) }, never)
		require.Equal(t, "alice@EXAMPLE.TEST", resp.body)
		require.Empty(t, resp.header.Values("WWW-Authenticate"), "there is no token left to send")
	})
	t.Run("cookie", func(t *testing.T) {
		next.calls = 0
		sealer := host(t)
		var cookie string
		resp := r.in(t).walk(func(value string) response {
			h := r.new(Options{Half: Cookie(sealer, "")}).Handler(next) // another process
			resp := serve(h, "Authorization", value, "Cookie", cookie)
			if cookie != "" {
				require.Equal(t, -1, resp.cookies[0].MaxAge, "the client is to drop the one that was used")
			}
			cookie = ""
			for _, c := range resp.cookies {
				if c.Value != "" {
					require.Equal(t, defaultCookie, c.Name)
					require.True(t, c.HttpOnly)
					require.Equal(t, 60, c.MaxAge)
					require.Less(t, len(c.String()), 4096, "browsers keep no longer ones")
					cookie = c.Name + "=" + c.Value
				}
			}
			return resp
		}, never)
		require.Equal(t, "alice@EXAMPLE.TEST", resp.body)
	})
	t.Run("cookie, wrapped", func(t *testing.T) {
		sealer := host(t)
		a, err := New(secctx.Wrap(r.p, sealer), &Options{Service: service, Half: Cookie(sealer, "half")})
		require.NoError(t, err)
		defer a.Close() //nolint:errcheck // of the test
		var cookie string
		resp := r.in(t).walk(func(value string) response {
			resp := serve(a.Handler(next), "Authorization", value, "Cookie", cookie)
			for _, c := range resp.cookies {
				cookie = c.Name + "=" + c.Value
			}
			return resp
		}, nothing)
		require.Equal(t, "alice@EXAMPLE.TEST", resp.body)
	})
	t.Run("nowhere", func(t *testing.T) {
		resp := serve(r.new(Options{}).Handler(next), auth("Negotiate "+halfToken)...)
		require.Equal(t, http.StatusUnauthorized, resp.status)
		require.Equal(t, []string{"Negotiate"}, resp.header.Values("WWW-Authenticate"))
		require.Contains(t, r.log.take(), "negotiate.ConnContext")
	})
}

// TestConnectionsApart keeps each connection's negotiation to itself, one at a time.
func TestConnectionsApart(t *testing.T) {
	r := newRig(t)
	next := &page{t: t}
	s := server(t, r.new(Options{}).Handler(next))
	other := &http.Client{Transport: &http.Transport{}}
	defer other.CloseIdleConnections()
	require.NotEmpty(t, decode(t, get(t, s.Client(), s.URL, auth("Negotiate "+halfToken)...).header))
	_, request := r.initiate(r.initiator, r.alice, service)
	resp := get(t, other, s.URL, auth(second(request, nil))...)
	require.Equal(t, []string{"Negotiate"}, resp.header.Values("WWW-Authenticate"), "another connection")
	require.Equal(t, http.StatusOK, get(t, s.Client(), s.URL, auth(second(request, nil))...).status, "the control")
	require.Equal(t, http.StatusUnauthorized, get(t, s.Client(), s.URL, auth(second(request, nil))...).status, "it was taken")

	require.NotEmpty(t, decode(t, get(t, s.Client(), s.URL, auth("Negotiate "+halfToken)...).header))
	_, token := r.token() // the client begins anew
	require.Equal(t, http.StatusOK, get(t, s.Client(), s.URL, auth(token)...).status)
	_, request = r.initiate(r.initiator, r.alice, service)
	require.Equal(t, http.StatusUnauthorized, get(t, s.Client(), s.URL, auth(second(request, nil))...).status, "it was dropped")
}

// TestHeldNegotiation ends a negotiation that does not go on, and one that another
// replaces.
func TestHeldNegotiation(t *testing.T) {
	p := &scripted{}
	c := &conn{}
	c.hold(&scriptedContext{p: p}, time.Hour)
	c.hold(&scriptedContext{p: p}, time.Millisecond)
	require.Equal(t, 1, p.ends)
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return p.ends == 2
	}, time.Minute, time.Millisecond)
	require.Nil(t, c.release())
}

// brief is a sealer whose tokens live for a moment.
type brief struct{ seal.Sealer }

func (b brief) Reserve(req seal.Request) (*seal.Reservation, error) {
	req.Lifetime = 50 * time.Millisecond
	return b.Sealer.Reserve(req)
}

// TestCookie refuses a cookie that was used, is old, altered, another service's,
// another channel's or another connection's. Each answer is the one to no
// credentials, but for the cookie.
func TestCookie(t *testing.T) {
	r := newRig(t)
	sealer := host(t)
	overTLS := func(req *http.Request) { req.TLS = &tls.ConnectionState{} }
	onConn := func(req *http.Request) { *req = *req.WithContext(ConnContext(req.Context(), nil)) }
	for name, c := range map[string]struct {
		first, then   Options
		before, after func(*http.Request) // what the two requests have
		alter         func(cookie string) string
		wait          bool
		twice         bool
		passes        bool
	}{
		"control":           {passes: true},
		"twice":             {twice: true},
		"old":               {first: Options{Half: Cookie(brief{sealer}, "")}, wait: true},
		"altered":           {alter: func(c string) string { return c[:len(c)-8] + "AAAAAAAA" }},
		"cut short":         {alter: func(c string) string { return c[:len(c)-8] }},
		"not base64":        {alter: func(c string) string { return c + "!" }},
		"none":              {alter: func(string) string { return "" }},
		"two":               {alter: func(c string) string { return c + "; " + c }},
		"64 KiB":            {alter: func(c string) string { return c + strings.Repeat("A", 64<<10) }},
		"another service":   {then: Options{Service: "HTTP@other.example.test"}},
		"another host":      {then: Options{Half: Cookie(host(t), "")}},
		"TLS, then without": {before: overTLS, alter: func(c string) string { return strings.TrimPrefix(c, "__Host-") }},
		"without, then TLS": {after: overTLS, alter: func(c string) string { return "__Host-" + c }},
		"TLS both times":    {before: overTLS, after: overTLS, passes: true},
		"another connection": {first: Options{PerConnection: true}, then: Options{PerConnection: true},
			before: onConn, after: onConn},
		"another connection, per request": {before: onConn, after: onConn, passes: true},
	} {
		t.Run(name, func(t *testing.T) {
			r, next := r.in(t), &page{t: t}
			do := func(o Options, change func(*http.Request), fields ...string) response {
				if o.Half == nil {
					o.Half = Cookie(sealer, "")
				}
				a := r.new(o)
				return serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if change != nil {
						change(req)
					}
					a.Handler(next).ServeHTTP(w, req)
				}), fields...)
			}
			resp := do(c.first, c.before, auth("Negotiate "+halfToken)...)
			require.Len(t, resp.cookies, 1)
			cookie := resp.cookies[0].Name + "=" + resp.cookies[0].Value
			require.Equal(t, c.before != nil && strings.Contains(name, "TLS"), strings.HasPrefix(cookie, "__Host-"))
			require.Equal(t, strings.HasPrefix(cookie, "__Host-"), resp.cookies[0].Secure)
			if c.alter != nil {
				cookie = c.alter(cookie)
			}
			if c.wait {
				time.Sleep(100 * time.Millisecond)
			}
			if c.twice {
				_, request := r.initiate(r.initiator, r.alice, service)
				require.Equal(t, http.StatusOK, do(c.then, c.after, "Authorization", second(request, nil), "Cookie", cookie).status)
				next.calls = 0
			}
			_, request := r.initiate(r.initiator, r.alice, service)
			resp = do(c.then, c.after, "Authorization", second(request, nil), "Cookie", cookie)
			require.Equal(t, c.passes, next.called() == 1, r.log.take())
			if !c.passes {
				want := do(c.then, c.after)
				require.Equal(t, want.status, resp.status)
				require.Equal(t, want.body, resp.body)
				resp.header.Del("Set-Cookie")
				require.Equal(t, want.header, resp.header)
			}
		})
	}
}

// TestCookieOfAnotherUser believes no cookie that another user sealed for this one:
// it could hold any client's name.
func TestCookieOfAnotherUser(t *testing.T) {
	r := newRig(t)
	from := &exporters{Sealer: host(t)}
	a := r.new(Options{Half: Cookie(from, "")})
	resp := serve(a.Handler(&page{t: t}), auth("Negotiate "+halfToken)...)
	_, request := r.initiate(r.initiator, r.alice, service)
	require.Equal(t, http.StatusOK, serve(a.Handler(&page{t: t}), "Authorization", second(request, nil), "Cookie", resp.cookies[0].Name+"="+resp.cookies[0].Value).status)
	head, err := seal.Inspect(from.token)
	require.NoError(t, err)
	require.Equal(t, []seal.Party{seal.User(head.Exporter)}, from.asked)
}

// TestSealerAnew refuses a cookie of a sealer that began anew between two legs, as the
// agent does after a crash. The client's next negotiation passes.
func TestSealerAnew(t *testing.T) {
	r := newRig(t)
	h := host(t)
	next := &page{t: t}
	a := r.new(Options{Half: Cookie(h, "")})
	resp := serve(a.Handler(next), auth("Negotiate "+halfToken)...)
	keys, err := h.Keys()
	require.NoError(t, err)
	for _, k := range keys {
		require.NoError(t, h.Retire(k.ID))
	}
	for _, want := range []int{http.StatusUnauthorized, http.StatusOK} {
		_, request := r.initiate(r.initiator, r.alice, service)
		got := serve(a.Handler(next), "Authorization", second(request, nil), "Cookie", resp.cookies[0].Name+"="+resp.cookies[0].Value)
		require.Equal(t, want, got.status, r.log.take())
		resp = serve(a.Handler(next), auth("Negotiate "+halfToken)...)
	}
}

// exporters sees whose tokens are opened.
type exporters struct {
	seal.Sealer
	asked []seal.Party
	token []byte
}

func (e *exporters) OpenFrom(from []seal.Party, token []byte, formats ...string) (*secretOf, error) {
	if len(token) > 0 {
		e.asked, e.token = from, token
	}
	return e.Sealer.OpenFrom(from, token, formats...)
}

// TestPerConnection authenticates a connection of HTTP/1.1 once.
func TestPerConnection(t *testing.T) {
	r := newRig(t)
	next := &page{t: t}
	a := r.new(Options{PerConnection: true})
	s := server(t, a.Handler(next))
	other := &http.Client{Transport: &http.Transport{}}
	defer other.CloseIdleConnections()
	_, token := r.token()
	require.Equal(t, http.StatusUnauthorized, get(t, s.Client(), s.URL).status)
	require.Equal(t, http.StatusOK, get(t, s.Client(), s.URL, auth(token)...).status)
	for range 3 {
		require.Equal(t, "alice@EXAMPLE.TEST", get(t, s.Client(), s.URL).body)
	}
	require.Equal(t, http.StatusUnauthorized, get(t, other, s.URL).status, "another connection")
	require.Equal(t, http.StatusUnauthorized, get(t, s.Client(), s.URL, auth("Negotiate "+halfToken)...).status)
	require.Equal(t, http.StatusUnauthorized, get(t, s.Client(), s.URL).status, "who begins anew is nobody")
	_, bob := r.initiate(r.client, r.ticket(ticketOf("bob")), service)
	require.Equal(t, "bob@EXAMPLE.TEST", get(t, s.Client(), s.URL, auth(encode(bob))...).body)
	require.Equal(t, "bob@EXAMPLE.TEST", get(t, s.Client(), s.URL).body)
	require.Equal(t, http.StatusUnauthorized, get(t, s.Client(), s.URL, auth(alter(token))...).status)
	require.Equal(t, http.StatusUnauthorized, get(t, s.Client(), s.URL).status, "who failed is nobody")
}

// TestHTTP2 authenticates each request of HTTP/2 by itself.
func TestHTTP2(t *testing.T) {
	r := newRig(t)
	next := &page{t: t}
	a := r.new(Options{PerConnection: true})
	s := server(t, a.Handler(next), func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.StartTLS()
	})
	_, token := r.token()
	require.Equal(t, http.StatusOK, get(t, s.Client(), s.URL, auth(token)...).status)
	resp := get(t, s.Client(), s.URL)
	require.Equal(t, http.StatusUnauthorized, resp.status)
	resp = r.walk(func(value string) response { return get(t, s.Client(), s.URL, auth(value)...) }, nothing)
	require.Equal(t, "alice@EXAMPLE.TEST", resp.body)
}

// TestExpiredClient forgets the client of a connection when the context expires.
func TestExpiredClient(t *testing.T) {
	c := &conn{}
	now := time.Now()
	c.setClient(&Identity{Principal: "alice", Expires: now.Add(time.Second)})
	require.NotNil(t, c.client(now))
	require.Nil(t, c.client(now.Add(time.Second)))
	require.Nil(t, c.client(now), "for good")
	c.setClient(&Identity{Principal: "alice"})
	require.NotNil(t, c.client(now.Add(100*time.Hour)))
}
