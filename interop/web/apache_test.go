package web

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/negotiate"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/spnego"
)

const apacheConf = `ServerRoot %[1]s
PidFile %[1]s/pid
ServerName localhost
Listen 127.0.0.1:%[2]s
User www-data
Group www-data
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authn_core_module /usr/lib/apache2/modules/mod_authn_core.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule authz_user_module /usr/lib/apache2/modules/mod_authz_user.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
LoadModule auth_gssapi_module /usr/lib/apache2/modules/mod_auth_gssapi.so
ErrorLog %[1]s/error.log
DocumentRoot %[1]s/www
StartServers 2
MaxKeepAliveRequests 0
<Location />
	AuthType GSSAPI
	AuthName "x"
	GssapiCredStore keytab:%[3]s
	GssapiAllowedMech krb5
	GssapiConnectionBound %[4]s
	Require valid-user
</Location>
`

// startApache runs Apache with mod_auth_gssapi over the realm's keytab until the
// test ends, and returns its address.
func startApache(t *testing.T, connectionBound bool) string {
	t.Helper()
	apache := need(t, "apache2", "apache2")
	if _, err := os.Stat("/usr/lib/apache2/modules/mod_auth_gssapi.so"); err != nil || os.Getuid() != 0 {
		t.Skip("no mod_auth_gssapi (Debian: libapache2-mod-auth-gssapi), or not root")
	}
	dir, err := os.MkdirTemp(buildDir, "apache")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(dir+"/www", 0o755))
	require.NoError(t, os.Mkdir(dir+"/rcache", 0o777))
	for _, path := range []string{dir, dir + "/rcache"} {
		require.NoError(t, os.Chmod(path, 0o777)) //nolint:gosec // Apache's workers have a user of their own
	}
	require.NoError(t, os.WriteFile(dir+"/www/index.html", []byte("the page\n"), 0o644)) //nolint:gosec // as above
	keytab, err := os.ReadFile(realm.Keytab())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dir+"/keytab", keytab, 0o644)) //nolint:gosec // as above
	port, bound := freePort(t), "Off"
	if connectionBound {
		bound = "On"
	}
	conf := filepath.Join(dir, "httpd.conf")
	require.NoError(t, os.WriteFile(conf, []byte(fmt.Sprintf(apacheConf, dir, port, dir+"/keytab", bound)), 0o644)) //nolint:gosec // as above
	cmd := command(apache, "-f", conf, "-DFOREGROUND")
	cmd.Env = append(cmd.Env, "KRB5RCACHEDIR="+dir+"/rcache")
	for _, name := range []string{"krb5.conf"} {
		require.NoError(t, os.Chmod(filepath.Join(realm.Dir(), name), 0o644))
	}
	log := new(output)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(dir + "/error.log")
			t.Logf("%s%s", log, b)
		}
	})
	addr := "127.0.0.1:" + port
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, patience, 10*time.Millisecond, "%s", log)
	return addr
}

// startOurs serves the same page behind package negotiate.
func startOurs(t *testing.T, o negotiate.Options) string {
	t.Helper()
	mech, err := krb5.New(&krb5.Config{Keytab: realm.Keytab(), Realm: "SEALCTX.TEST", ReplayCache: filepath.Join(t.TempDir(), "replay"), BindingsIfSent: true})
	require.NoError(t, err)
	p, err := spnego.New(mech, &spnego.Config{Raw: true})
	require.NoError(t, err)
	o.Service = "HTTP@localhost"
	a, err := negotiate.New(p, &o)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	s := &http.Server{ConnContext: negotiate.ConnContext, ReadHeaderTimeout: patience, Handler: a.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "the page\n")
	}))}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		_ = a.Close()
	})
	return l.Addr().String()
}

// visit is a client at one server: a connection that is kept.
type visit struct {
	t      *testing.T
	url    string
	client *http.Client
	p      *spnego.Provider // an initiator's, over the tickets
	mech   *krb5.Provider
}

