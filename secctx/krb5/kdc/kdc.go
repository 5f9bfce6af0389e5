// Package kdc asks a KDC for tickets, for initiators of package krb5 whose
// credential cache does not hold what they need:
//
//	granter, err := kdc.New("")                       // $KRB5_CONFIG or /etc/krb5.conf
//	p, err := krb5.New(&krb5.Config{Granter: granter})
//
// It is the client of github.com/jcmturner/gokrb5 and nothing else of it: the
// mechanism does not import this package, and no byte of a peer reaches
// gokrb5. Bytes of the KDC do; where they make gokrb5 panic, Grant returns
// ErrExchange.
//
// # Limits
//
// gokrb5 keeps keys in ordinary memory and does not wipe them: the
// ticket-granting ticket's session key, a client keytab's keys, and a copy of
// each service ticket's session key stay where they were until the collector
// and later allocations overwrite them. Programs to which that matters fill
// their credential cache with kinit and kvno and set no Granter.
package kdc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-krb5/krb5/client"
	"github.com/go-krb5/krb5/config"
	"github.com/go-krb5/krb5/messages"
	"github.com/go-krb5/krb5/types"

	"github.com/sealctx/sealctx/internal/secureenv"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

var (
	// ErrNoTGT means that neither cache nor keytab can speak to a KDC: no
	// ticket-granting ticket that is alive, and no key.
	ErrNoTGT = errors.New("kdc: no ticket-granting ticket and no client keytab")
	// ErrExchange means that the exchange with the KDC failed. The error that
	// wraps it says how.
	ErrExchange = errors.New("kdc: exchange failed")
	// ErrWrongTicket means that the KDC sent a ticket for another service, for
	// another client, or without a time to live.
	ErrWrongTicket = errors.New("kdc: the KDC's ticket is not the one asked for")
)

// enctypes are asked for in this order.
var enctypes = [...]int32{18, 17, 20, 19}

// A Client is a krb5.Granter. Safe for concurrent use.
type Client struct{ config *config.Config }

var _ krb5.Granter = (*Client)(nil)

// New reads a krb5.conf. Empty: $KRB5_CONFIG, which counts for nothing in a setuid
// program, else /etc/krb5.conf. Its encryption types do not count: the four of
// package krb5 are asked for.
func New(path string) (*Client, error) {
	if path == "" {
		path = secureenv.Get("KRB5_CONFIG")
	}
	if path == "" {
		path = "/etc/krb5.conf"
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("kdc: %w", err)
	}
	c, err := config.NewFromString(string(text))
	if unsupported := new(config.UnsupportedDirective); err != nil && !errors.As(err, unsupported) {
		return nil, fmt.Errorf("kdc: %s: %w", path, err)
	}
	d := &c.LibDefaults
	d.DefaultTGSEnctypeIDs = append([]int32(nil), enctypes[:]...)
	d.DefaultTktEnctypeIDs = append([]int32(nil), enctypes[:]...)
	d.PermittedEnctypeIDs = append([]int32(nil), enctypes[:]...)
	return &Client{config: c}, nil
}

// Grant gets a ticket with the cache's ticket-granting ticket, or, where there
// is none, with one that the client keytab's key gets. A service without realm
// is looked for from the client's realm on, along the KDC's referrals. It waits
// for the network for as long as gokrb5 does, some seconds for each KDC; ctx is
// looked at before and between the exchanges. Errors: ErrNoTGT, ErrExchange,
// ErrWrongTicket.
func (c *Client) Grant(ctx context.Context, r krb5.Request) (t *krb5.Ticket, err error) {
	defer func() {
		// gokrb5 panics on ciphertexts that are too short and on more that
		// anybody on the way can send.
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("%w: malformed answer (%v)", ErrExchange, p)
		}
	}()
	service, err := kmsg.ParsePrincipal(r.Service)
	if err != nil {
		return nil, err
	}
	tgt, err := c.cached(r)
	if errors.Is(err, ErrNoTGT) && r.ClientKeytab != "" {
		tgt, err = c.login(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	defer tgt.gokrb5.Destroy() // a referral leaves a goroutine that would renew tickets
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	realm := tgt.client.Realm
	if service.Realm != "" {
		realm = service.Realm
	}
	if realm != tgt.client.Realm {
		return nil, fmt.Errorf("%w: %s is of another realm: name it without one, and the KDC refers", ErrExchange, service)
	}
	name := types.PrincipalName{NameType: service.Type, NameString: service.Parts}
	_, rep, err := tgt.gokrb5.TGSREQGenerateAndExchange(name, realm, tgt.ticket, tgt.key, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExchange, err)
	}
	return ticket(tgt, service, &rep)
}

