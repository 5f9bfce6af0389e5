package krb5

import (
	"bytes"
	"context"
	"fmt"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// takeDelegated makes a credential of the tickets that the client delegates, if
// the configuration wants them. They must be the authenticated client's own.
func (a *acceptance) takeDelegated() error {
	if !a.p.config.AcceptDelegation || a.sum.Cred == nil {
		return nil
	}
	bad := func(err error) error {
		return failf(gssapi.ErrDefectiveToken, "delegated credential: %w", err)
	}
	cred, err := kmsg.ParseCred(a.sum.Cred)
	if err != nil {
		return bad(err)
	}
	plain, mem, err := a.openCred(&cred.Enc)
	if err != nil {
		return err
	}
	defer mem.Wipe()
	part, err := kmsg.ParseCredPart(plain)
	if err != nil {
		return bad(err)
	}
	cache, err := forwardedCache(a.ticket.Client, cred.Tickets, part.Infos)
	if err != nil {
		return bad(err)
	}
	v := newVault(a.p.arena, ccaches)
	if err := v.fill(fileID{}, false, cache.Clone); err != nil {
		return fail(gssapi.ErrFailure, err)
	}
	a.delegated = &credential{p: a.p, tickets: newInitiatorCred(v)}
	return nil
}

// openCred decrypts the content of a KRB-CRED. RFC 4121 puts it under the ticket's
// session key. Some clients use their subkey. Others do not encrypt it again
// inside the authenticator: then the content aliases the authenticator, and mem is
// nil.
func (a *acceptance) openCred(e *kmsg.Encrypted) (plain []byte, mem *memsafe.Secret, err error) {
	if e.EType == kmsg.EtypeNone {
		return e.Cipher, nil, nil
	}
	if len(e.Cipher) == 0 {
		return nil, nil, failf(gssapi.ErrDefectiveToken, "%w: delegated credential", KRB_AP_ERR_BAD_INTEGRITY)
	}
	if mem, err = a.p.arena.alloc(len(e.Cipher)); err != nil {
		return nil, nil, err
	}
	for _, key := range []kmsg.Key{a.ticket.Key, a.auth.Subkey} {
		if key.EType != e.EType || key.Value == nil {
			continue
		}
		plain, err = etype.Decrypt(mem.Bytes()[:0], etype.ID(e.EType), key.Value, kmsg.UsageCredPart, e.Cipher)
		if err == nil {
			return plain, mem, nil
		}
	}
	mem.Wipe()
	return nil, nil, failf(gssapi.ErrDefectiveToken, "%w: delegated credential", KRB_AP_ERR_BAD_INTEGRITY)
}

// forwardedCache returns the credential cache of forwarded tickets. Its keys alias
// those of infos. Names that the client left out are those of the authenticator
// and the ticket.
func forwardedCache(client kmsg.Principal, tickets [][]byte, infos []kmsg.CredInfo) (*ccache.Cache, error) {
	if len(tickets) != len(infos) {
		return nil, fmt.Errorf("%w: %d tickets and %d keys", kmsg.ErrMalformed, len(tickets), len(infos))
	}
	c := &ccache.Cache{Client: client}
	for i, info := range infos {
		t, err := kmsg.ParseTicket(tickets[i])
		if err != nil {
			return nil, err
		}
		for _, n := range []struct{ said, is kmsg.Principal }{{info.Client, client}, {info.Service, t.Service}} {
			if n.said.Parts != nil && !n.said.SameName(n.is) || n.said.Realm != "" && n.said.Realm != n.is.Realm {
				return nil, fmt.Errorf("%w: it is %s's and not %s's", KRB_AP_ERR_BADMATCH, n.said, n.is)
			}
		}
		if n := len(info.Key.Value); n == 0 || n > etype.MaxKeySize {
			return nil, fmt.Errorf("%w: a key of %d bytes", kmsg.ErrMalformed, n)
		}
		if info.EndTime.IsZero() {
			return nil, fmt.Errorf("%w: no end time", kmsg.ErrMalformed)
		}
		c.Credentials = append(c.Credentials, ccache.Credential{
			Client: client, Server: t.Service, Key: info.Key, Flags: info.Flags,
			AuthTime: info.AuthTime, StartTime: info.StartTime, EndTime: info.EndTime, RenewTill: info.RenewTill,
			Ticket: bytes.Clone(tickets[i]),
		})
	}
	return c, nil
}

// A Forwarder is a Granter that also gets tickets to delegate. An initiator can
// delegate only if [Config.Granter] is a Forwarder. That of package kdc is one.
type Forwarder interface {
	Granter

	// Forward returns a forwarded ticket-granting ticket of the request's client. The
	// request has no Service. As with Grant, it must return soon after ctx is done,
	// and the mechanism wipes the Key.
	Forward(ctx context.Context, r Request) (*Ticket, error)
}

// delegate returns the KRB-CRED that an initiator sends, nil for none. There is
// none if the program did not ask for it, the KDC does not trust the service with
// it, or the client's ticket cannot be forwarded. The context comes about all the
// same (RFC 2743 section 1.2.7).
func (p *Provider) delegate(i *initiatorCred, t *serviceTicket, flags gssapi.ContextFlag) []byte {
	wanted := flags&gssapi.ContextFlagDeleg != 0 ||
		flags&gssapi.ContextFlagDelegPolicy != 0 && t.flags&kmsg.FlagOKAsDelegate != 0
	f, ok := p.config.Granter.(Forwarder)
	if !wanted || !ok {
		return nil
	}
	cred, err := p.forward(f, i, t)
	if err != nil || len(cred) > kmsg.MaxCred {
		return nil
	}
	return cred
}

// forward gets a forwarded ticket and encrypts its key for the service.
func (p *Provider) forward(f Forwarder, i *initiatorCred, t *serviceTicket) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), grantTimeout)
	defer cancel()
	r, err := p.request(i)
	if err != nil {
		return nil, err
	}
	defer r.wipe()
	got, err := f.Forward(ctx, r)
	if err != nil {
		return nil, err
	}
	defer memsafe.Wipe(got.Key)
	client, err := kmsg.ParsePrincipal(got.Client)
	if err != nil {
		return nil, err
	}
	ticket, err := kmsg.ParseTicket(got.Encoded)
	if err != nil {
		return nil, err
	}
	if !client.Equal(t.client) {
		return nil, fmt.Errorf("%w: the forwarded ticket is %s's", KRB_AP_ERR_BADMATCH, client)
	}
	part := kmsg.CredPart{Infos: []kmsg.CredInfo{{
		Key: kmsg.Key{EType: got.EType, Value: got.Key}, Client: client, Service: ticket.Service,
		Flags: got.Flags, AuthTime: got.StartTime, StartTime: got.StartTime, EndTime: got.EndTime,
	}}}
	plain, mem, err := p.arena.marshal(&part, 2*kmsg.MaxName+8*kmsg.MaxParts+2*smallMessage)
	if err != nil {
		return nil, err
	}
	defer mem.Wipe()
	cred := kmsg.Cred{Tickets: [][]byte{got.Encoded}, Enc: kmsg.Encrypted{EType: int32(t.etype)}}
	if cred.Enc.Cipher, err = etype.Encrypt(nil, t.etype, t.key.Bytes(), kmsg.UsageCredPart, plain); err != nil {
		return nil, err
	}
	return cred.Marshal()
}
