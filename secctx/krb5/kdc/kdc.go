// Package kdc gets tickets from a KDC, for initiators of package krb5 whose
// credential cache does not hold what they need. Programs import it beside krb5:
//
//	granter, err := kdc.New("")                       // $KRB5_CONFIG or /etc/krb5.conf
//	p, err := krb5.New(&krb5.Config{Granter: granter})
//
// The exchanges are those of github.com/go-krb5/krb5, the fork of gokrb5 that is
// kept. Nothing else of it is used: the mechanism does not import this package,
// no byte of a peer reaches the library, and it reads none of the files. Bytes of
// the KDC do reach it; where they make it panic, Grant returns ErrExchange.
//
// # krb5.conf
//
// The file is read as MIT's library reads it: sections, nested blocks, quotes,
// stars, include and includedir, several files in KRB5_CONFIG. It and what it
// includes count only if root or the effective user owns them and nobody else
// can write them. Of its settings these count:
//
//   - [realms]: kdc, as host, host:port or [address]:port. KDCs are asked in the
//     order of the file.
//   - [libdefaults], where a block named after the client's realm goes first:
//     dns_lookup_kdc (on), clockskew, ticket_lifetime, renew_lifetime,
//     forwardable, proxiable, canonicalize, noaddresses, udp_preference_limit,
//     permitted_enctypes, default_tgs_enctypes, default_tkt_enctypes.
//
// Other settings are passed over. A line that is not in the grammar, and a value
// that cannot be used, are errors with their line. A kdc that cannot be used, such
// as one behind an HTTPS proxy, is an error if its realm has no other when a
// ticket is wanted.
//
// # Limits
//
// The library keeps keys in ordinary memory and does not wipe them: the
// ticket-granting ticket's session key, a client keytab's keys, and a copy of
// each service ticket's session key stay where they were until the collector
// and later allocations overwrite them. Programs to which that matters fill
// their credential cache with kinit and kvno and set no Granter.
//
// The library takes what a KDC says its answer's length is, up to 4 GiB, before
// the answer is authenticated. And it reads this host's clock: where that is
// further from the KDC's than clockskew, requests are refused, whatever offset
// the cache has.
package kdc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/go-krb5/krb5/config"
	"github.com/go-krb5/krb5/krberror"
	"github.com/go-krb5/krb5/messages"
	"github.com/go-krb5/krb5/types"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

var (
	// ErrNoTGT means that neither cache nor keytab can speak to a KDC: no
	// ticket-granting ticket is alive, and there is no key for the client.
	ErrNoTGT = errors.New("kdc: no ticket-granting ticket and no client keytab")
	// ErrExchange means that the exchange with the KDC failed. The error that
	// wraps it says how.
	ErrExchange = errors.New("kdc: exchange failed")
	// ErrWrongTicket means that the KDC sent a ticket for another service, for
	// another client, or without a time to live.
	ErrWrongTicket = errors.New("kdc: the KDC's ticket is not the one asked for")
)

// enctypes are asked for in this order where krb5.conf says nothing.
var enctypes = [...]int32{18, 17, 20, 19}

// A Client is a krb5.Granter, and a krb5.Forwarder. Safe for concurrent use.
type Client struct{ settings *settings }

var _ krb5.Forwarder = (*Client)(nil)

// New reads krb5.conf at path. If path is empty it reads the files that
// $KRB5_CONFIG names, with colons between them, or else /etc/krb5.conf. Files
// that do not exist are passed over, but for the last one. KRB5_CONFIG counts
// for nothing in a setuid program.
//
// owners are users whose configuration files count, beside root and the
// effective user: that of SSSD, say, where krb5.conf includes SSSD's directory
// and SSSD does not run as root.
//
// The error names file and line. It wraps ErrConfig, krb5.ErrUntrusted,
// fs.ErrNotExist, or what made a file unreadable.
func New(path string, owners ...int) (*Client, error) {
	s, err := readSettings(configFiles(path), owners)
	if err != nil {
		return nil, fmt.Errorf("kdc: %w", err)
	}
	return &Client{s}, nil
}

// Grant gets a ticket with the request's or the cache's ticket-granting ticket,
// or, if none is alive, with one that it gets with the client keytab. A service without realm
// is looked for from the client's realm on, along the KDC's referrals. Each KDC
// has about ten seconds to answer. Grant returns soon after ctx is done, unless
// it waits for a name service. Errors: ErrNoTGT, ErrExchange, ErrWrongTicket,
// ErrConfig, krb5.ErrUntrusted, and those of context.
func (c *Client) Grant(ctx context.Context, r krb5.Request) (t *krb5.Ticket, err error) {
	service, err := kmsg.ParsePrincipal(r.Service)
	if err != nil {
		return nil, err
	}
	l, err := newLogin(r)
	if err != nil {
		return nil, err
	}
	if service.Realm != "" && service.Realm != l.client.Realm {
		return nil, fmt.Errorf("%w: %s is of another realm than %s: name it without one, and the KDC refers", ErrExchange, service, l.client)
	}
	return c.exchange(ctx, l, service, plainRequest)
}

