package krb5_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

const krbtgt = "krbtgt/EXAMPLE.TEST"

// forwarder is a granter that forwards tickets, and looks at what it is asked with.
type forwarder struct {
	granter
	forwarded []*krb5test.Minted
	client    string // of what it forwards
	refused   error
}

func (f *forwarder) Forward(_ context.Context, r krb5.Request) (*krb5.Ticket, error) {
	if f.refused != nil {
		return nil, f.refused
	}
	if r.TGT == nil || r.TGT.Service != krbtgt+"@EXAMPLE.TEST" {
		return nil, fmt.Errorf("asked with %v", r.TGT)
	}
	m, err := f.realm.Mint(krb5test.Ticket{Client: f.client, Service: krbtgt, Flags: kmsg.FlagForwardable | kmsg.FlagForwarded})
	if err != nil {
		return nil, err
	}
	f.forwarded = append(f.forwarded, m)
	return &krb5.Ticket{Client: m.Client, Service: m.Service, EType: m.Etype, Key: bytes.Clone(m.Key), Flags: m.Flags,
		StartTime: m.Start, EndTime: m.End, Encoded: m.Encoded}, nil
}

func (f *forwarder) Grant(ctx context.Context, r krb5.Request) (*krb5.Ticket, error) {
	return f.granter.Grant(ctx, r)
}

// delegation is a bench whose realm has a ticket-granting service.
func delegation(t testing.TB, config krb5.Config) (*bench, *forwarder) {
	t.Helper()
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", service, krbtgt, "ldap/www.example.test")
	require.NoError(t, err)
	f := &forwarder{granter: granter{realm: realm}, client: "alice"}
	config.Granter = f
	b := newBench(t, config)
	require.NoError(t, b.acceptor.Release())
	require.NoError(t, b.initiator.Release())
	b.realm = realm
	b.acceptor, err = realm.Acceptor(b.p)
	require.NoError(t, err)
	b.initiator, err = realm.Initiator(b.p, "alice", krb5test.Ticket{Service: service}, krb5test.Ticket{Service: krbtgt})
	require.NoError(t, err)
	return b, f
}

