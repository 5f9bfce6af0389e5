package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/handoff"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
	"github.com/sealctx/sealctx/secctx/spnego"
)

const runVariable = "NEGOTIATE_RUN"

// TestMain is the example itself where the test, or the example, has started it.
func TestMain(m *testing.M) {
	if os.Getenv(runVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// site is the example, running, and a client's means.
type site struct {
	t      *testing.T
	url    string
	mech   *krb5.Provider
	client *spnego.Provider
	alice  gssapi.Credential
	name   gssapi.GssName
}

var (
	listening = regexp.MustCompile(`listening at (\S+)`)
	answered  = regexp.MustCompile(`answered by</dt><dd>process (\d+)`)
)

// start runs the example until the test ends.
func start(t *testing.T, args ...string) *site {
	t.Helper()
	probe := exec.Command("/bin/true")
	handoff.Isolate(probe, os.Getuid(), os.Getgid())
	if err := probe.Run(); err != nil {
		t.Skip("the kernel lets this user make no network namespace: ", err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-negotiate-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "HTTP/localhost")
	require.NoError(t, err)
	keytab := filepath.Join(t.TempDir(), "keytab")
	require.NoError(t, realm.WriteKeytab(keytab))
	cmd := exec.Command(os.Args[0], append([]string{"-listen", "127.0.0.1:0", "-service", "HTTP@localhost"}, args...)...)
	cmd.Env = append(os.Environ(), runVariable+"=1", "SEALCTX_DIR="+dir, "KRB5_KTNAME="+keytab, "KRB5RCACHEDIR="+filepath.Join(t.TempDir(), "replay"))
	log, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(log)
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended // the log ends when the last process has: no worker outlives the acceptor
		_ = cmd.Wait()
	})
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	m := listening.FindStringSubmatch(line)
	require.NotNil(t, m, "%s", line)
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, lines)
	}()

	s := &site{t: t, url: "http://" + m[1]}
	s.mech, err = krb5.New(nil)
	require.NoError(t, err)
	s.client, err = spnego.New(s.mech, nil)
	require.NoError(t, err)
	s.alice, err = realm.Initiator(s.mech, "alice")
	require.NoError(t, err)
	s.name, err = s.mech.ImportName("HTTP@localhost", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	return s
}

// token is alice's first token, of SPNEGO or of the mechanism alone.
func (s *site) token(p gssapi.Provider) (gssapi.SecContext, []byte) {
	s.t.Helper()
	sc, err := p.InitSecContext(s.name, gssapi.WithInitiatorCredential(s.alice), gssapi.WithInitiatorFlags(gssapi.ContextFlagMutual|gssapi.ContextFlagInteg))
	require.NoError(s.t, err)
	token, _, err := sc.Continue(nil)
	require.NoError(s.t, err)
	return sc, token
}

func encode(token []byte) string { return "Negotiate " + base64.StdEncoding.EncodeToString(token) }

// get sends a request over a connection of its own, so that any worker gets it.
func (s *site) get(fields ...string) (*http.Response, string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	require.NoError(s.t, err)
	req.Close = true
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	return resp, string(body)
}

// TestPage says who the client is, from several processes, and refuses clients
// without a ticket. No worker has the keytab.
func TestPage(t *testing.T) {
	s := start(t)
	processes := map[string]bool{}
	for i := 0; i < 100 && len(processes) < 2; i++ {
		resp, _ := s.get()
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
		require.Equal(t, "Negotiate", resp.Header.Get("WWW-Authenticate"))
		sc, token := s.token(s.client)
		resp, body := s.get("Authorization", encode(token))
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Contains(t, body, "You are alice@EXAMPLE.TEST.")
		last, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(resp.Header.Get("WWW-Authenticate"), "Negotiate "))
		require.NoError(t, err)
		_, info, err := sc.Continue(last)
		require.NoError(t, err)
		require.True(t, info.FullyEstablished)
		resp, _ = s.get("Authorization", encode(token))
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode, "a replay, in whatever process")
		processes[answered.FindStringSubmatch(body)[1]] = true
	}
	require.Greater(t, len(processes), 1, "one process answered everything")
	for pid := range processes {
		env, err := os.ReadFile("/proc/" + pid + "/environ")
		require.NoError(t, err)
		require.Contains(t, string(env), "\x00KRB5_KTNAME=/nonexistent\x00")
	}
}

