package web

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/negotiate"
)

const hello = "You are alice@SEALCTX.TEST."

// TestCurl lets curl authenticate: over HTTP and TLS, in HTTP/1.1 and HTTP/2, several
// requests over one connection, and with a body.
func TestCurl(t *testing.T) {
	need(t, "curl", "curl")
	cert, key, _ := certificate(t)
	plain, secure := startSite(t), startSite(t, "-cert", cert, "-key", key)
	for name, args := range map[string][]string{
		"HTTP/1.1":            {"--http1.1", "http://localhost:" + plain.port + "/"},
		"HTTP/1.1, two pages": {"--http1.1", "http://localhost:" + plain.port + "/", "http://localhost:" + plain.port + "/two"},
		"HTTP/1.1, a body":    {"--http1.1", "-d", strings.Repeat("x", 100000), "http://localhost:" + plain.port + "/"},
		"TLS, HTTP/1.1":       {"--http1.1", "--cacert", cert, "https://localhost:" + secure.port + "/"},
		"TLS, HTTP/2":         {"--http2", "--cacert", cert, "https://localhost:" + secure.port + "/"},
	} {
		t.Run(name, func(t *testing.T) {
			out := run(t, command("curl", append([]string{"-sS", "--fail", "--negotiate", "-u", ":", "-w", "protocol %{http_version}\n"}, args...)...))
			pages := strings.Count(strings.Join(args, " "), "localhost:")
			require.Equal(t, pages, strings.Count(out, hello), out)
			if name == "TLS, HTTP/2" {
				require.Contains(t, out, "HTTP/2.0 over TLS")
			}
		})
	}
	t.Run("without a ticket", func(t *testing.T) {
		cmd := command("curl", "-sS", "--negotiate", "-u", ":", "-w", "%{http_code}", "http://localhost:"+plain.port+"/")
		cmd.Env = append(cmd.Env, "KRB5CCNAME=FILE:"+t.TempDir()+"/none")
		out := run(t, cmd)
		require.NotContains(t, out, hello)
		require.Contains(t, out, "401")
	})
}

// TestCurlProxy lets curl authenticate to a proxy, by 407.
func TestCurlProxy(t *testing.T) {
	need(t, "curl", "curl")
	a, err := negotiate.New(provider(t, nil), &negotiate.Options{Service: "HTTP@localhost", Proxy: true})
	require.NoError(t, err)
	defer a.Close() //nolint:errcheck // of the test
	s := httptest.NewServer(a.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := negotiate.From(r)
		_, _ = w.Write([]byte(id.Principal + " wants " + r.URL.String()))
	})))
	defer s.Close()
	out := run(t, command("curl", "-sS", "--fail", "--noproxy", "", "--proxy", strings.Replace(s.URL, "127.0.0.1", "localhost", 1),
		"--proxy-negotiate", "--proxy-user", ":", "http://www.sealctx.test/page"))
	require.Equal(t, "alice@SEALCTX.TEST wants http://www.sealctx.test/page", out)
}

const requestsScript = `
import sys, requests
from requests_kerberos import HTTPKerberosAuth, REQUIRED
s = requests.Session()
for i in range(3):
    r = s.get(sys.argv[1], auth=HTTPKerberosAuth(mutual_authentication=REQUIRED, force_preemptive=(i == 2)), verify=sys.argv[2] or True)
    r.raise_for_status()
    print(r.text)
`

// TestRequests lets python3-requests-kerberos authenticate, which demands that the
// server does too.
func TestRequests(t *testing.T) {
	if exec.Command("/usr/bin/python3", "-c", "import requests_kerberos").Run() != nil {
		t.Skip("no python3-requests-kerberos")
	}
	cert, key, _ := certificate(t)
	plain, secure := startSite(t), startSite(t, "-cert", cert, "-key", key)
	for _, args := range [][]string{{"http://localhost:" + plain.port + "/", ""}, {"https://localhost:" + secure.port + "/", cert}} {
		out := run(t, command("/usr/bin/python3", append([]string{"-c", requestsScript}, args...)...))
		require.Equal(t, 3, strings.Count(out, hello), out)
	}
}

// TestChromium lets headless Chromium authenticate, over HTTP and over TLS, where it
// begins with HTTP/2 and authenticates in HTTP/1.1. Chromium loads its GSS-API library only from the second start with one
// profile on.
func TestChromium(t *testing.T) {
	chromium := need(t, "chromium", "chromium")
	cert, key, _ := certificate(t)
	plain, secure := startSite(t), startSite(t, "-cert", cert, "-key", key)
	profile := t.TempDir()
	dump := func(url string, more ...string) string {
		args := append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir=" + profile,
			"--auth-server-allowlist=localhost", "--ignore-certificate-errors"}, more...)
		cmd := command(chromium, append(args, url)...)
		cmd.Env = append(cmd.Env, "HOME="+profile)
		return run(t, cmd)
	}
	dump("http://localhost:"+plain.port+"/", "--dump-dom")
	require.Contains(t, dump("http://localhost:"+plain.port+"/", "--dump-dom"), hello)
	out := dump("https://localhost:"+secure.port+"/", "--dump-dom")
	require.Contains(t, out, hello)
	require.Contains(t, out, "over TLS")
	if picture := os.Getenv("SEALCTX_PICTURE"); picture != "" { // for the README
		dump("http://localhost:"+plain.port+"/", "--window-size=720,420", "--screenshot="+filepath.Clean(picture))
	}
}
