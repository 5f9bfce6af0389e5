package kdc_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-krb5/krb5/messages"
	"github.com/go-krb5/krb5/types"
	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/kdc"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

const (
	realmName = "EXAMPLE.TEST"
	tgsName   = "krbtgt/" + realmName
	service   = "http/www.example.test"
)

// fakeKDC answers on a loopback port with what krb5test mints.
type fakeKDC struct {
	t      *testing.T
	realm  *krb5test.Realm
	client *krb5test.Realm // keys of clients
	change func(ticket *messages.Ticket, part *messages.EncKDCRepPart)
	raw    []byte // sent instead of an answer

	address string

	mu   sync.Mutex
	seen []string
}

func startKDC(t *testing.T) (*fakeKDC, *kdc.Client) {
	t.Helper()
	k := &fakeKDC{t: t}
	var err error
	k.realm, err = krb5test.NewRealm(realmName, tgsName, service)
	require.NoError(t, err)
	k.client, err = krb5test.NewRealm(realmName, "alice")
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { k.serve(conn) })
		}
	})
	k.address = l.Addr().String()
	return k, newClient(t, k.address)
}

// newClient makes a client of the realm's KDCs.
func newClient(t *testing.T, addresses ...string) *kdc.Client {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "krb5.conf")
	text := fmt.Sprintf("[libdefaults]\n udp_preference_limit = 1\n dns_lookup_kdc = off\n[realms]\n %s = {\n", realmName)
	for _, a := range addresses {
		text += "  kdc = " + a + "\n"
	}
	require.NoError(t, os.WriteFile(conf, []byte(text+" }\n"), 0o600))
	c, err := kdc.New(conf)
	require.NoError(t, err)
	return c
}

func (k *fakeKDC) serve(conn net.Conn) {
	defer conn.Close()
	var n [4]byte
	if _, err := io.ReadFull(conn, n[:]); err != nil {
		return
	}
	req := make([]byte, binary.BigEndian.Uint32(n[:]))
	if _, err := io.ReadFull(conn, req); err != nil {
		return
	}
	answer, err := k.answer(req)
	if err != nil {
		k.t.Error(err)
		return
	}
	_, _ = conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...))
}

func (k *fakeKDC) answer(req []byte) ([]byte, error) {
	if k.raw != nil {
		return k.raw, nil
	}
	if req[0] == 0x6a {
		var m messages.ASReq
		if err := m.Unmarshal(req); err != nil {
			return nil, err
		}
		key, err := firstKey(k.client)
		if err != nil {
			return nil, err
		}
		return k.reply(11, 3, key, m.ReqBody.CName, m.ReqBody)
	}
	var m messages.TGSReq
	if err := m.Unmarshal(req); err != nil {
		return nil, err
	}
	ap, err := kmsg.ParseAPReq(m.PAData[0].PADataValue)
	if err != nil {
		return nil, err
	}
	key, err := firstKey(k.realm) // the ticket-granting service's
	if err != nil {
		return nil, err
	}
	plain, err := etype.Decrypt(nil, etype.ID(key.EType), key.Value, kmsg.UsageTicket, ap.Ticket.Enc.Cipher)
	if err != nil {
		return nil, err
	}
	part, err := kmsg.ParseTicketPart(plain)
	if err != nil {
		return nil, err
	}
	who := types.PrincipalName{NameType: part.Client.Type, NameString: part.Client.Parts}
	return k.reply(13, 8, part.Key, who, m.ReqBody)
}

func firstKey(r *krb5test.Realm) (kmsg.Key, error) {
	data, err := r.Keytab()
	if err != nil {
		return kmsg.Key{}, err
	}
	entries, err := keytab.Parse(data)
	if err != nil {
		return kmsg.Key{}, err
	}
	return entries[0].Key, nil
}