// TestDelegation: a client hands its ticket-granting ticket to a service, which
// initiates with it in the client's name, hands it on, stores it, and drops it.
func TestDelegation(t *testing.T) {
	for _, mutual := range []gssapi.ContextFlag{0, gssapi.ContextFlagMutual} {
		b, f := delegation(t, krb5.Config{AcceptDelegation: true})
		before := b.p.LockedBytes()
		init, acc := b.establish(t, mutual|gssapi.ContextFlagDeleg)
		converse(t, init, acc)
		for _, sc := range []gssapi.SecContext{init, acc} {
			info, err := sc.Inquire()
			require.NoError(t, err)
			require.NotZero(t, info.Flags&gssapi.ContextFlagDeleg)
			require.Equal(t, sc == acc, info.DelegatedCredential != nil)
		}
		info, err := acc.Inquire()
		require.NoError(t, err)
		cred := info.DelegatedCredential

		credInfo, err := cred.Inquire()
		require.NoError(t, err)
		require.Equal(t, "alice@EXAMPLE.TEST", credInfo.Name)
		require.Equal(t, gssapi.CredUsageInitiateOnly, credInfo.Usage)
		require.WithinDuration(t, f.forwarded[0].End, credInfo.InitiatorExpiry.ExpiresAt, time.Second)

		// The context goes, the credential stays.
		_, err = init.Delete()
		require.NoError(t, err)
		moved := move(t, acc)
		movedInfo, err := moved.Inquire()
		require.NoError(t, err)
		require.Zero(t, movedInfo.Flags&gssapi.ContextFlagDeleg)
		require.Nil(t, movedInfo.DelegatedCredential)

		// The service as a client, which delegates in turn.
		target, err := b.p.ImportName("ldap/www.example.test", gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
		require.NoError(t, err)
		onward, err := b.p.InitSecContext(target, gssapi.WithInitiatorCredential(cred),
			gssapi.WithInitiatorFlags(gssapi.ContextFlagMutual|gssapi.ContextFlagDeleg))
		require.NoError(t, err)
		backend, err := b.p.AcceptSecContext(gssapi.WithAcceptorCredential(b.acceptor))
		require.NoError(t, err)
		handshake(t, onward, backend)
		last, err := backend.Inquire()
		require.NoError(t, err)
		text, _, err := last.InitiatorName.Display()
		require.NoError(t, err)
		require.Equal(t, "alice@EXAMPLE.TEST", text)
		require.NotNil(t, last.DelegatedCredential)
		require.Equal(t, "ldap/www.example.test", f.asked[0].Service)
		require.Equal(t, "alice@EXAMPLE.TEST", f.asked[0].TGT.Client)
		for _, end := range []func() error{last.DelegatedCredential.Release, cred.Release, cred.Release} {
			require.NoError(t, end())
		}
		for _, sc := range []gssapi.SecContext{onward, backend} {
			_, err = sc.Delete()
			require.NoError(t, err)
		}
		require.Equal(t, before, b.p.LockedBytes(), "secrets left")
		_, err = cred.Inquire()
		require.ErrorIs(t, err, krb5.ErrReleased)
	}
}

// TestDelegationIsStored: StoreInto and StoreCredential write the forwarded ticket
// into a credential cache that initiates.
func TestDelegationIsStored(t *testing.T) {
	dir := t.TempDir()
	b, f := delegation(t, krb5.Config{AcceptDelegation: true, CCache: filepath.Join(dir, "default")})
	_, acc := b.establish(t, gssapi.ContextFlagDeleg)
	info, err := acc.Inquire()
	require.NoError(t, err)
	into := info.DelegatedCredential.(gssapi.CredentialExtCredStore)
	cc := filepath.Join(dir, "named")
	_, usage, err := into.StoreInto(gssapi.GSS_MECH_KRB5, gssapi.CredUsageInitiateOnly, false, false, gssapi.WithCredStoreCCache("FILE:"+cc))
	require.NoError(t, err)
	require.Equal(t, gssapi.CredUsageInitiateOnly, usage)
	store := info.DelegatedCredential.(gssapi.CredentialExtRFC5588)
	_, _, err = store.StoreCredential(gssapi.CredUsageInitiateOnly, gssapi.GSS_MECH_KRB5, false, false)
	require.NoError(t, err)
	_, _, err = store.StoreCredential(gssapi.CredUsageInitiateOnly, gssapi.GSS_MECH_KRB5, false, false)
	require.ErrorIs(t, err, gssapi.ErrDuplicateElement)
	for _, path := range []string{cc, filepath.Join(dir, "default")} {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		c, err := ccache.Parse(data)
		require.NoError(t, err)
		require.Equal(t, "alice@EXAMPLE.TEST", c.Client.String())
		require.Len(t, c.Credentials, 1)
		got := c.Credentials[0]
		require.Equal(t, krbtgt+"@EXAMPLE.TEST", got.Server.String())
		require.Equal(t, f.forwarded[0].Key, got.Key.Value)
		require.Equal(t, f.forwarded[0].Encoded, got.Ticket)
		require.Equal(t, f.forwarded[0].Flags, got.Flags)
	}
}

// TestNotDelegated: without a wish, without a ticket that may be forwarded, against
// the KDC's policy, and to a service that does not want it, a context comes about
// that says so.
func TestNotDelegated(t *testing.T) {
	trusted := kmsg.FlagInitial | kmsg.FlagOKAsDelegate
	for _, c := range []struct {
		name   string
		accept bool
		flags  gssapi.ContextFlag
		ticket uint32
		change func(*forwarder)
		sent   bool
	}{
		{name: "not asked for", accept: true},
		{name: "control", accept: true, flags: gssapi.ContextFlagDeleg, sent: true},
		{name: "not wanted", flags: gssapi.ContextFlagDeleg, sent: true},
		{name: "KDC refuses", accept: true, flags: gssapi.ContextFlagDeleg, change: func(f *forwarder) { f.refused = errors.New("not forwardable") }},
		{name: "of another client", accept: true, flags: gssapi.ContextFlagDeleg, change: func(f *forwarder) { f.client = "bob" }},
		{name: "policy, untrusted service", accept: true, flags: gssapi.ContextFlagDelegPolicy},
		{name: "policy, trusted service", accept: true, flags: gssapi.ContextFlagDelegPolicy, ticket: trusted, sent: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, f := delegation(t, krb5.Config{AcceptDelegation: c.accept})
			if c.change != nil {
				c.change(f)
			}
			var err error
			b.initiator, err = b.realm.Initiator(b.p, "alice", krb5test.Ticket{Service: service, Flags: c.ticket}, krb5test.Ticket{Service: krbtgt})
			require.NoError(t, err)
			init, acc := b.establish(t, allFlags|c.flags)
			converse(t, init, acc)
			info, err := init.Inquire()
			require.NoError(t, err)
			require.Equal(t, c.sent, info.Flags&gssapi.ContextFlagDeleg != 0)
			info, err = acc.Inquire()
			require.NoError(t, err)
			require.Equal(t, c.sent && c.accept, info.Flags&gssapi.ContextFlagDeleg != 0)
			require.Equal(t, c.sent && c.accept, info.DelegatedCredential != nil)
		})
	}
	t.Run("a Granter that forwards nothing", func(t *testing.T) {
		b, f := delegation(t, krb5.Config{AcceptDelegation: true})
		plain := newBench(t, krb5.Config{Granter: &f.granter})
		plain.realm = b.realm
		var err error
		plain.initiator, err = b.realm.Initiator(plain.p, "alice", krb5test.Ticket{Service: service})
		require.NoError(t, err)
		init, _ := plain.start(t, gssapi.ContextFlagDeleg)
		_, info, err := init.Continue(nil)
		require.NoError(t, err)
		require.Zero(t, info.Flags&gssapi.ContextFlagDeleg)
	})
}

