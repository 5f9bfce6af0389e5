//go:build !nolibrary

package main

import (
	"errors"

	"github.com/golang-auth/go-gssapi/v3"

	gssapic "github.com/golang-auth/go-gssapi-c"
)

// bare makes the provider that a node wraps: a C library's.
func bare(m mechanism) (gssapi.Provider, error) {
	if m != (mechanism{}) {
		return nil, errors.New("-no-subkey, -skew and -grant are for sealctx's own mechanism")
	}
	return gssapi.NewProvider(gssapic.LIBID)
}