func newVisit(t *testing.T, addr string) *visit {
	t.Helper()
	mech, err := krb5.New(&krb5.Config{CCache: tickets(t)})
	require.NoError(t, err)
	p, err := spnego.New(mech, nil)
	require.NoError(t, err)
	v := &visit{t: t, url: "http://" + addr + "/", p: p, mech: mech, client: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(v.client.CloseIdleConnections)
	return v
}

// get sends a request with values of Authorization, and returns the status and the
// token of the answer.
func (v *visit) get(values ...string) (int, []byte) {
	v.t.Helper()
	req, err := http.NewRequest(http.MethodGet, v.url, nil) //nolint:noctx // of the test
	require.NoError(v.t, err)
	req.Header["Authorization"] = values
	resp, err := v.client.Do(req)
	require.NoError(v.t, err)
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(v.t, err)
	token, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(resp.Header.Get("WWW-Authenticate"), "Negotiate "))
	return resp.StatusCode, token
}

// send sends a token.
func (v *visit) send(token []byte) (int, []byte) {
	v.t.Helper()
	return v.get("Negotiate " + base64.StdEncoding.EncodeToString(token))
}

// elsewhere goes on over another connection.
func (v *visit) elsewhere() { v.client.CloseIdleConnections() }

// token is a client's first token, of SPNEGO or of the mechanism alone.
func (v *visit) token(p gssapi.Provider, service string, mutual bool) (gssapi.SecContext, []byte) {
	v.t.Helper()
	sc := initiate(v.t, p, service, mutual)
	token, _, err := sc.Continue(nil)
	require.NoError(v.t, err)
	return sc, token
}

// request is a token of the mechanism alone, for HTTP/localhost.
func (v *visit) request(mutual bool) []byte {
	v.t.Helper()
	_, token := v.token(v.mech, "HTTP@localhost", mutual)
	return token
}

// resp is a client's second token.
func resp(fields ...[]byte) []byte {
	var all []byte
	for _, f := range fields {
		all = append(all, f...)
	}
	return tlv(0xa1, tlv(0x30, all))
}

func octets(n byte, v []byte) []byte { return tlv(0xa0|n, tlv(0x04, v)) }

func choice(id string) []byte { return tlv(0xa1, tlv(0x06, []byte(id))) }

func state(n byte) []byte { return tlv(0xa0, []byte{0x0a, 1, n}) }

// signed is an initial token of one way authentication with a signature over its
// list, which alter may change.
func (v *visit) signed(alter func(mic []byte)) []byte {
	v.t.Helper()
	sc, request := v.token(v.mech, "HTTP@localhost", false)
	list := tlv(0x30, tlv(0x06, []byte(krb)))
	mic, err := sc.GetMIC(list, 0)
	require.NoError(v.t, err)
	alter(mic)
	fields := append(append(tlv(0xa0, list), octets(2, request)...), octets(3, mic)...)
	return tlv(0x60, append(tlv(0x06, []byte("\x2b\x06\x01\x05\x05\x02")), tlv(0xa0, tlv(0x30, fields))...))
}

var ntlmToken = []byte("NTLMSSP\x00\x01\x00\x00\x00")

// walk goes through the three legs of a client that has NTLM first. between is called
// before each further leg.
func (v *visit) walk(between func(), sign func(mic []byte) []byte) int {
	v.t.Helper()
	status, _ := v.send(first(ntlmToken, ntlm, krb))
	if status != http.StatusUnauthorized {
		return status
	}
	between()
	sc, request := v.token(v.mech, "HTTP@localhost", true)
	status, token := v.send(resp(octets(2, request)))
	if status != http.StatusUnauthorized || len(token) == 0 {
		return status
	}
	between()
	rep, mic := answered(token)
	if rep == nil {
		return status // the server forgot the first leg
	}
	_, _, err := sc.Continue(rep)
	require.NoError(v.t, err)
	list := tlv(0x30, append(tlv(0x06, []byte(ntlm)), tlv(0x06, []byte(krb))...))
	_, err = sc.VerifyMIC(list, mic)
	require.NoError(v.t, err)
	own, err := sc.GetMIC(list, 0)
	require.NoError(v.t, err)
	status, _ = v.send(resp(sign(own)))
	return status
}

