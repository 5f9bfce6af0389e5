package main

import (
	"fmt"

	"github.com/golang-auth/go-gssapi/v3"

	gssapic "github.com/golang-auth/go-gssapi-c"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// The providers that -provider names.
const (
	providerC = "c"
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

// bare makes the provider that a node wraps.
func bare(name string) (gssapi.Provider, error) {
	switch name {
	case providerC:
		return gssapi.NewProvider(gssapic.LIBID)
	}
	return nil, fmt.Errorf("no provider %q", name)
}

// wrapped makes the provider that a node uses: sealed by this host's keyring.
func wrapped(p gssapi.Provider, format string) (gssapi.Provider, error) {
	host, err := seal.OpenHost()
	if err != nil {
		return nil, err
	}
	config := secctx.Config{Sealer: host, Format: format} // the host lives as long as the process
	return config.Wrap(p), nil
}
