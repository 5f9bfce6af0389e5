package negotiate

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"net"
	"sync"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
)

// conn is what is known of a client's connection.
type conn struct {
	id [16]byte // random

	mu          sync.Mutex
	identity    *Identity
	certificate *x509.Certificate // the server's
	half        gssapi.SecContext // a negotiation that goes on
	timer       *time.Timer       // ends half
}

type connKey struct{}

// ConnContext is for http.Server.ConnContext. It lets authenticators know the
// connection of a request: to keep negotiations with it, to authenticate it as a
// whole, and to know the certificate that it uses. A server with a ConnContext of
// its own calls this one from there.
func ConnContext(ctx context.Context, _ net.Conn) context.Context {
	c := &conn{}
	_, _ = rand.Read(c.id[:]) // never fails
	return context.WithValue(ctx, connKey{}, c)
}

func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// client is the client that the connection was authenticated for, nil when that
// has expired.
func (c *conn) client(now time.Time) *Identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.identity == nil {
		return nil
	}
	if !c.identity.Expires.IsZero() && !now.Before(c.identity.Expires) {
		c.identity = nil
		return nil
	}
	id := *c.identity // the caller's own
	return &id
}

func (c *conn) setClient(id *Identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.identity = nil; id != nil {
		own := *id
		c.identity = &own
	}
}

func (c *conn) setCertificate(cert *x509.Certificate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.certificate = cert
}

func (c *conn) serverCertificate() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.certificate
}

// hold keeps a negotiation for a while, and ends the one that was kept before.
func (c *conn) hold(sc gssapi.SecContext, lifetime time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
	c.half = sc
	c.timer = time.AfterFunc(lifetime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.half == sc {
			c.drop()
		}
	})
}

// release returns the negotiation that is kept, nil if there is none.
func (c *conn) release() gssapi.SecContext {
	c.mu.Lock()
	defer c.mu.Unlock()
	sc := c.half
	c.half = nil
	c.drop()
	return sc
}

// drop ends the negotiation that is kept. The lock is held.
func (c *conn) drop() {
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.half != nil {
		_, _ = c.half.Delete() // it has no token for the client
	}
	c.half, c.timer = nil, nil
}