// ticket checks what gokrb5 does not: that the ticket is the client's and for
// the service that was asked for.
func ticket(t *tgt, service kmsg.Principal, rep *messages.TGSRep) (*krb5.Ticket, error) {
	who, part := t.client, &rep.DecryptedEncPart
	got := kmsg.Principal{Type: part.SName.NameType, Realm: part.SRealm, Parts: part.SName.NameString}
	if !got.SameName(service) || !got.SameName(kmsg.Principal{Parts: rep.Ticket.SName.NameString}) ||
		got.Realm != rep.Ticket.Realm || service.Realm != "" && got.Realm != service.Realm {
		return nil, fmt.Errorf("%w: %s for %s", ErrWrongTicket, got, service)
	}
	if client := (kmsg.Principal{Realm: rep.CRealm, Parts: rep.CName.NameString}); !client.Equal(who) {
		return nil, fmt.Errorf("%w: of client %s for %s", ErrWrongTicket, client, who)
	}
	if !part.EndTime.After(time.Now().Add(t.offset)) {
		return nil, fmt.Errorf("%w: expired", ErrWrongTicket)
	}
	encoded, err := rep.Ticket.Marshal()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExchange, err)
	}
	return &krb5.Ticket{
		Client: who.String(), Service: got.String(),
		EType: part.Key.KeyType, Key: part.Key.KeyValue,
		Flags: flags(part.Flags.Bytes), StartTime: part.StartTime, EndTime: part.EndTime,
		Encoded: encoded,
	}, nil
}

func flags(b []byte) uint32 {
	var four [4]byte
	copy(four[:], b)
	return binary.BigEndian.Uint32(four[:])
}

// A tgt is what it takes to ask a ticket-granting service.
type tgt struct {
	gokrb5 *client.Client
	client kmsg.Principal
	ticket messages.Ticket
	key    types.EncryptionKey
	offset time.Duration // how far the KDC's clock is ahead, if the cache knows
}

// cached takes the ticket-granting ticket from the cache.
func (c *Client) cached(r krb5.Request) (*tgt, error) {
	cache, cr, err := readCCache(r)
	if err != nil {
		return nil, err
	}
	defer wipeCache(cache)
	t := &tgt{
		client: cache.Client,
		gokrb5: client.NewWithPassword(cache.Client.Parts[0], cache.Client.Realm, "", c.config, client.DisablePAFXFAST(true)),
		key:    types.EncryptionKey{KeyType: cr.Key.EType, KeyValue: append([]byte(nil), cr.Key.Value...)},
		offset: cache.Offset,
	}
	t.gokrb5.Credentials.SetCName(types.PrincipalName{NameType: cache.Client.Type, NameString: cache.Client.Parts})
	if err := t.ticket.Unmarshal(cr.Ticket); err != nil {
		return nil, fmt.Errorf("kdc: the cache's ticket-granting ticket: %w", err)
	}
	return t, nil
}

// login gets a ticket-granting ticket with a key of the client keytab.
func (c *Client) login(ctx context.Context, r krb5.Request) (*tgt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	who, keys, err := readKeytab(r)
	if err != nil {
		return nil, err
	}
	cl := client.NewWithKeytab(who.Parts[0], who.Realm, keys, c.config, client.DisablePAFXFAST(true))
	name := types.PrincipalName{NameType: who.Type, NameString: who.Parts}
	cl.Credentials.SetCName(name)
	req, err := messages.NewASReqForTGT(who.Realm, c.config, name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExchange, err)
	}
	rep, err := cl.ASExchange(who.Realm, req, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExchange, err)
	}
	return &tgt{gokrb5: cl, client: who, ticket: rep.Ticket, key: rep.DecryptedEncPart.Key}, nil
}