func (k *fakeKDC) reply(msgType int, usage uint32, key kmsg.Key, who types.PrincipalName, body messages.KDCReqBody) ([]byte, error) {
	name := body.SName.PrincipalNameString()
	k.mu.Lock()
	k.seen = append(k.seen, name)
	k.mu.Unlock()
	m, err := k.realm.Mint(krb5test.Ticket{Client: who.PrincipalNameString(), Service: name})
	if err != nil {
		return nil, err
	}
	var ticket messages.Ticket
	if err := ticket.Unmarshal(m.Encoded); err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	part := messages.EncKDCRepPart{
		Key:   types.EncryptionKey{KeyType: m.Etype, KeyValue: m.Key},
		Nonce: body.Nonce, Flags: types.NewKrbFlags(),
		AuthTime: now, StartTime: now, EndTime: m.End.UTC(), LastReqs: []messages.LastReq{{LRValue: now}},
		SRealm: realmName, SName: body.SName,
	}
	if k.change != nil && msgType == 13 {
		k.change(&ticket, &part)
	}
	plain, err := part.Marshal()
	if err != nil {
		return nil, err
	}
	cipher, err := etype.Encrypt(nil, etype.ID(key.EType), key.Value, usage, plain)
	if err != nil {
		return nil, err
	}
	fields := messages.KDCRepFields{
		PVNO: 5, MsgType: msgType, CRealm: realmName, CName: who, Ticket: ticket,
		EncPart: types.EncryptedData{EType: key.EType, KVNO: 2, Cipher: cipher},
	}
	if msgType == 11 {
		return (&messages.ASRep{KDCRepFields: fields}).Marshal()
	}
	return (&messages.TGSRep{KDCRepFields: fields}).Marshal()
}

// files writes a cache with nothing but a ticket-granting ticket, and a client
// keytab.
func (k *fakeKDC) files() (cc, kt string) {
	dir := k.t.TempDir()
	cc, kt = filepath.Join(dir, "ccache"), filepath.Join(dir, "keytab")
	require.NoError(k.t, k.realm.WriteCCache(cc, "alice", krb5test.Ticket{Service: tgsName}))
	require.NoError(k.t, k.client.WriteKeytab(kt))
	return cc, kt
}

// TestEstablish: with a ticket-granting ticket, and with a keytab alone, a
// context is established and the service's ticket asked for once.
func TestEstablish(t *testing.T) {
	for _, from := range []string{"cache", "keytab"} {
		t.Run(from, func(t *testing.T) {
			k, granter := startKDC(t)
			cc, kt := k.files()
			config := krb5.Config{Granter: granter, CCache: cc, ReplayCache: t.TempDir()}
			want := []string{service}
			if from == "keytab" {
				config.CCache, config.ClientKeytab = cc+".none", kt
				want = []string{tgsName, service}
			}
			p, err := krb5.New(&config)
			require.NoError(t, err)
			cred, err := p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateOnly, nil)
			require.NoError(t, err)
			acceptor, err := k.realm.Acceptor(p)
			require.NoError(t, err)
			target, err := p.ImportName("http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
			require.NoError(t, err)
			for range 2 {
				init, err := p.InitSecContext(target, gssapi.WithInitiatorCredential(cred), gssapi.WithInitiatorFlags(gssapi.ContextFlagMutual))
				require.NoError(t, err)
				acc, err := p.AcceptSecContext(gssapi.WithAcceptorCredential(acceptor))
				require.NoError(t, err)
				var tok []byte
				for _, sc := range []gssapi.SecContext{init, acc, init} {
					tok, _, err = sc.Continue(tok)
					require.NoError(t, err)
				}
				info, err := acc.Inquire()
				require.NoError(t, err)
				text, _, err := info.InitiatorName.Display()
				require.NoError(t, err)
				require.Equal(t, "alice@"+realmName, text)
			}
			require.Equal(t, want, k.seen)
		})
	}
}

// TestWrongTicket: a KDC that answers with another service's ticket is not
// believed.
func TestWrongTicket(t *testing.T) {
	for name, change := range map[string]func(*messages.Ticket, *messages.EncKDCRepPart){
		"another service": func(_ *messages.Ticket, p *messages.EncKDCRepPart) {
			p.SName.NameString = []string{"http", "evil.example.test"}
		},
		"another service's ticket": func(t *messages.Ticket, _ *messages.EncKDCRepPart) {
			t.SName.NameString = []string{"http", "evil.example.test"}
		},
		"expired": func(_ *messages.Ticket, p *messages.EncKDCRepPart) { p.EndTime = time.Now().UTC().Add(-time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			k, granter := startKDC(t)
			cc, _ := k.files()
			k.change = change
			_, err := granter.Grant(context.Background(), krb5.Request{Service: service, CCache: cc})
			require.ErrorIs(t, err, kdc.ErrWrongTicket)
			k.change = nil
			_, err = granter.Grant(context.Background(), krb5.Request{Service: service, CCache: cc})
			require.NoError(t, err, "the control")
		})
	}
}