// forged is a KRB-CRED made by hand.
type forged struct {
	cred    kmsg.Cred
	part    kmsg.CredPart
	etype   int32 // of the encryption, 0 for none
	key     []byte
	plain   func([]byte) []byte
	message func([]byte) []byte
}

func (b *bench) forgeCred(t *testing.T) *forged {
	t.Helper()
	m, err := b.realm.Mint(krb5test.Ticket{Client: "alice", Service: krbtgt, Flags: kmsg.FlagForwarded})
	require.NoError(t, err)
	tgs, err := kmsg.ParsePrincipal(m.Service)
	require.NoError(t, err)
	return &forged{
		cred: kmsg.Cred{Tickets: [][]byte{m.Encoded}},
		part: kmsg.CredPart{Infos: []kmsg.CredInfo{{Key: kmsg.Key{EType: m.Etype, Value: m.Key}, Client: alice, Service: tgs, EndTime: m.End}}},
	}
}

func (f *forged) bytes(t *testing.T) []byte {
	t.Helper()
	plain, err := f.part.MarshalTo(make([]byte, 1<<16))
	require.NoError(t, err)
	if f.plain != nil {
		plain = f.plain(bytes.Clone(plain))
	}
	f.cred.Enc = kmsg.Encrypted{EType: f.etype, Cipher: plain}
	if f.etype != 0 {
		f.cred.Enc.Cipher, err = etype.Encrypt(nil, etype.ID(f.etype), f.key, kmsg.UsageCredPart, plain)
		require.NoError(t, err)
	}
	msg, err := f.cred.Marshal()
	require.NoError(t, err)
	if f.message != nil {
		msg = f.message(msg)
	}
	return msg
}

