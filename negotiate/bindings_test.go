package negotiate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
)

// certificate makes a certificate for 127.0.0.1 and the names, signed by itself.
func certificate(t testing.TB, algorithm x509.SignatureAlgorithm, names ...string) tls.Certificate {
	t.Helper()
	var key crypto.Signer
	var err error
	switch algorithm {
	case x509.PureEd25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case x509.ECDSAWithSHA256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case x509.ECDSAWithSHA384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case x509.ECDSAWithSHA512:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: append(names, "127.0.0.1"),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: algorithm}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestEndPoint has the hash of the certificate's signature, and SHA-256 for old
// ones.
func TestEndPoint(t *testing.T) {
	sum256 := func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
	sum384 := func(b []byte) []byte { s := sha512.Sum384(b); return s[:] }
	sum512 := func(b []byte) []byte { s := sha512.Sum512(b); return s[:] }
	for algorithm, sum := range map[x509.SignatureAlgorithm]func([]byte) []byte{
		x509.SHA256WithRSA:    sum256,
		x509.SHA384WithRSA:    sum384,
		x509.SHA512WithRSA:    sum512,
		x509.SHA256WithRSAPSS: sum256,
		x509.SHA384WithRSAPSS: sum384,
		x509.SHA512WithRSAPSS: sum512,
		x509.ECDSAWithSHA256:  sum256,
		x509.ECDSAWithSHA384:  sum384,
		x509.ECDSAWithSHA512:  sum512,
	} {
		c := certificate(t, algorithm)
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		require.NoError(t, err)
		require.Equal(t, algorithm, leaf.SignatureAlgorithm)
		got, err := EndPoint(leaf)
		require.NoError(t, err)
		require.Equal(t, append([]byte("tls-server-end-point:"), sum(leaf.Raw)...), got, algorithm.String())
	}
	for _, old := range []x509.SignatureAlgorithm{x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1} {
		got, err := EndPoint(&x509.Certificate{Raw: []byte("DER"), SignatureAlgorithm: old})
		require.NoError(t, err)
		require.Equal(t, append([]byte("tls-server-end-point:"), sum256([]byte("DER"))...), got)
	}
	c := certificate(t, x509.PureEd25519)
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	require.NoError(t, err)
	_, err = EndPoint(leaf)
	require.ErrorContains(t, err, "Ed25519")
	_, err = EndPoint(&x509.Certificate{})
	require.Error(t, err)
}

// overTLS runs a handler with certificates, and returns a client that trusts any.
func overTLS(t testing.TB, h http.Handler, config *tls.Config, client *tls.Config) (*http.Client, string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnContext = ConnContext
	s.TLS = config // StartTLS adds a certificate only if there is none
	s.StartTLS()
	t.Cleanup(s.Close)
	client.InsecureSkipVerify = true
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: client}}
	t.Cleanup(c.CloseIdleConnections)
	return c, s.URL
}

// bound is an option for a client that is bound to a certificate.
func bound(t testing.TB, c tls.Certificate) gssapi.InitSecContextOption {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	require.NoError(t, err)
	data, err := EndPoint(leaf)
	require.NoError(t, err)
	return gssapi.WithInitiatorChannelBinding(&gssapi.ChannelBinding{Data: data})
}

// TestBindings has clients without bindings, with true and with false ones, for
// each setting, in one process.
func TestBindings(t *testing.T) {
	r := newRig(t)
	own, evil := certificate(t, x509.ECDSAWithSHA384), certificate(t, x509.SHA256WithRSA)
	clients := map[string][]gssapi.InitSecContextOption{"none": nil, "true": {bound(t, own)}, "false": {bound(t, evil)}}
	for _, c := range []struct {
		name     string
		bindings Bindings
		tls      bool
		passes   map[string]bool
	}{
		{"ignored", Ignore, true, map[string]bool{"none": true, "true": true, "false": true}},
		{"if sent", IfSent, true, map[string]bool{"none": true, "true": true}},
		{"required", Require, true, map[string]bool{"true": true}},
		{"if sent, no TLS", IfSent, false, map[string]bool{"none": true, "true": true, "false": true}},
		{"required, no TLS", Require, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var id Identity
			next := http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { id, _ = From(req) })
			h := r.in(t).new(Options{Bindings: c.bindings}).Handler(next)
			client, url := &http.Client{}, ""
			if c.tls {
				client, url = overTLS(t, h, TLSConfig(&tls.Config{Certificates: []tls.Certificate{own}}), &tls.Config{})
			} else {
				url = server(t, h).URL
			}
			for name, opts := range clients {
				_, token := r.token(opts...)
				resp := get(t, client, url, auth(token)...)
				require.Equal(t, c.passes[name], resp.status == http.StatusOK, "%s: %s", name, r.log.take())
				if resp.status == http.StatusOK {
					require.Equal(t, name == "true" && c.bindings != Ignore && c.tls, id.Bound, name)
				}
			}
		})
	}
}