// TestFailures: what is missing, what is malformed, and a KDC that sends
// something on which gokrb5 panics.
func TestFailures(t *testing.T) {
	k, granter := startKDC(t)
	cc, kt := k.files()
	ctx := context.Background()
	_, err := granter.Grant(ctx, krb5.Request{Service: service})
	require.ErrorIs(t, err, kdc.ErrNoTGT)
	_, err = granter.Grant(ctx, krb5.Request{Service: service, CCache: cc + ".none"})
	require.ErrorIs(t, err, kdc.ErrNoTGT)
	_, err = granter.Grant(ctx, krb5.Request{Service: "", CCache: cc})
	require.ErrorIs(t, err, kmsg.ErrName)
	_, err = granter.Grant(ctx, krb5.Request{Service: service + "@OTHER.TEST", CCache: cc})
	require.ErrorIs(t, err, kdc.ErrExchange)
	_, err = granter.Grant(ctx, krb5.Request{Service: service, CCache: kt})
	require.Error(t, err, "a keytab is no cache")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = granter.Grant(ended, krb5.Request{Service: service, CCache: cc})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, k.seen)

	short := messages.TGSRep{KDCRepFields: messages.KDCRepFields{
		PVNO: 5, MsgType: 13, CRealm: realmName, CName: types.NewPrincipalName(1, "alice"),
		EncPart: types.EncryptedData{EType: 18, Cipher: []byte{1, 2, 3}},
	}}
	m, err := k.realm.Mint(krb5test.Ticket{Service: service})
	require.NoError(t, err)
	require.NoError(t, short.Ticket.Unmarshal(m.Encoded))
	k.raw, err = short.Marshal()
	require.NoError(t, err)
	_, err = granter.Grant(ctx, krb5.Request{Service: service, CCache: cc})
	require.ErrorIs(t, err, kdc.ErrExchange)
	require.ErrorContains(t, err, "malformed answer")
	k.raw = []byte("nonsense")
	_, err = granter.Grant(ctx, krb5.Request{Service: service, CCache: cc})
	require.ErrorIs(t, err, kdc.ErrExchange)
	_, err = kdc.New(kt + ".none")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestForeignFiles: a cache or client keytab that another user owns or can write
// is refused, and no KDC is asked.
func TestForeignFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("gives files to another user, which takes root")
	}
	const stranger = 64991
	for _, spoil := range []struct {
		mode  os.FileMode
		uid   int
		owner int // allowed
		good  bool
	}{
		{0o600, 0, 0, true}, {0o666, 0, 0, false}, {0o600, stranger, 0, false}, {0o600, stranger, stranger, true}, {0o620, stranger, stranger, false},
	} {
		k, granter := startKDC(t)
		cc, kt := k.files()
		for _, path := range []string{cc, kt} {
			require.NoError(t, os.Chown(path, spoil.uid, spoil.uid))
			require.NoError(t, os.Chmod(path, spoil.mode))
		}
		for _, r := range []krb5.Request{{CCache: cc}, {ClientKeytab: kt}} {
			r.Service, r.FileOwner = service, spoil.owner
			before := len(k.seen)
			_, err := granter.Grant(context.Background(), r)
			if spoil.good {
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, krb5.ErrUntrusted)
			require.ErrorContains(t, err, fmt.Sprintf("%04o", spoil.mode))
			require.Len(t, k.seen, before)
		}
	}
}

