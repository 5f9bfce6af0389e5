package negotiate

import (
	"crypto/x509"
	"log/slog"
	"net/http"

	"github.com/golang-auth/go-gssapi/v3"
)

// Bindings says what an authenticator does about channel bindings.
type Bindings int

const (
	// Ignore takes clients whatever they are bound to.
	Ignore Bindings = iota

	// IfSent takes clients that send no bindings, and clients that send those of
	// the TLS channel. A request that came without TLS has no channel to compare.
	IfSent

	// Require takes only clients that send the bindings of the TLS channel. A
	// request that came without TLS is refused.
	Require
)

// Options say how requests are authenticated. The zero value is the
// recommendation for one process without TLS of its own.
type Options struct {
	// Service is the host-based name of the service whose tickets are accepted.
	// Empty: "HTTP@" and this host's name. A keytab may hold other services' keys;
	// their tickets are refused.
	Service string

	// Credential replaces Service: the acceptor's credential. It stays the
	// caller's. It may accept more than one service.
	Credential gssapi.Credential

	// Half is where a negotiation is kept between two requests. Nil: with the
	// connection, which needs ConnContext in the server. See [Cookie].
	Half HalfOpen

	// PerConnection authenticates connections of HTTP/1.1 rather than requests. It
	// needs ConnContext in the server.
	PerConnection bool

	// Bindings is what is done about channel bindings.
	Bindings Bindings

	// Certificate is the one that clients see, where TLS ends in front of this
	// process. Requests then count as having come over TLS. Nil: the certificate
	// of the connection, see [TLSConfig].
	Certificate *x509.Certificate

	// Proxy makes this a proxy: 407, Proxy-Authenticate and Proxy-Authorization.
	Proxy bool

	// MaxToken is the longest token of a client in bytes, before base64. Zero:
	// spnego.DefaultMaxToken. The server's MaxHeaderBytes must have room for four
	// thirds of it.
	MaxToken int

	// Authorize says whether a client may go on: nil, or an error that says why
	// not. The client is told its own name and 403; the error goes to the log. Nil:
	// every authenticated client may. It is called for each request, by Handler.
	Authorize func(*http.Request, Identity) error

	// Established gets each context that was established for a request, before
	// the next handler is called, and owns it: it exports or deletes it. Nil: the
	// context is deleted when the request ends. It is called by Handler.
	Established func(http.ResponseWriter, *http.Request, gssapi.SecContext)

	// Fallback serves requests that are not authenticated, with the challenge in
	// the response's header already: a login form, or other schemes for clients
	// without Kerberos. To have clients try Kerberos first, it answers 401 (a
	// proxy 407). Nil: a short text. It is called by Handler.
	Fallback http.Handler

	// Log gets a line for each negotiation that was refused, with the reason, and
	// for each client that was not authorized. Nil: nothing is logged.
	Log *slog.Logger
}
