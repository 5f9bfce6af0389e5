package krb5test

import (
	"bytes"
	"fmt"
	"time"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// A Ticket says what ticket to mint. The zero value of each field is the usual.
type Ticket struct {
	Service  string        // principal; empty: the realm's first service
	Client   string        // principal; empty: "user". Another realm's is a cross-realm ticket
	Etype    int32         // of the ticket, one that the service has a key of. 0: the first
	KeyEtype int32         // of the session key. 0: the ticket's
	Start    time.Time     // zero: now, less a minute
	Lifetime time.Duration // from now on, negative for an expired ticket. 0: ten hours
	Flags    uint32        // as RFC 4120 numbers the bits, bit 0 the highest. 0: initial, pre-authenticated
	// Transited is the tr-type 1 encoding of the realms passed through.
	Transited []byte
	// AuthorizationData is the DER of an AuthorizationData, a PAC's for instance.
	AuthorizationData []byte
}

// A Minted is a ticket with its session key.
type Minted struct {
	Client, Service string
	Etype           int32  // of the session key
	Key             []byte // the session key
	Flags           uint32
	Start, End      time.Time
	Encoded         []byte // the DER of the Ticket
}

// Mint makes a ticket with a random session key. ErrUnknownService for a
// service, or an encryption type, that the realm has no key of.
func (r *Realm) Mint(t Ticket) (*Minted, error) {
	now := time.Now().Truncate(time.Second)
	if t.Start.IsZero() {
		t.Start = now.Add(-time.Minute)
	}
	if t.Lifetime == 0 {
		t.Lifetime = 10 * time.Hour
	}
	if t.Flags == 0 {
		t.Flags = kmsg.FlagInitial | kmsg.FlagPreAuthent
	}
	if t.Client == "" {
		t.Client = "user"
	}
	client, err := r.principal(t.Client)
	if err != nil {
		return nil, err
	}
	service, err := r.serviceKey(t)
	if err != nil {
		return nil, err
	}
	if t.KeyEtype == 0 {
		t.KeyEtype = service.Key.EType
	}
	session := make([]byte, etype.ID(t.KeyEtype).KeySize())
	if err := etype.RandomKey(session, etype.ID(t.KeyEtype)); err != nil {
		return nil, fmt.Errorf("krb5test: %w", err)
	}
	end := now.Add(t.Lifetime)
	encoded, err := seal(service, &kmsg.TicketPart{
		Flags:     t.Flags,
		Key:       kmsg.Key{EType: t.KeyEtype, Value: session},
		Client:    client,
		Transited: t.Transited,
		AuthTime:  t.Start,
		StartTime: t.Start,
		EndTime:   end,
		AuthData:  t.AuthorizationData,
	})
	if err != nil {
		return nil, err
	}
	return &Minted{
		Client: client.String(), Service: service.Principal.String(), Etype: t.KeyEtype, Key: session,
		Flags: t.Flags, Start: t.Start, End: end, Encoded: encoded,
	}, nil
}

// seal encrypts the ticket's content under the service's key.
func seal(service *keytab.Entry, part *kmsg.TicketPart) ([]byte, error) {
	plain, err := part.MarshalTo(make([]byte, 2*kmsg.MaxName+512+len(part.Transited)+len(part.AuthData)))
	if err != nil {
		return nil, fmt.Errorf("krb5test: %w", err)
	}
	k := service.Key
	cipher, err := etype.Encrypt(nil, etype.ID(k.EType), k.Value, kmsg.UsageTicket, plain)
	if err != nil {
		return nil, fmt.Errorf("krb5test: %w", err)
	}
	t := kmsg.Ticket{
		Service: service.Principal,
		Enc:     kmsg.Encrypted{EType: k.EType, KVNO: service.KVNO, HasKVNO: true, Cipher: cipher},
	}
	return t.Marshal()
}

func (r *Realm) serviceKey(t Ticket) (*keytab.Entry, error) {
	want := r.services[0]
	if t.Service != "" {
		var err error
		if want, err = r.principal(t.Service); err != nil {
			return nil, err
		}
	}
	var best *keytab.Entry
	for i := range r.entries {
		e := &r.entries[i]
		if e.Principal.Equal(want) && (t.Etype == 0 || t.Etype == e.Key.EType) && (best == nil || e.KVNO > best.KVNO) {
			best = e
		}
	}
	if best == nil {
		return nil, fmt.Errorf("%w: %s, enctype %d", ErrUnknownService, want, t.Etype)
	}
	return best, nil
}

func (m *Minted) credential() ccache.Credential {
	client, _ := kmsg.ParsePrincipal(m.Client) // both are our own text form
	service, _ := kmsg.ParsePrincipal(m.Service)
	return ccache.Credential{
		Client: client, Server: service,
		Key:       kmsg.Key{EType: m.Etype, Value: bytes.Clone(m.Key)},
		AuthTime:  m.Start,
		StartTime: m.Start,
		EndTime:   m.End,
		Flags:     m.Flags,
		Ticket:    m.Encoded,
	}
}