// Forward gets a forwarded ticket-granting ticket of the client's own realm, which
// may be forwarded on, and is restricted to no address. The KDC refuses where the
// client's ticket may not be forwarded (kinit -f). Errors as of Grant.
func (c *Client) Forward(ctx context.Context, r krb5.Request) (t *krb5.Ticket, err error) {
	l, err := newLogin(r)
	if err != nil {
		return nil, err
	}
	tgs := kmsg.Principal{Type: kmsg.NTSrvInst, Realm: l.client.Realm, Parts: []string{"krbtgt", l.client.Realm}}
	if t, err = c.exchange(ctx, l, tgs, forwardRequest); err != nil {
		return nil, err
	}
	if t.Flags&kmsg.FlagForwarded == 0 {
		return nil, fmt.Errorf("%w: it is not a forwarded one", ErrWrongTicket)
	}
	return t, nil
}

// exchange asks the KDCs, one after the other.
func (c *Client) exchange(ctx context.Context, l *login, service kmsg.Principal, make requestMaker) (t *krb5.Ticket, err error) {
	conf, err := c.settings.forRealm(l.client.Realm)
	if err != nil {
		return nil, err
	}
	if err := c.settings.usable(l.client.Realm, conf); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExchange, err)
	}
	for n := range attempts(conf) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t, err = l.grant(ctx, one(conf, n), service, make)
		if !unreachable(err) {
			break
		}
	}
	if done := ctx.Err(); err != nil && done != nil {
		return nil, errors.Join(err, done)
	}
	return t, err
}

// attempts is how many KDCs the realm with the most of them has. Where there are
// none the library asks the name service, once.
func attempts(c *config.Config) int {
	most := 1
	for _, r := range c.Realms {
		most = max(most, len(r.KDC))
	}
	return most
}

// one returns a configuration with one KDC of each realm, the nth, or the last
// where a realm has fewer. Of several the library would take any.
func one(c *config.Config, n int) *config.Config {
	d := *c
	d.Realms = nil
	for _, r := range c.Realms {
		if len(r.KDC) > 0 {
			at := min(n, len(r.KDC)-1)
			r.KDC = []string{r.KDC[at]}
		}
		d.Realms = append(d.Realms, r)
	}
	return &d
}

// unreachable reports whether another KDC may cure an error.
func unreachable(err error) bool {
	var e krberror.Krberror
	return errors.As(err, &e) && e.RootCause == krberror.NetworkingError
}

// A dialer connects to KDCs until ctx is done, and then ends its connections.
type dialer struct{ ctx context.Context }

// dialTimeout is how long a KDC may take to accept a connection, as it is in the
// library.
const dialTimeout = 5 * time.Second

func (d dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(d.ctx, network, address)
	if err == nil {
		context.AfterFunc(d.ctx, func() { _ = conn.Close() }) // closed already, mostly
	}
	return conn, err
}

// grant is one attempt.
func (l *login) grant(ctx context.Context, conf *config.Config, service kmsg.Principal, make requestMaker) (t *krb5.Ticket, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		// The library panics on ciphertexts that are too short, and on other
		// answers that can be forged on the network.
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("%w: malformed answer (%v)", ErrExchange, p)
		}
	}()
	tgt, err := l.tgt(ctx, conf)
	if err != nil {
		return nil, err
	}
	defer tgt.library.Destroy() // a referral leaves a goroutine that would renew tickets
	name := types.PrincipalName{NameType: service.Type, NameString: service.Parts}
	req, err := make(l.client.Realm, conf, tgt, name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExchange, err)
	}
	_, rep, err := tgt.library.TGSExchange(req, l.client.Realm, tgt.ticket, tgt.key, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExchange, err)
	}
	return l.check(service, &rep)
}

// check makes sure of what the library does not: that the ticket is the client's and
// for the service that was asked for.
func (l *login) check(service kmsg.Principal, rep *messages.TGSRep) (*krb5.Ticket, error) {
	who, part := l.client, &rep.DecryptedEncPart
	got := kmsg.Principal{Type: part.SName.NameType, Realm: part.SRealm, Parts: part.SName.NameString}
	if !got.SameName(service) || !got.SameName(kmsg.Principal{Parts: rep.Ticket.SName.NameString}) ||
		got.Realm != rep.Ticket.Realm || service.Realm != "" && got.Realm != service.Realm {
		return nil, fmt.Errorf("%w: %s for %s", ErrWrongTicket, got, service)
	}
	if client := (kmsg.Principal{Realm: rep.CRealm, Parts: rep.CName.NameString}); !client.Equal(who) {
		return nil, fmt.Errorf("%w: of client %s for %s", ErrWrongTicket, client, who)
	}
	if !part.EndTime.After(time.Now().Add(l.offset)) {
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