// TestCertificates knows which of several certificates a connection uses, resumed
// sessions included.
func TestCertificates(t *testing.T) {
	r := newRig(t)
	one, two := certificate(t, x509.SHA256WithRSA, "one.test"), certificate(t, x509.ECDSAWithSHA256, "two.test")
	h := r.new(Options{Bindings: Require}).Handler(&page{t: t})
	get2 := func(t *testing.T, client *http.Client, url string, c tls.Certificate) int {
		_, token := r.token(bound(t, c))
		return get(t, client, url, auth(token)...).status
	}
	for name, config := range map[string]*tls.Config{
		"list": {Certificates: []tls.Certificate{one, two}},
		"function": {GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName == "two.test" {
				return &two, nil
			}
			return &one, nil
		}},
		"function and list": {Certificates: []tls.Certificate{one}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName == "two.test" {
				return &two, nil
			}
			return nil, nil
		}},
		"configuration": {Certificates: []tls.Certificate{one}, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if hello.ServerName == "two.test" {
				return &tls.Config{Certificates: []tls.Certificate{two}}, nil
			}
			return nil, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for host, cert := range map[string]tls.Certificate{"one.test": one, "two.test": two} {
				sessions := tls.NewLRUClientSessionCache(4)
				for range 2 { // the second would resume
					client, url := overTLS(t, h, TLSConfig(config), &tls.Config{ServerName: host, ClientSessionCache: sessions})
					require.Equal(t, http.StatusOK, get2(t, client, url, cert), r.log.take())
					wrong := one
					if host == "one.test" {
						wrong = two
					}
					require.Equal(t, http.StatusUnauthorized, get2(t, client, url, wrong))
				}
			}
		})
	}
	t.Run("resumed", func(t *testing.T) {
		resumed := false
		note := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			resumed = req.TLS.DidResume
			h.ServeHTTP(w, req)
		})
		sessions := tls.NewLRUClientSessionCache(4)
		client, url := overTLS(t, note, TLSConfig(&tls.Config{Certificates: []tls.Certificate{one}}), &tls.Config{ClientSessionCache: sessions})
		for range 2 {
			require.Equal(t, http.StatusOK, get2(t, client, url, one), r.log.take())
			client.CloseIdleConnections()
		}
		require.True(t, resumed, "the second connection shows nothing otherwise")
	})
	t.Run("not known", func(t *testing.T) {
		for _, b := range []Bindings{IfSent, Require} {
			client, url := overTLS(t, r.new(Options{Bindings: b}).Handler(&page{t: t}), &tls.Config{Certificates: []tls.Certificate{one}}, &tls.Config{})
			require.Equal(t, http.StatusUnauthorized, get2(t, client, url, one))
			require.Contains(t, r.log.take(), "negotiate.TLSConfig")
		}
	})
	t.Run("set", func(t *testing.T) {
		leaf, err := x509.ParseCertificate(two.Certificate[0])
		require.NoError(t, err)
		s := server(t, r.new(Options{Bindings: Require, Certificate: leaf}).Handler(&page{t: t})) // TLS ends before
		require.Equal(t, http.StatusOK, get2(t, s.Client(), s.URL, two))
		require.Equal(t, http.StatusUnauthorized, get2(t, s.Client(), s.URL, one))
	})
}

// TestUndefinedBindings has a certificate for which RFC 5929 defines no bindings: no
// client can send true ones.
func TestUndefinedBindings(t *testing.T) {
	r := newRig(t)
	own, other := certificate(t, x509.PureEd25519), certificate(t, x509.ECDSAWithSHA256)
	for bindings, want := range map[Bindings]int{IfSent: http.StatusOK, Require: http.StatusUnauthorized} {
		h := r.new(Options{Bindings: bindings}).Handler(&page{t: t})
		client, url := overTLS(t, h, TLSConfig(&tls.Config{Certificates: []tls.Certificate{own}}), &tls.Config{})
		_, token := r.token()
		require.Equal(t, want, get(t, client, url, auth(token)...).status)
		_, token = r.token(bound(t, other))
		require.Equal(t, http.StatusUnauthorized, get(t, client, url, auth(token)...).status)
	}
	require.Contains(t, r.log.take(), "Ed25519")
}
