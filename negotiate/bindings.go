package negotiate

import (
	"crypto"
	_ "crypto/sha256" // for hashes below
	_ "crypto/sha512" // for hashes below
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/golang-auth/go-gssapi/v3"
)

// endPoint begins the bindings of tls-server-end-point (RFC 5929 section 4).
const endPoint = "tls-server-end-point:"

// hashes are the hash functions of RFC 5929 section 4.1, by the algorithm that
// signed the certificate: its own, and SHA-256 for MD5 and SHA-1. Algorithms that
// are not here have no hash function, or several; their bindings are undefined.
var hashes = map[x509.SignatureAlgorithm]crypto.Hash{
	x509.MD5WithRSA:       crypto.SHA256,
	x509.SHA1WithRSA:      crypto.SHA256,
	x509.DSAWithSHA1:      crypto.SHA256,
	x509.ECDSAWithSHA1:    crypto.SHA256,
	x509.SHA256WithRSA:    crypto.SHA256,
	x509.SHA256WithRSAPSS: crypto.SHA256,
	x509.DSAWithSHA256:    crypto.SHA256,
	x509.ECDSAWithSHA256:  crypto.SHA256,
	x509.SHA384WithRSA:    crypto.SHA384,
	x509.SHA384WithRSAPSS: crypto.SHA384,
	x509.ECDSAWithSHA384:  crypto.SHA384,
	x509.SHA512WithRSA:    crypto.SHA512,
	x509.SHA512WithRSAPSS: crypto.SHA512,
	x509.ECDSAWithSHA512:  crypto.SHA512,
}

// EndPoint returns the application data of the channel bindings to a server's
// certificate (RFC 5929 section 4). It is for clients too. It returns an error for a
// certificate that has no bindings, such as one that was signed with Ed25519.
func EndPoint(cert *x509.Certificate) ([]byte, error) {
	hash, ok := hashes[cert.SignatureAlgorithm]
	if !ok {
		return nil, fmt.Errorf("negotiate: a certificate that is signed with %v has no channel bindings (RFC 5929 section 4.1)", cert.SignatureAlgorithm)
	}
	h := hash.New()
	h.Write(cert.Raw)
	return h.Sum([]byte(endPoint)), nil
}

// secure reports whether a request came over TLS.
func (a *Authenticator) secure(r *Request) bool { return r.TLS != nil || a.o.Certificate != nil }

var (
	errNoTLS         = errors.New("bindings are required and the request came without TLS")
	errNoCertificate = errors.New("the connection's certificate is not known: use negotiate.TLSConfig and negotiate.ConnContext, or set Options.Certificate")
)

// binding is the acceptor's channel bindings for a request. Nil: none.
func (a *Authenticator) binding(r *Request) (*gssapi.ChannelBinding, error) {
	switch {
	case a.o.Bindings == Ignore:
		return nil, nil
	case a.secure(r):
	case a.o.Bindings == Require:
		return nil, errNoTLS
	default:
		return nil, nil
	}
	cert := a.o.Certificate
	if c := connOf(r.Context); cert == nil && c != nil {
		cert = c.serverCertificate()
	}
	if cert == nil {
		return nil, errNoCertificate
	}
	data, err := EndPoint(cert)
	if err != nil {
		if a.o.Bindings == Require {
			return nil, err
		}
		data = []byte(endPoint) // no client has these, so that clients with bindings are refused
	}
	return &gssapi.ChannelBinding{Data: data}, nil
}

// TLSConfig returns a copy of a server's configuration that tells authenticators
// which certificate a connection uses. The certificates must be in the
// configuration: those that http.Server.ServeTLS reads from files are not seen. The
// server needs ConnContext as well.
//
// A resumed session uses no certificate, so that it is not known which one the
// client saw at first. With more than one certificate session tickets are disabled.
func TLSConfig(c *tls.Config) *tls.Config {
	if c == nil {
		c = &tls.Config{}
	}
	if c.GetConfigForClient == nil && c.GetCertificate == nil && len(c.Certificates) == 1 {
		t := c.Clone()
		t.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return nil, record(hello, &c.Certificates[0])
		}
		return t
	}
	t := recording(c)
	if c.GetConfigForClient != nil {
		t.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			other, err := c.GetConfigForClient(hello)
			if err != nil || other == nil {
				return nil, err
			}
			return recording(other), nil
		}
	}
	return t
}

// recording returns a copy of a configuration that records each certificate that it
// chooses, and so resumes no sessions.
func recording(c *tls.Config) *tls.Config {
	t := c.Clone()
	t.SessionTicketsDisabled = true
	t.Certificates = nil
	t.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := choose(c, hello)
		if err == nil {
			err = record(hello, cert)
		}
		return cert, err
	}
	return t
}

// choose is the choice that crypto/tls makes.
func choose(c *tls.Config, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.GetCertificate != nil && (len(c.Certificates) == 0 || hello.ServerName != "") {
		if cert, err := c.GetCertificate(hello); cert != nil || err != nil {
			return cert, err
		}
	}
	for i := range c.Certificates {
		if hello.SupportsCertificate(&c.Certificates[i]) == nil {
			return &c.Certificates[i], nil
		}
	}
	if len(c.Certificates) == 0 {
		return nil, errors.New("negotiate: the TLS configuration has no certificate")
	}
	return &c.Certificates[0], nil
}

// record keeps the certificate that a connection uses.
func record(hello *tls.ClientHelloInfo, cert *tls.Certificate) error {
	c := connOf(hello.Context())
	if c == nil {
		return nil // no authenticator asks
	}
	leaf := cert.Leaf
	if leaf == nil {
		if len(cert.Certificate) == 0 {
			return errors.New("negotiate: the TLS configuration has an empty certificate")
		}
		var err error
		if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return fmt.Errorf("negotiate: the server's certificate: %w", err)
		}
	}
	c.setCertificate(leaf)
	return nil
}
