package negotiate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"reflect"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/spnego"
)

// An Authenticator authenticates requests. Make one with [New]. Safe for concurrent
// use as far as its provider is.
type Authenticator struct {
	o       Options
	p       gssapi.Provider
	cred    gssapi.Credential
	own     bool // cred is ours to release
	service string
	scheme  scheme
	half    HalfOpen
	log     *slog.Logger
}

// New makes an authenticator over a provider, which is mostly that of secctx/spnego,
// also wrapped by secctx. It acquires the credential, so that a missing key is found
// at the start. The caller closes the authenticator; provider and sealer stay the
// caller's. A nil Options is the zero one. It returns an error without a provider
// or a key, and for options that contradict each other.
func New(p gssapi.Provider, o *Options) (*Authenticator, error) {
	if isNil(p) {
		return nil, errors.New("negotiate: New needs a provider, such as spnego.New returns")
	}
	a := &Authenticator{p: p, service: "a credential of its own"}
	if o != nil {
		a.o = *o
	}
	if a.o.MaxToken <= 0 {
		a.o.MaxToken = spnego.DefaultMaxToken
	}
	if a.log = a.o.Log; a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.scheme = origin
	if a.o.Proxy {
		a.scheme = proxy
	}
	if a.half = a.o.Half; a.half == nil {
		a.half = byConnection{}
	}
	if err := a.half.suits(a); err != nil {
		return nil, err
	}
	if a.o.Bindings < Ignore || a.o.Bindings > Require {
		return nil, fmt.Errorf("negotiate: Options.Bindings is %d", a.o.Bindings)
	}
	if !isNil(a.o.Credential) {
		a.cred = a.o.Credential
		return a, nil
	}
	return a, a.acquire()
}

// acquire gets the credential for the service.
func (a *Authenticator) acquire() error {
	a.service = a.o.Service
	if a.service == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("negotiate: this host's name: %w; set Options.Service", err)
		}
		a.service = "HTTP@" + host
	}
	name, err := a.p.ImportName(a.service, gssapi.GSS_NT_HOSTBASED_SERVICE)
	if err != nil {
		return fmt.Errorf("negotiate: service %q: %w", a.service, err)
	}
	defer name.Release() //nolint:errcheck // there is nothing to do about it
	a.cred, err = a.p.AcquireCredential(name, nil, gssapi.CredUsageAcceptOnly, nil)
	if err == nil && isNil(a.cred) {
		err = errors.New("the provider returned none")
	}
	if err != nil {
		return fmt.Errorf("negotiate: no key for the service %q: %w; put its key into the keytab, or name the service that the keytab has in Options.Service", a.service, err)
	}
	a.own = true
	return nil
}

// Close releases the credential that New acquired.
func (a *Authenticator) Close() error {
	if !a.own {
		return nil
	}
	return a.cred.Release()
}

// A Request is what authentication needs to know of an HTTP request.
type Request struct {
	// Context is the request's, derived from that of its connection where
	// [ConnContext] made one. Nil: no connection is known.
	Context context.Context

	// Major is the major version of HTTP.
	Major int

	// Header has the client's Authorization or Proxy-Authorization, and its Cookie.
	// Other fields are not read.
	Header http.Header

	// TLS is the state of the connection; nil: it has no TLS.
	TLS *tls.ConnectionState

	// Remote is the client's address, for the log alone.
	Remote string
}

// An Answer is the result of Check.
type Answer struct {
	// Identity is the client, nil unless it is authenticated.
	Identity *Identity

	// Status is the status of the response if the client is not authenticated: 401,
	// or 407 of a proxy. It is 0 if it is.
	Status int

	// Header is to be added to the response, whether or not the client is
	// authenticated: the challenge, or the last token of mutual authentication, and
	// a cookie.
	Header http.Header

	// Continued says that a negotiation goes on. The response must have Status and
	// Header, and no other challenge.
	Continued bool

	// Delegated is the credential that the client delegated, which the caller owns
	// and releases. Nil: none.
	Delegated gssapi.Credential

	// Context is the established context, which the caller owns and deletes or
	// exports. Nil if the client is not authenticated, and if it was authenticated
	// by its connection before.
	Context gssapi.SecContext
}

// errNone: there are no credentials, which is no failure.
var errNone = errors.New("no credentials")