// answered is the mechanism's token and the signature of an acceptor's answer.
func answered(token []byte) (rep, mic []byte) {
	i := strings.Index(string(token), "\xa2\x81\x9f\x04\x81\x9c")
	if i < 0 {
		return nil, nil
	}
	rep = token[i+6 : i+6+0x9c]
	rest := token[i+6+0x9c:]
	return rep, rest[4:]
}

func nothing() {}

func whole(mic []byte) []byte { return octets(3, mic) }

// visits are what clients do. Apache and ours say whether they pass; a difference
// has its reason, which doc/negotiate.md has too.
var visits = []struct {
	name         string
	do           func(v *visit) int
	apache, ours bool
	why          string
}{
	{"no credentials", func(v *visit) int { s, _ := v.get(); return s }, false, false, ""},
	{"SPNEGO, mutual", func(v *visit) int { _, tok := v.token(v.p, "HTTP@localhost", true); s, _ := v.send(tok); return s }, true, true, ""},
	{"SPNEGO, one way", func(v *visit) int { _, tok := v.token(v.p, "HTTP@localhost", false); s, _ := v.send(tok); return s }, true, true, ""},
	{"Kerberos without a negotiation", func(v *visit) int { s, _ := v.send(v.request(true)); return s }, true, true, ""},
	{"Windows' identifier", func(v *visit) int { s, _ := v.send(first(v.request(true), msft, krb, ntlm)); return s }, true, true, ""},
	{"no token at first", func(v *visit) int {
		v.send(first(nil, krb))
		s, _ := v.send(resp(octets(2, v.request(true))))
		return s
	}, true, true, ""},
	{"NTLM first, three legs", func(v *visit) int { return v.walk(nothing, whole) }, true, true, ""},
	{"a false signature at the end", func(v *visit) int {
		return v.walk(nothing, func(mic []byte) []byte { mic[20] ^= 1; return octets(3, mic) })
	}, false, false, ""},
	{"no signature at the end", func(v *visit) int { return v.walk(nothing, func([]byte) []byte { return state(0) }) }, false, false, ""},
	{"an early signature", func(v *visit) int { s, _ := v.send(v.signed(func([]byte) {})); return s }, true, true, ""},
	{"an early false signature", func(v *visit) int { s, _ := v.send(v.signed(func(mic []byte) { mic[20] ^= 1 })); return s }, false, false, ""},
	{"a missing signature", func(v *visit) int {
		v.send(first(ntlmToken, ntlm, krb))
		s, _ := v.send(resp(octets(2, v.request(false))))
		return s
	}, false, false, ""},
	{"a replay", func(v *visit) int {
		_, tok := v.token(v.p, "HTTP@localhost", true)
		v.send(tok)
		v.elsewhere()
		s, _ := v.send(tok)
		return s
	}, false, false, ""},
	{"NTLM alone", func(v *visit) int { s, _ := v.send(ntlmToken); return s }, false, false, ""},
	{"garbage", func(v *visit) int { s, _ := v.get("Negotiate !!!!"); return s }, false, false, ""},
	{"the scheme's name in lower case", func(v *visit) int {
		_, tok := v.token(v.p, "HTTP@localhost", true)
		s, _ := v.get("negotiate " + base64.StdEncoding.EncodeToString(tok))
		return s
	}, true, true, ""},
	{"an empty list of mechanisms", func(v *visit) int { s, _ := v.send(first(v.request(true))); return s }, false, false, ""},
	{"an empty second token", func(v *visit) int {
		v.send(first(nil, krb))
		s, _ := v.get("Negotiate")
		return s
	}, false, false, ""},
	{"a mechanism chosen on the second leg", func(v *visit) int {
		v.send(first(nil, krb))
		s, _ := v.send(resp(choice(krb), octets(2, v.request(true))))
		return s
	}, false, false, ""},
	{"another request without credentials", func(v *visit) int {
		_, tok := v.token(v.p, "HTTP@localhost", true)
		v.send(tok)
		s, _ := v.get()
		return s
	}, false, false, ""},
	{"a ticket for nfs/ of the same keytab", func(v *visit) int { _, tok := v.token(v.p, "nfs@localhost", true); s, _ := v.send(tok); return s }, true, false,
		"The credential is HTTP/ of this host and not the whole keytab."},
	{"signatures asked for on the second leg", func(v *visit) int {
		v.send(first(nil, krb))
		s, _ := v.send(resp(state(3), octets(2, v.request(true))))
		return s
	}, true, false, "Only an acceptor asks for signatures (RFC 4178 section 4.2.2)."},
	{"bytes behind the token", func(v *visit) int {
		_, tok := v.token(v.p, "HTTP@localhost", true)
		s, _ := v.send(append(tok, 0))
		return s
	}, false, false, ""},
	{"a length that is longer than it must be", func(v *visit) int {
		s, _ := v.send(longer(first(v.request(true), krb)))
		return s
	}, true, false, "Tokens are DER, which has one encoding."},
	{"base64 without its padding", func(v *visit) int {
		_, tok := v.token(v.p, "HTTP@localhost", true)
		for len(tok)%3 == 0 {
			_, tok = v.token(v.p, "HTTP@localhost", false)
		}
		s, _ := v.get("Negotiate " + base64.RawStdEncoding.EncodeToString(tok))
		return s
	}, true, false, "RFC 4559 has base64 with its padding; one text for one token."},
	{"two fields of credentials", func(v *visit) int {
		_, one := v.token(v.p, "HTTP@localhost", true)
		_, two := v.token(v.p, "HTTP@localhost", true)
		s, _ := v.get("Negotiate "+base64.StdEncoding.EncodeToString(one), "Negotiate "+base64.StdEncoding.EncodeToString(two))
		return s
	}, true, false, "It would be left to chance which of them counts."},
}

