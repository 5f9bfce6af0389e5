package negotiate

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx/spnego"
)

// A HalfOpen keeps negotiations between two requests. [Cookie] is one; without one
// they are kept with the connection.
type HalfOpen interface {
	// suits returns an error if an authenticator's options contradict this.
	suits(a *Authenticator) error
	// keep takes a context. On an error the context stays the caller's.
	keep(l *leg, sc gssapi.SecContext) error
	// take returns the context that was kept for a client.
	take(l *leg) (gssapi.SecContext, error)
	// drop ends what was kept for a client that begins anew.
	drop(l *leg)
}

// leg is one request of a negotiation.
type leg struct {
	a       *Authenticator
	r       *Request
	header  http.Header            // of the response
	binding *gssapi.ChannelBinding // nil: none
	options []gssapi.AcceptSecContextOption
}

// initialTag begins the first token of a negotiation (RFC 2743 section 3.1).
const initialTag = 0x60

// context is the context that a token is for: a new one for a first token, and
// otherwise the one that was kept.
func (l *leg) context(token []byte) (sc gssapi.SecContext, err error) {
	if token[0] == initialTag {
		l.a.half.drop(l)
		sc, err = l.a.p.AcceptSecContext(l.options...)
	} else if sc, err = l.a.half.take(l); err != nil {
		err = fmt.Errorf("a token that goes on with a negotiation: %w", err)
	}
	if err == nil && isNil(sc) {
		err = errors.New("the provider returned no context")
	}
	return sc, err
}

// bind is a digest of what a negotiation must not leave: the service, the TLS
// channel, and where connections are authenticated, the connection.
func (l *leg) bind() []byte {
	a := l.a
	h := sha256.New()
	part := func(b []byte) {
		_ = binary.Write(h, binary.BigEndian, uint64(len(b))) // a digest takes everything
		h.Write(b)
	}
	part([]byte(a.service))
	part([]byte(a.scheme.credentials))
	var secure, channel []byte
	if a.secure(l.r) {
		secure = []byte("TLS")
	}
	if l.binding != nil {
		channel = l.binding.Data
	}
	part(secure)
	part(channel)
	if c := a.conn(l.r); c != nil {
		part(c.id[:])
	}
	return h.Sum(nil)
}

// byConnection keeps negotiations with the connection, in this process.
type byConnection struct{}

var errNoConn = errors.New("the connection is not known: set ConnContext of http.Server to negotiate.ConnContext, or Options.Half to negotiate.Cookie")

func (byConnection) suits(*Authenticator) error { return nil }

func (byConnection) keep(l *leg, sc gssapi.SecContext) error {
	c := connOf(l.r.Context)
	if c == nil {
		return errNoConn
	}
	c.hold(sc, spnego.HalfLifetime)
	return nil
}

func (byConnection) take(l *leg) (gssapi.SecContext, error) {
	c := connOf(l.r.Context)
	if c == nil {
		return nil, errNoConn
	}
	if sc := c.release(); sc != nil {
		return sc, nil
	}
	return nil, errors.New("the connection has none")
}

func (byConnection) drop(l *leg) {
	if c := connOf(l.r.Context); c != nil {
		if sc := c.release(); sc != nil {
			_, _ = sc.Delete() // it has no token for the client
		}
	}
}

// defaultCookie is the name of the cookie unless another is chosen.
const defaultCookie = "negotiate"

// cookie keeps negotiations with the client, sealed.
type cookie struct {
	sealer seal.Sealer
	name   string
}

// Cookie keeps negotiations in a cookie of the client. They are sealed for this user
// of this host, so that the next request can go to any worker process with the same
// sealer: once, within a minute, for the same service, over the same kind of channel
// with the same certificate. The sealer stays the caller's. name is the cookie's;
// empty: "negotiate". Over TLS it begins with "__Host-". A client has one
// negotiation at a time.
//
// The provider must be that of secctx/spnego, or secctx's around it: New fails
// otherwise. A proxy cannot set cookies.
func Cookie(s seal.Sealer, name string) HalfOpen {
	if name == "" {
		name = defaultCookie
	}
	return &cookie{s, name}
}

func (c *cookie) suits(a *Authenticator) error {
	if isNil(c.sealer) {
		return errors.New("negotiate: Cookie needs a sealer, such as seal.OpenHost returns")
	}
	if a.o.Proxy {
		return errors.New("negotiate: a proxy cannot set cookies, leave Options.Half nil")
	}
	if (&http.Cookie{Name: c.name, Value: "v"}).Valid() != nil {
		return fmt.Errorf("negotiate: %q is not the name of a cookie", c.name)
	}
	// Nothing opens an empty token, and only a provider that could says so.
	if _, err := spnego.ImportHalf(a.p, c.sealer, nil, nil); errors.Is(err, gssapi.ErrUnavailable) {
		return fmt.Errorf("negotiate: Cookie needs a provider of secctx/spnego: %w", err)
	}
	return nil
}

// called is the cookie's name on a channel.
func (c *cookie) called(l *leg) string {
	if l.a.secure(l.r) {
		return "__Host-" + c.name
	}
	return c.name
}

func (c *cookie) keep(l *leg, sc gssapi.SecContext) error {
	token, err := spnego.ExportHalf(sc, c.sealer, l.bind())
	if err != nil {
		return err
	}
	_, _ = sc.Delete() // nothing of the negotiation is left there
	c.set(l, base64.RawURLEncoding.EncodeToString(token), spnego.HalfLifetime)
	return nil
}

// set puts the cookie into the response. It goes with every request, also one that
// another site caused: it is worth nothing without a ticket.
func (c *cookie) set(l *leg, value string, age time.Duration) {
	k := &http.Cookie{Name: c.called(l), Value: value, Path: "/", MaxAge: int(age.Seconds()), HttpOnly: true}
	if age <= 0 {
		k.MaxAge = -1
	}
	if l.a.secure(l.r) {
		k.Secure, k.SameSite = true, http.SameSiteNoneMode
	}
	l.header.Add("Set-Cookie", k.String())
}

func (c *cookie) take(l *leg) (gssapi.SecContext, error) {
	value, err := c.get(l)
	if err != nil {
		return nil, err
	}
	c.set(l, "", 0)
	if len(value) > base64.RawURLEncoding.EncodedLen(seal.MaxToken) {
		return nil, fmt.Errorf("a cookie of %d characters", len(value))
	}
	token, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil {
		return nil, errors.New("the cookie is not base64")
	}
	return spnego.ImportHalf(l.a.p, c.sealer, token, l.bind(), l.options...)
}

// get reads the cookie of the request, of which there must be one.
func (c *cookie) get(l *leg) (value string, err error) {
	found := 0
	name := c.called(l)
	for _, line := range l.r.Header["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			if n, v, _ := strings.Cut(strings.TrimSpace(pair), "="); n == name {
				value, found = v, found+1
			}
		}
	}
	if found != 1 {
		return "", fmt.Errorf("%d cookies %s", found, name)
	}
	return value, nil
}

// drop leaves the cookie: it is overwritten, or it expires.
func (c *cookie) drop(*leg) {}