// Check authenticates a request, for frameworks that are not net/http. Handler is
// Check with Authorize, Established and Fallback. A request that is not
// authenticated must get the answer's Status and Header; nothing else may tell the
// client why.
func (a *Authenticator) Check(r *Request) *Answer {
	if r.Context == nil {
		other := *r
		other.Context = context.Background()
		r = &other
	}
	answer := &Answer{Header: http.Header{}}
	token, err := a.scheme.token(r.Header, a.o.MaxToken)
	if errors.Is(err, errNone) {
		if answer.Identity = a.byConnection(r); answer.Identity == nil {
			a.challenge(answer, nil)
		}
		return answer
	}
	a.forget(r) // who sends new credentials is no longer who it was
	if err == nil {
		err = a.negotiate(r, token, answer)
	}
	if err != nil {
		answer.Identity, answer.Context, answer.Continued = nil, nil, false
		a.log.LogAttrs(r.Context, slog.LevelInfo, "negotiation refused", slog.String("remote", r.Remote), slog.String("reason", err.Error()))
		a.challenge(answer, nil)
	}
	return answer
}

// challenge makes the answer to a client that is not authenticated.
func (a *Authenticator) challenge(answer *Answer, token []byte) {
	answer.Status = a.scheme.status
	a.scheme.challenge(answer.Header, token)
}

// negotiate takes a token of the client.
func (a *Authenticator) negotiate(r *Request, token []byte, answer *Answer) error {
	binding, err := a.binding(r)
	if err != nil {
		return err
	}
	leg := &leg{a: a, r: r, header: answer.Header, binding: binding, options: a.options(binding)}
	sc, err := leg.context(token)
	if err != nil {
		return err
	}
	kept := false
	var delegated gssapi.Credential
	defer func() {
		if !kept {
			release(delegated)
			_, _ = sc.Delete() // it has no token for the client
		}
	}()
	out, info, err := sc.Continue(token)
	if !isNil(info.DelegatedCredential) {
		delegated = info.DelegatedCredential
	}
	if err != nil {
		return err // out is not sent: it would tell the reason
	}
	if !info.FullyEstablished || sc.ContinueNeeded() {
		if len(out) == 0 {
			return errors.New("the negotiation waits for a token and has none for the client")
		}
		if err := a.half.keep(leg, sc); err != nil {
			return fmt.Errorf("keeping a negotiation that needs another request: %w", err)
		}
		kept, answer.Continued = true, true
		a.challenge(answer, out)
		return nil
	}
	id, err := identity(&info)
	if err != nil {
		return err
	}
	if a.o.Bindings == Require && !id.Bound {
		return fmt.Errorf("%w: the client sent none", gssapi.ErrBadBindings)
	}
	kept, answer.Identity, answer.Context, answer.Delegated = true, id, sc, delegated
	if len(out) > 0 {
		a.scheme.challenge(answer.Header, out)
	}
	a.remember(r, id)
	return nil
}

// release releases a delegated credential, if there is one.
func release(cred gssapi.Credential) {
	if cred != nil {
		_ = cred.Release() // there is nothing to do about it
	}
}

// options are the acceptor's.
func (a *Authenticator) options(binding *gssapi.ChannelBinding) []gssapi.AcceptSecContextOption {
	o := []gssapi.AcceptSecContextOption{gssapi.WithAcceptorCredential(a.cred)}
	if binding != nil {
		o = append(o, gssapi.WithAcceptorChannelBinding(binding))
	}
	return o
}

// byConnection returns the client that the connection was authenticated for.
func (a *Authenticator) byConnection(r *Request) *Identity {
	if c := a.conn(r); c != nil {
		return c.client(time.Now())
	}
	return nil
}

func (a *Authenticator) remember(r *Request, id *Identity) {
	if c := a.conn(r); c != nil {
		c.setClient(id)
	}
}

func (a *Authenticator) forget(r *Request) { a.remember(r, nil) }

// conn is the request's connection if connections are authenticated.
func (a *Authenticator) conn(r *Request) *conn {
	if !a.o.PerConnection || r.Major != 1 {
		return nil
	}
	return connOf(r.Context)
}

// isNil reports whether an interface holds nothing, or a nil pointer.
func isNil(v any) bool {
	r := reflect.ValueOf(v)
	return !r.IsValid() || r.Kind() == reflect.Pointer && r.IsNil()
}