// TestBestTGT: the ticket-granting ticket that is alive and lasts longest is used,
// wherever it stands in the cache; where none is alive the keytab is.
func TestBestTGT(t *testing.T) {
	k, granter := startKDC(t)
	cc, kt := k.files()
	old := krb5test.Ticket{Service: tgsName, Start: time.Now().Add(-9 * time.Hour), Lifetime: -time.Hour}
	for _, tickets := range [][]krb5test.Ticket{
		{old, {Service: tgsName}}, {{Service: tgsName}, old}, {{Service: tgsName, Lifetime: time.Minute}, old, {Service: tgsName}},
	} {
		require.NoError(t, k.realm.WriteCCache(cc, "alice", tickets...))
		_, err := granter.Grant(context.Background(), krb5.Request{Service: service, CCache: cc})
		require.NoError(t, err)
	}
	require.NoError(t, k.realm.WriteCCache(cc, "alice", old))
	_, err := granter.Grant(context.Background(), krb5.Request{Service: service, CCache: cc})
	require.ErrorIs(t, err, kdc.ErrNoTGT)
	_, err = granter.Grant(context.Background(), krb5.Request{Service: service, CCache: cc, ClientKeytab: kt})
	require.NoError(t, err)
	_, err = granter.Grant(context.Background(), krb5.Request{Service: service, ClientKeytab: kt, Client: "bob"})
	require.ErrorIs(t, err, kdc.ErrNoTGT)
	_, err = granter.Grant(context.Background(), krb5.Request{Service: service, ClientKeytab: kt, Client: "alice"})
	require.NoError(t, err)
}

// deaf listens and never answers. It returns its address and how many clients
// came.
func deaf(t *testing.T) (address string, clients *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	clients = new(atomic.Int32)
	var wg sync.WaitGroup
	done := make(chan struct{})
	t.Cleanup(func() { close(done); _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			clients.Add(1)
			wg.Go(func() { <-done; _ = conn.Close() })
		}
	})
	return l.Addr().String(), clients
}

// closed returns an address at which nothing listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// TestOrderOfKDCs: KDCs are asked in the order of krb5.conf, a further one only
// where those before it cannot be reached.
func TestOrderOfKDCs(t *testing.T) {
	k, _ := startKDC(t)
	cc, kt := k.files()
	other, clients := deaf(t)
	for _, r := range []krb5.Request{{CCache: cc}, {ClientKeytab: kt}} {
		r.Service = service
		for range 10 {
			_, err := newClient(t, k.address, other).Grant(context.Background(), r)
			require.NoError(t, err)
		}
		require.Zero(t, clients.Load())
		_, err := newClient(t, closed(t), closed(t), k.address).Grant(context.Background(), r)
		require.NoError(t, err)
		_, err = newClient(t, closed(t)).Grant(context.Background(), r)
		require.ErrorIs(t, err, kdc.ErrExchange, "the control")
	}
	// An answer is an answer: no other KDC is asked.
	k.change = func(*messages.Ticket, *messages.EncKDCRepPart) {}
	k.raw = []byte("nonsense")
	_, err := newClient(t, k.address, other).Grant(context.Background(), krb5.Request{Service: service, CCache: cc})
	require.ErrorIs(t, err, kdc.ErrExchange)
	require.Zero(t, clients.Load())
}

// TestCancel: Grant returns when its context is done, whatever the KDC does.
func TestCancel(t *testing.T) {
	k, _ := startKDC(t)
	cc, kt := k.files()
	for _, r := range []krb5.Request{{CCache: cc}, {ClientKeytab: kt}} {
		r.Service = service
		address, clients := deaf(t)
		granter := newClient(t, address, address, address, address, address, address, address, address)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			_, err := granter.Grant(ctx, r)
			done <- err
		}()
		require.Eventually(t, func() bool { return clients.Load() == 1 }, time.Minute, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Less(t, clients.Load(), int32(8), "it did not go through all of them")
	}
}

// TestManyAtOnce is for the race detector: the library changes the configuration
// that it is given.
func TestManyAtOnce(t *testing.T) {
	k, _ := startKDC(t)
	cc, _ := k.files()
	granter := newClient(t, k.address, k.address, k.address)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := granter.Grant(context.Background(), krb5.Request{Service: service, CCache: cc})
			assert.NoError(t, err)
		})
	}
	wg.Wait()
}

// TestNoKDC: a realm without a KDC is an error that says what is missing where.
func TestNoKDC(t *testing.T) {
	k, _ := startKDC(t)
	cc, _ := k.files()
	_, err := newClient(t).Grant(context.Background(), krb5.Request{Service: service, CCache: cc})
	require.ErrorIs(t, err, kdc.ErrConfig)
	require.ErrorContains(t, err, realmName)
	_, err = newClient(t, "https://proxy.example.test/KdcProxy").Grant(context.Background(), krb5.Request{Service: service, CCache: cc})
	require.ErrorIs(t, err, kdc.ErrConfig)
	require.ErrorContains(t, err, "krb5.conf:6: kdc = https://proxy.example.test/KdcProxy")
}
