package krb5

import (
	"bytes"
	"fmt"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
)

// An exported credential; doc/krb5-context.md has it too.
//
//	"SCC5" | version u8 = 1 | a credential cache of version 4
const (
	credMagic   = "SCC5"
	credVersion = 1
	credHead    = len(credMagic) + 1
)

// Export returns an initiator's tickets as a token (GFD.24 section 2.1.1), those that
// have not expired. The credential stays as it is. The token holds the session keys in
// clear. It is one allocation, and the only copy: the caller seals it and wipes it.
// Package secctx does so. Errors: GSS_S_UNAVAILABLE for a credential that accepts, or
// that holds a client keytab alone; GSS_S_CREDENTIALS_EXPIRED if no ticket is left;
// GSS_S_NO_CRED.
func (c *credential) Export() (tok []byte, err error) {
	acceptor, tickets, err := c.parts()
	switch {
	case err != nil:
		return nil, err
	case acceptor != nil || tickets.cache == nil:
		return nil, failf(gssapi.ErrUnavailable, "only an initiator's tickets can be exported")
	}
	err = tickets.use(func(cc *ccache.Cache) error {
		living := *cc
		living.Credentials = nil
		for _, cr := range cc.Credentials {
			if c.p.now().Add(cc.Offset).Before(cr.EndTime) {
				living.Credentials = append(living.Credentials, cr)
			}
		}
		if living.Credentials == nil {
			return fail(gssapi.ErrCredentialsExpired, KRB_AP_ERR_TKT_EXPIRED)
		}
		body, mem, err := c.p.arena.marshal(&living, living.Size())
		if err != nil {
			return err
		}
		defer mem.Wipe()
		tok = make([]byte, credHead+len(body))
		tok[copy(tok, credMagic)] = credVersion
		memsafe.Do(func() { copy(tok[credHead:], body) })
		return nil
	})
	return tok, err
}

// ImportCredential makes the credential of an exported one (GFD.24 section 2.1.2). b
// stays the caller's, to wipe, and the caller vouches for it. Release the credential.
// Errors: GSS_S_DEFECTIVE_TOKEN unless b is what Export wrote, to its last byte.
func (p *Provider) ImportCredential(b []byte) (gssapi.Credential, error) {
	if err := p.alive(); err != nil {
		return nil, err
	}
	bad := func(err error) (gssapi.Credential, error) {
		return nil, failf(gssapi.ErrDefectiveToken, "%w: %w", ErrFormat, err)
	}
	if len(b) <= credHead || string(b[:len(credMagic)]) != credMagic || b[len(credMagic)] != credVersion {
		return bad(fmt.Errorf("not an exported credential"))
	}
	v, err := holdVault(p.arena, b[credHead:], ccaches)
	if err != nil {
		return bad(err)
	}
	err = v.use(func(c *ccache.Cache) error {
		again, mem, err := p.arena.marshal(c, c.Size())
		if err != nil {
			return err
		}
		defer mem.Wipe()
		if len(c.Credentials) == 0 || !bytes.Equal(again, b[credHead:]) {
			return failf(gssapi.ErrDefectiveToken, "%w: not what Export writes", ErrFormat)
		}
		return nil
	})
	if err != nil {
		v.wipe()
		return nil, err
	}
	return &credential{p: p, tickets: newInitiatorCred(v)}, nil
}

// InquireByOid knows no object identifier: GSS_S_UNAVAILABLE (GFD.24 section 2.3.2).
func (c *credential) InquireByOid(gssapi.Oid) ([][]byte, error) {
	return nil, fail(gssapi.ErrUnavailable, nil)
}

var (
	_ gssapi.ProviderExtGGF   = (*Provider)(nil)
	_ gssapi.CredentialExtGGF = (*credential)(nil)
)
