// Package krb5test plays the KDC, for tests and demonstrations. It makes the keys of a
// realm's services and mints tickets with them. Kerberos contexts can then be
// established without a KDC.
//
//	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "http/www.example.test")
//	acceptor, err := realm.Acceptor(p)         // with the realm's keytab
//	initiator, err := realm.Initiator(p, "alice")
//
// or, for programs of any maker, with files:
//
//	err = realm.WriteKeytab("/tmp/demo/keytab")
//	err = realm.WriteCCache("/tmp/demo/ccache", "alice")
//
// # Not for production
//
// It authenticates no client: a program with a Realm has tickets in any name. Its
// keys lie in ordinary memory and are never wiped.
package krb5test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// ErrUnknownService is a service that the realm was not made with.
var ErrUnknownService = errors.New("krb5test: no such service in the realm")

// A Realm is a realm's services and their keys, one of each encryption type.
// Once made it never changes and is safe for concurrent use.
type Realm struct {
	name     string
	services []kmsg.Principal
	entries  []keytab.Entry
}

// Enctypes are the encryption types that a realm makes keys of, the preferred one
// first: aes256-cts-hmac-sha1-96, aes128-cts-hmac-sha1-96,
// aes256-cts-hmac-sha384-192, aes128-cts-hmac-sha256-128. Under
// GODEBUG=fips140=only the first two are missing.
func Enctypes() []int32 {
	return slices.DeleteFunc([]int32{18, 17, 20, 19}, func(id int32) bool { return !etype.ID(id).Valid() })
}

const kvno = 2

// NewRealm makes a realm with services and random keys. Services are principals in
// text form without a realm.
func NewRealm(name string, services ...string) (*Realm, error) {
	if name == "" || len(services) == 0 {
		return nil, errors.New("krb5test: a realm needs a name and a service")
	}
	r := &Realm{name: name}
	now := time.Now()
	for _, s := range services {
		p, err := r.principal(s)
		if err != nil {
			return nil, err
		}
		r.services = append(r.services, p)
		for _, id := range Enctypes() {
			key := make([]byte, etype.ID(id).KeySize())
			if err := etype.RandomKey(key, etype.ID(id)); err != nil {
				return nil, fmt.Errorf("krb5test: %w", err)
			}
			r.entries = append(r.entries, keytab.Entry{
				Principal: p, Time: now, KVNO: kvno, Key: kmsg.Key{EType: id, Value: key},
			})
		}
	}
	return r, nil
}

// OpenRealm makes a realm of an existing keytab. It can mint for another process's
// realm, or for a keytab that a KDC made.
func OpenRealm(data []byte) (*Realm, error) {
	entries, err := keytab.Parse(bytes.Clone(data))
	if err != nil {
		return nil, err
	}
	r := new(Realm)
	for _, e := range entries {
		if etype.ID(e.Key.EType).KeySize() == 0 {
			continue
		}
		if r.name == "" {
			r.name = e.Principal.Realm
		}
		if !slices.ContainsFunc(r.services, e.Principal.Equal) {
			r.services = append(r.services, e.Principal)
		}
		r.entries = append(r.entries, e)
	}
	if len(r.entries) == 0 {
		return nil, errors.New("krb5test: no AES key in the keytab")
	}
	return r, nil
}

// principal reads a name, which gets the realm's if it has no realm of its own.
func (r *Realm) principal(text string) (kmsg.Principal, error) {
	p, err := kmsg.ParsePrincipal(text)
	if err == nil && p.Realm == "" {
		p.Realm = r.name
	}
	return p, err
}

// Name returns the realm's name.
func (r *Realm) Name() string { return r.name }

// Keytab returns the content of the keytab with all services' keys.
func (r *Realm) Keytab() ([]byte, error) {
	return keytab.MarshalTo(make([]byte, 64+len(r.entries)*(kmsg.MaxName+128)), r.entries)
}

// WriteKeytab writes the keytab into a file of mode 0600.
func (r *Realm) WriteKeytab(path string) error {
	b, err := r.Keytab()
	if err != nil {
		return err
	}
	return writeFile(path, b)
}

// CCache returns the content of a credential cache with the client's tickets, by
// default one for each service. The tickets' Client does not count.
func (r *Realm) CCache(client string, tickets ...Ticket) ([]byte, error) {
	p, err := r.principal(client)
	if err != nil {
		return nil, err
	}
	if len(tickets) == 0 {
		for _, s := range r.services {
			tickets = append(tickets, Ticket{Service: s.String()})
		}
	}
	c := &ccache.Cache{Client: p}
	for _, t := range tickets {
		t.Client = p.String()
		m, err := r.Mint(t)
		if err != nil {
			return nil, err
		}
		c.Credentials = append(c.Credentials, m.credential())
	}
	return c.MarshalTo(make([]byte, c.Size()))
}

// WriteCCache writes what CCache returns into a file of mode 0600.
func (r *Realm) WriteCCache(path, client string, tickets ...Ticket) error {
	b, err := r.CCache(client, tickets...)
	if err != nil {
		return err
	}
	return writeFile(path, b)
}

// writeFile puts b at path in one step.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".krb5test-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Acceptor returns a credential with all services' keys. Release it.
func (r *Realm) Acceptor(p *krb5.Provider) (gssapi.Credential, error) {
	b, err := r.Keytab()
	if err != nil {
		return nil, err
	}
	return p.KeytabCredential(nil, b)
}

// Initiator returns a credential with the client's tickets, by default one for
// each service. Release it.
func (r *Realm) Initiator(p *krb5.Provider, client string, tickets ...Ticket) (gssapi.Credential, error) {
	b, err := r.CCache(client, tickets...)
	if err != nil {
		return nil, err
	}
	return p.CCacheCredential(b)
}
