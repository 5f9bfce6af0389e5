package main

import (
	"bytes"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// counted is a provider that counts the calls of its ImportSecContext, which
// tell whether a mechanism's parser saw a token.
type counted struct {
	gssapi.Provider
	imports int
}

func (c *counted) ImportSecContext(b []byte) (gssapi.SecContext, error) {
	c.imports++
	return c.Provider.ImportSecContext(b)
}

// leaky makes contexts that keep a copy of the plain token that they export:
// what a scan of this process has to find.
type leaky struct {
	gssapi.Provider
	kept []byte
}

func (l *leaky) AcceptSecContext(o ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	sc, err := l.Provider.AcceptSecContext(o...)
	return &leakyContext{sc, l}, err
}

type leakyContext struct {
	gssapi.SecContext
	to *leaky
}

func (c *leakyContext) Export() ([]byte, error) {
	token, err := c.SecContext.Export()
	c.to.kept = bytes.Clone(token)
	return token, err
}

// mechanism is what can be set of sealctx's own mechanism, which reads no
// krb5.conf.
type mechanism struct {
	noSubkey bool          // accept without a subkey of one's own
	skew     time.Duration // 0: the mechanism's default
	grant    bool          // ask the KDC of $KRB5_CONFIG for tickets
}

// wrapped makes the provider that a node uses: sealed by this host's keyring.
func wrapped(p gssapi.Provider, format string) (gssapi.Provider, error) {
	host, err := seal.OpenHost(nil)
	if err != nil {
		return nil, err
	}
	config := secctx.Config{Sealer: host, Format: format} // the host lives as long as the process
	return config.Wrap(p), nil
}
