// Package negotiate authenticates HTTP requests with Kerberos: the Negotiate scheme
// of RFC 4559, over any provider of go-gssapi/v3.
//
//	mech, err := krb5.New(nil)                // the keytab of $KRB5_KTNAME
//	p, err := spnego.New(mech, &spnego.Config{Raw: true}) // clients that do not negotiate, too
//	a, err := negotiate.New(p, nil)           // for HTTP/ of this host
//	http.Handle("/", a.Handler(next))
//
//	func page(w http.ResponseWriter, r *http.Request) {
//		id, ok := negotiate.From(r)       // false: nobody is authenticated
//		...
//	}
//
// The next handler is called only when a context is fully established, its client
// has a name, and [Options.Authorize] agrees. [Authenticator.Check] is the same for
// frameworks that are not net/http.
//
// # What a client sees
//
// Before a client is authenticated, every failure is the same answer: 401, or 407
// of a proxy, with the challenge "Negotiate" and nothing about the reason. The
// reason is in the log. A client that is authenticated and not authorized is told
// so: 403. The last token of mutual authentication is sent with the response of
// the next handler.
//
// # Requests and connections
//
// Each request is authenticated by itself, unless [Options.PerConnection] is set.
// Then a client of HTTP/1.1 authenticates once for each connection. Do not set it
// behind a proxy that sends requests of several clients over one connection. In
// HTTP/2 every request is authenticated by itself.
//
// A negotiation can take more than one request. [Options.Half] says where it is
// kept in between: with the connection, or sealed in a cookie, so that another
// worker process of the host can go on with it.
//
// # Channel bindings
//
// [Options.Bindings] ties authentication to the TLS channel (tls-server-end-point,
// RFC 5929), so that a server with another certificate cannot relay a ticket. The certificate that a connection uses is known if the server has
// ConnContext and the configuration of [TLSConfig]:
//
//	server := &http.Server{Handler: a.Handler(next), ConnContext: negotiate.ConnContext,
//		TLSConfig: negotiate.TLSConfig(config)}
//
// Bindings need the mechanism's help. A client without bindings is accepted by
// [IfSent] only if the mechanism accepts it: set BindingsIfSent in the
// configuration of secctx/krb5. Where TLS ends in front of this process, name the
// certificate in [Options.Certificate].
//
// # Delegated credentials
//
// A mechanism that takes delegated credentials, as secctx/krb5 does with
// AcceptDelegation, gives them to the next handler, see [Delegated]. They are
// released when it returns. A credential that comes with a half-open negotiation does
// not go into a cookie.
//
// # Which handlers not to use
//
// The HTTP handler of go-gssapi/v3 calls the next handler for half of a
// negotiation. The handler of gokrb5 does not check the signature of the mechanism
// list, does not answer for mutual authentication, and panics before
// authentication. doc/negotiate.md has the details and the way from there to here.
package negotiate
