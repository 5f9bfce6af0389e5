package demo

import (
	"sync"

	"github.com/golang-auth/go-gssapi/v3"
)

// tap is a mechanism with a listener: it keeps a copy of every plain token that it
// exports. Programs without sealctx hand these out.
type tap struct {
	gssapi.Provider
	format string

	mu   sync.Mutex
	last []byte
}

// PlainFormat names the wrapped mechanism's format, as secctx asks for it.
func (t *tap) PlainFormat() string { return t.format }

func (t *tap) AcceptSecContext(opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	sc, err := t.Provider.AcceptSecContext(opts...)
	return &tappedContext{sc, t}, err
}

func (t *tap) ImportSecContext(b []byte) (gssapi.SecContext, error) {
	sc, err := t.Provider.ImportSecContext(b)
	if err != nil {
		return nil, err
	}
	return &tappedContext{sc, t}, nil
}

type tappedContext struct {
	gssapi.SecContext
	tap *tap
}

func (c *tappedContext) Export() ([]byte, error) {
	plain, err := c.SecContext.Export()
	c.tap.mu.Lock()
	defer c.tap.mu.Unlock()
	c.tap.last = append([]byte(nil), plain...)
	return plain, err
}

// plain returns what the mechanism exported last.
func (t *tap) plain() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}
