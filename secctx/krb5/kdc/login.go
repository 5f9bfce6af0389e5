package kdc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-krb5/krb5/client"
	"github.com/go-krb5/krb5/config"
	"github.com/go-krb5/krb5/keytab"
	"github.com/go-krb5/krb5/messages"
	"github.com/go-krb5/krb5/types"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// A login is a client, and what it proves itself to the KDC with: a
// ticket-granting ticket, or keys to get one with.
type login struct {
	client kmsg.Principal
	ticket []byte // of the cache; nil: with keys
	key    types.EncryptionKey
	offset time.Duration // how far the KDC's clock is ahead; zero: not known
	keys   *keytab.Keytab
}

// newLogin takes the ticket-granting ticket from the request or the cache, or the
// keys from the client keytab.
func newLogin(r krb5.Request) (*login, error) {
	if r.TGT != nil {
		return brought(r)
	}
	l, err := cached(r)
	if errors.Is(err, ErrNoTGT) && r.ClientKeytab != "" {
		who, keys, err := readKeytab(r)
		if err != nil {
			return nil, err
		}
		return &login{client: who, keys: keys}, nil
	}
	return l, err
}

// brought takes the request's ticket-granting ticket.
func brought(r krb5.Request) (*login, error) {
	who, err := kmsg.ParsePrincipal(r.TGT.Client)
	if err != nil {
		return nil, fmt.Errorf("kdc: the ticket-granting ticket's client: %w", err)
	}
	return &login{
		client: who,
		ticket: r.TGT.Encoded,
		key:    types.EncryptionKey{KeyType: r.TGT.EType, KeyValue: append([]byte(nil), r.TGT.Key...)},
		offset: r.Offset,
	}, nil
}

func cached(r krb5.Request) (*login, error) {
	cache, tgt, err := readCCache(r)
	if err != nil {
		return nil, err
	}
	defer wipeCache(cache)
	return &login{
		client: cache.Client,
		ticket: tgt.Ticket,
		key:    types.EncryptionKey{KeyType: tgt.Key.EType, KeyValue: append([]byte(nil), tgt.Key.Value...)},
		offset: cache.Offset,
	}, nil
}

// A tgt is what it takes to ask a ticket-granting service.
type tgt struct {
	library *client.Client
	ticket  messages.Ticket
	key     types.EncryptionKey
}

// tgt returns the ticket-granting ticket. If there are keys only, it asks the KDC.
func (l *login) tgt(ctx context.Context, conf *config.Config) (*tgt, error) {
	name := types.PrincipalName{NameType: l.client.Type, NameString: l.client.Parts}
	options := []func(*client.Settings){client.DisablePAFXFAST(true), client.UseDialer(dialer{ctx})}
	if l.ticket != nil {
		t := &tgt{library: client.NewWithPassword(l.client.Parts[0], l.client.Realm, "", conf, options...), key: l.key}
		t.library.Credentials.SetCName(name)
		if err := t.ticket.Unmarshal(l.ticket); err != nil {
			return nil, fmt.Errorf("kdc: the cache's ticket-granting ticket: %w", err)
		}
		return t, nil
	}
	t := &tgt{library: client.NewWithKeytab(l.client.Parts[0], l.client.Realm, l.keys, conf, options...)}
	t.library.Credentials.SetCName(name)
	req, err := messages.NewASReqForTGT(l.client.Realm, conf, name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExchange, err)
	}
	rep, err := t.library.ASExchange(l.client.Realm, req, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrExchange, err)
	}
	t.ticket, t.key = rep.Ticket, rep.DecryptedEncPart.Key
	return t, nil
}