// halfToken offers Kerberos and has nothing of it, so that there is a second leg.
const halfToken = "Negotiate YBsGBisGAQUFAqARMA+gDTALBgkqhkiG9xIBAgI="

// secondLeg is the token of a client's second leg: a response with the mechanism's
// token, long enough for lengths of two bytes.
func secondLeg(token []byte) string {
	b := token
	for _, tag := range []byte{0x04, 0xa2, 0x30, 0xa1} {
		b = append([]byte{tag, 0x82, byte(len(b) >> 8), byte(len(b))}, b...)
	}
	return encode(b)
}

// TestLegs goes on with a negotiation in whatever worker gets the second request,
// also when the one that got the first was killed in between. A cookie is good once.
func TestLegs(t *testing.T) {
	s := start(t)
	for _, kill := range []bool{false, true} {
		resp, _ := s.get("Authorization", halfToken)
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
		require.Len(t, resp.Cookies(), 1)
		cookie := resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value
		if kill {
			s.killWorkers()
		}
		sc, token := s.token(s.mech)
		resp, body := s.get("Authorization", secondLeg(token), "Cookie", cookie)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Contains(t, body, "You are alice@EXAMPLE.TEST.")
		require.NotEmpty(t, resp.Header.Get("WWW-Authenticate"))
		_, _ = sc.Delete()
		_, token = s.token(s.mech)
		resp, _ = s.get("Authorization", secondLeg(token), "Cookie", cookie)
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode, "the cookie was used")
	}
}

// killWorkers kills every worker and waits until new ones serve.
func (s *site) killWorkers() {
	s.t.Helper()
	killed := map[string]bool{}
	for range 200 {
		_, token := s.token(s.client)
		_, body := s.get("Authorization", encode(token))
		pid := answered.FindStringSubmatch(body)[1]
		if killed[pid] {
			s.t.Fatal("a process that was killed answers")
		}
		if len(killed) == 4 {
			return
		}
		killed[pid] = true
		n, err := strconv.Atoi(pid)
		require.NoError(s.t, err)
		require.NoError(s.t, syscall.Kill(n, syscall.SIGKILL))
		for syscall.Kill(n, 0) == nil { // until the acceptor has waited for it
			time.Sleep(time.Millisecond)
		}
	}
}

// TestBehindProxy puts the client's principal into a header field, whatever the
// client has there itself.
func TestBehindProxy(t *testing.T) {
	var mu sync.Mutex
	var seen http.Header
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		seen = r.Header.Clone()
		for name, values := range r.Trailer {
			seen[name] = append(seen[name], values...)
		}
		fmt.Fprint(w, "the backend")
	}))
	defer backend.Close()
	s := start(t, "-backend", backend.URL)
	for name, fields := range map[string][]string{
		"none":        nil,
		"its own":     {"X-Remote-User", "root"},
		"twice":       {"X-Remote-User", "root", "X-Remote-User", "admin"},
		"lower case":  {"x-remote-user", "root"},
		"underscores": {"X_Remote_User", "root"},
		"mixed":       {"X-Remote_user", "root"},
		"hop by hop":  {"X-Remote-User", "root", "Connection", "X-Remote-User, close"},
	} {
		_, token := s.token(s.client)
		resp, body := s.get(append([]string{"Authorization", encode(token)}, fields...)...)
		require.Equal(t, http.StatusOK, resp.StatusCode, name)
		require.Equal(t, "the backend", body)
		mu.Lock()
		for field, values := range seen {
			if means(field, remoteUser) {
				require.Equal(t, remoteUser, field, name)
				require.Equal(t, []string{"alice@EXAMPLE.TEST"}, values, name)
			}
		}
		require.NotEmpty(t, seen[remoteUser], name)
		require.Empty(t, seen["Authorization"], "a ticket is for this host alone")
		mu.Unlock()
	}
	// Fields behind the body.
	_, token := s.token(s.client)
	req, err := http.NewRequest(http.MethodPost, s.url, io.MultiReader(strings.NewReader("body"))) //nolint:noctx // of the test
	require.NoError(t, err)
	req.Header.Set("Authorization", encode(token))
	req.Trailer = http.Header{remoteUser: {"root"}}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, []string{"alice@EXAMPLE.TEST"}, seen[remoteUser])

	resp, body := s.get("X-Remote-User", "root")
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	require.NotContains(t, body, "the backend")
}