// TestForgedDelegation: a KRB-CRED is taken under the ticket's session key, under
// the client's subkey, and as it is inside the authenticator; what is wrong with
// one refuses the context and leaves nothing, also where it is fine and the request
// is a replay.
func TestForgedDelegation(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(f *forgery, c *forged)
		major error // nil: taken
	}{
		{"not encrypted", func(*forgery, *forged) {}, nil},
		{"under the session key", func(f *forgery, c *forged) { c.etype, c.key = 18, f.part.Key.Value }, nil},
		{"under the subkey", func(f *forgery, c *forged) { c.etype, c.key = 18, f.auth.Subkey.Value }, nil},
		{"names left out", func(_ *forgery, c *forged) {
			c.part.Infos[0].Client, c.part.Infos[0].Service = kmsg.Principal{}, kmsg.Principal{}
		}, nil},
		{"two tickets", func(_ *forgery, c *forged) {
			c.cred.Tickets, c.part.Infos = append(c.cred.Tickets, c.cred.Tickets[0]), append(c.part.Infos, c.part.Infos[0])
		}, nil},
		{"an extension behind", func(f *forgery, c *forged) { c.message = func(b []byte) []byte { return b } }, nil},

		{"under another key", func(_ *forgery, c *forged) { c.etype, c.key = 18, randomKey(18) }, gssapi.ErrDefectiveToken},
		{"of another enctype", func(_ *forgery, c *forged) { c.etype, c.key = 17, randomKey(17) }, gssapi.ErrDefectiveToken},
		{"of an unknown enctype", func(f *forgery, c *forged) {
			c.message = func(b []byte) []byte { return bytes.Replace(b, []byte{0xa0, 3, 2, 1, 0}, []byte{0xa0, 3, 2, 1, 23}, 1) }
		}, gssapi.ErrDefectiveToken},
		{"another client's", func(_ *forgery, c *forged) {
			c.part.Infos[0].Client = kmsg.Principal{Type: 1, Realm: "EXAMPLE.TEST", Parts: []string{"root"}}
		}, gssapi.ErrDefectiveToken},
		{"another realm's client", func(_ *forgery, c *forged) { c.part.Infos[0].Client.Realm = "ADMIN.TEST" }, gssapi.ErrDefectiveToken},
		{"another service's", func(_ *forgery, c *forged) { c.part.Infos[0].Service.Parts = []string{"krbtgt", "ADMIN.TEST"} }, gssapi.ErrDefectiveToken},
		{"without a key", func(_ *forgery, c *forged) { c.part.Infos[0].Key.Value = []byte{} }, gssapi.ErrDefectiveToken},
		{"a key of 1,000 bytes", func(_ *forgery, c *forged) { c.part.Infos[0].Key.Value = make([]byte, 1000) }, gssapi.ErrDefectiveToken},
		{"without an end", func(_ *forgery, c *forged) { c.part.Infos[0].EndTime = time.Time{} }, gssapi.ErrDefectiveToken},
		{"no tickets", func(_ *forgery, c *forged) { c.cred.Tickets, c.part.Infos = nil, nil }, gssapi.ErrDefectiveToken},
		{"more tickets than keys", func(_ *forgery, c *forged) { c.cred.Tickets = append(c.cred.Tickets, c.cred.Tickets[0]) }, gssapi.ErrDefectiveToken},
		{"many tickets", func(_ *forgery, c *forged) {
			for range kmsg.MaxForwarded {
				c.cred.Tickets, c.part.Infos = append(c.cred.Tickets, c.cred.Tickets[0]), append(c.part.Infos, c.part.Infos[0])
			}
		}, gssapi.ErrDefectiveToken},
		{"no KRB-CRED", func(_ *forgery, c *forged) { c.message = func([]byte) []byte { return []byte("cred") } }, gssapi.ErrDefectiveToken},
		{"empty", func(_ *forgery, c *forged) { c.message = func([]byte) []byte { return nil } }, gssapi.ErrDefectiveToken},
		{"cut", func(_ *forgery, c *forged) { c.message = func(b []byte) []byte { return b[:len(b)-1] } }, gssapi.ErrDefectiveToken},
		{"content cut", func(_ *forgery, c *forged) { c.plain = func(b []byte) []byte { return b[:len(b)-1] } }, gssapi.ErrDefectiveToken},
		{"content goes on", func(_ *forgery, c *forged) { c.plain = func(b []byte) []byte { return append(b, 0) } }, gssapi.ErrDefectiveToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := delegation(t, krb5.Config{AcceptDelegation: true})
			before := b.p.LockedBytes()
			f, cred := b.forge(t, 18), b.forgeCred(t)
			c.fault(f, cred)
			sum := kmsg.GSSChecksum{Flags: uint32(allFlags | gssapi.ContextFlagDeleg), Cred: cred.bytes(t)}
			if sum.Cred == nil {
				sum.Cred = []byte{}
			}
			f.auth.Checksum = append(sum.Marshal(), "extension"...)
			tok := f.bytes(t)
			acc, _, err := b.show(t, tok)
			if c.major != nil {
				require.ErrorIs(t, err, c.major)
				require.Equal(t, before, b.p.LockedBytes(), "secrets left")
				return
			}
			require.NoError(t, err)
			info, err := acc.Inquire()
			require.NoError(t, err)
			require.NotNil(t, info.DelegatedCredential)
			held := b.p.LockedBytes()
			_, _, err = b.show(t, tok)
			require.ErrorIs(t, err, krb5.KRB_AP_ERR_REPEAT)
			require.Equal(t, held, b.p.LockedBytes(), "of the replay")
			require.NoError(t, info.DelegatedCredential.Release())
			_, err = acc.Delete()
			require.NoError(t, err)
			require.Equal(t, before, b.p.LockedBytes())
		})
	}
}

// TestRequestPrintsNoKeys: a request holds a ticket with its key.
func TestRequestPrintsNoKeys(t *testing.T) {
	r := krb5.Request{Service: "http/www", TGT: &krb5.Ticket{Client: "alice", Key: []byte("AAAABBBBCCCC")}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		text := fmt.Sprintf(verb, r) + fmt.Sprintf(verb, &r)
		for _, secret := range []string{"AAAA", "41414141", "65 65"} {
			require.NotContains(t, text, secret, verb)
		}
	}
}
