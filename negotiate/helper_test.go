package negotiate

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
	"github.com/sealctx/sealctx/secctx/spnego"
)

const (
	service = "HTTP@www.example.test"
	flags   = gssapi.ContextFlagMutual | gssapi.ContextFlagInteg

	// halfToken offers Kerberos and has nothing of it.
	halfToken = "YBsGBisGAQUFAqARMA+gDTALBgkqhkiG9xIBAgI="
	// ntlmFirst is a negotiation that begins with NTLM and offers Kerberos.
	ntlmFirst = "YDQGBisGAQUFAqAqMCigGTAXBgorBgEEAYI3AgIKBgkqhkiG9xIBAgKiCwQJTlRMTVNTUAAB"
	// mechTypes is what both sides sign of it.
	mechTypes = "\x30\x17\x06\x0a\x2b\x06\x01\x04\x01\x82\x37\x02\x02\x0a\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02"
)

// rig is a realm, an acceptor's provider and an initiator's.
type rig struct {
	t         testing.TB
	realm     *krb5test.Realm
	mech      *krb5.Provider // the acceptor's
	p         *spnego.Provider
	initiator *krb5.Provider
	client    *spnego.Provider
	alice     gssapi.Credential
	log       *logBuffer
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, log: &logBuffer{}}
	var err error
	r.realm, err = krb5test.NewRealm("EXAMPLE.TEST", "HTTP/www.example.test", "nfs/www.example.test", "HTTP/other.example.test")
	require.NoError(t, err)
	keytab := filepath.Join(t.TempDir(), "keytab")
	require.NoError(t, r.realm.WriteKeytab(keytab))
	r.mech, err = krb5.New(&krb5.Config{Keytab: keytab, Realm: "EXAMPLE.TEST", ReplayCache: filepath.Join(t.TempDir(), "replay"), BindingsIfSent: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.mech.Release() })
	r.p, err = spnego.New(r.mech, nil)
	require.NoError(t, err)
	r.initiator, err = krb5.New(nil)
	require.NoError(t, err)
	r.client, err = spnego.New(r.initiator, nil)
	require.NoError(t, err)
	r.alice = r.ticket(krb5test.Ticket{})
	return r
}

// ticket is alice's credential with one ticket.
func (r *rig) ticket(ticket krb5test.Ticket) gssapi.Credential {
	r.t.Helper()
	if ticket.Client == "" {
		ticket.Client = "alice"
	}
	cred, err := r.realm.Initiator(r.initiator, ticket.Client, ticket)
	require.NoError(r.t, err)
	return cred
}

// new makes an authenticator for the service, with the rig's log.
func (r *rig) new(o Options) *Authenticator {
	r.t.Helper()
	if o.Service == "" && o.Credential == nil {
		o.Service = service
	}
	o.Log = slog.New(slog.NewTextHandler(r.log, nil))
	a, err := New(r.p, &o)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, a.Close()) })
	return a
}

// initiate makes an initiator's context, of the mechanism alone or of SPNEGO.
func (r *rig) initiate(p gssapi.Provider, cred gssapi.Credential, target string, opts ...gssapi.InitSecContextOption) (gssapi.SecContext, []byte) {
	r.t.Helper()
	name, err := p.ImportName(target, gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(r.t, err)
	sc, err := p.InitSecContext(name, append([]gssapi.InitSecContextOption{gssapi.WithInitiatorCredential(cred), gssapi.WithInitiatorFlags(flags)}, opts...)...)
	require.NoError(r.t, err)
	token, _, err := sc.Continue(nil)
	require.NoError(r.t, err)
	return sc, token
}

// token is the value of Authorization for a fresh context of alice's.
func (r *rig) token(opts ...gssapi.InitSecContextOption) (gssapi.SecContext, string) {
	r.t.Helper()
	sc, token := r.initiate(r.client, r.alice, service, opts...)
	return sc, encode(token)
}

func encode(token []byte) string { return "Negotiate " + base64.StdEncoding.EncodeToString(token) }

// decode is the token of a challenge.
func decode(t testing.TB, h http.Header) []byte {
	t.Helper()
	values := h.Values("WWW-Authenticate")
	require.Len(t, values, 1)
	token, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(values[0], "Negotiate "))
	require.NoError(t, err)
	return token
}

// page is a next handler that says who the client is, and counts its calls.
type page struct {
	t     testing.TB
	mu    sync.Mutex
	calls int
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.calls++
	p.mu.Unlock()
	id, ok := From(r)
	if !ok || id.Principal == "" {
		p.t.Error("the next handler was called for nobody")
	}
	for _, name := range []string{"Authorization", "Proxy-Authorization"} {
		if strings.HasPrefix(r.Header.Get(name), "Negotiate") {
			p.t.Error("the next handler sees the client's token")
		}
	}
	_, _ = io.WriteString(w, id.Principal)
}

func (p *page) called() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

// server runs a handler behind ConnContext.
func server(t testing.TB, h http.Handler, configure ...func(*httptest.Server)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnContext = ConnContext
	s.Config.MaxHeaderBytes = 4 << 20
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	for _, f := range configure {
		f(s)
	}
	if s.URL == "" {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// A response is what a client sees.
type response struct {
	status  int
	header  http.Header
	body    string
	cookies []*http.Cookie
}

// get sends a request. Fields with an empty value are not sent.
func get(t testing.TB, c *http.Client, url string, fields ...string) response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(fields); i += 2 {
		if fields[i+1] != "" {
			req.Header.Add(fields[i], fields[i+1])
		}
	}
	resp, err := c.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Header.Del("Date")
	return response{resp.StatusCode, resp.Header, string(body), resp.Cookies()}
}

// serve is get without a network and without a connection.
func serve(h http.Handler, fields ...string) response {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return response{w.Code, w.Header(), w.Body.String(), w.Result().Cookies()}
}

// logBuffer is a log that a server writes while a test reads it.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// take returns what was logged since it was called last.
func (l *logBuffer) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}

// host returns a sealer whose keys end with the test.
func host(t testing.TB) *seal.Host {
	t.Helper()
	h, err := seal.OpenHost(&seal.Options{Private: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}