// longer writes the frame's length in one byte more than it takes.
func longer(token []byte) []byte {
	n := int(token[1] & 0x7f)
	out := append([]byte{token[0], token[1] + 1, 0}, token[2:2+n]...)
	return append(out, token[2+n:]...)
}

// TestBesideApache has clients do the same at Apache with mod_auth_gssapi and at a
// server of package negotiate, per connection and per request. Each difference has a
// reason, in the document too. Per request Apache keeps no half-open context.
func TestBesideApache(t *testing.T) {
	document, err := os.ReadFile("../../doc/negotiate.md")
	require.NoError(t, err)
	for _, bound := range []bool{true, false} {
		apache, ours := startApache(t, bound), startOurs(t, negotiate.Options{PerConnection: bound})
		for _, c := range visits {
			t.Run(fmt.Sprintf("per connection %v/%s", bound, c.name), func(t *testing.T) {
				if again := c.name == "another request without credentials"; again && bound {
					c.apache, c.ours = true, true
				}
				theirs := c.do(newVisit(t, apache)) == http.StatusOK
				if !bound && severalLegs[c.name] {
					require.False(t, theirs, "Apache keeps no half-open context")
				} else {
					require.Equal(t, c.apache, theirs, "Apache")
				}
				require.Equal(t, c.ours, c.do(newVisit(t, ours)) == http.StatusOK, "ours")
				require.Equal(t, c.apache != c.ours, c.why != "", "a difference has a reason")
				if c.why != "" {
					require.Contains(t, string(document), fmt.Sprintf("| %s | %s | %s | %s |", c.name, passes(c.apache), passes(c.ours), c.why))
				}
			})
		}
	}
}

// severalLegs are the visits that pass with more than one leg.
var severalLegs = map[string]bool{"no token at first": true, "NTLM first, three legs": true, "signatures asked for on the second leg": true}

func passes(b bool) string {
	if b {
		return "passes"
	}
	return "refused"
}
