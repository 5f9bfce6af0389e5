//go:build nolibrary

package main

import (
	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/kdc"
)

// bare makes the provider that a node wraps: sealctx's own. No C library is in
// the program.
func bare(m mechanism) (gssapi.Provider, error) {
	config := krb5.Config{NoAcceptorSubkey: m.noSubkey, ClockSkew: m.skew}
	if m.grant {
		granter, err := kdc.New("")
		if err != nil {
			return nil, err
		}
		config.Granter = granter
	}
	return krb5.New(&config)
}
