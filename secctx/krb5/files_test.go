package krb5_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// stranger is a user that is neither root nor runs the tests.
const stranger = 64991

// requireUntrusted requires an error that names the file and what is wrong with it.
func requireUntrusted(t *testing.T, err error, path, what string) {
	t.Helper()
	require.ErrorIs(t, err, krb5.ErrUntrusted)
	require.ErrorIs(t, err, gssapi.ErrNoCred)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, what)
}

// TestWritableByOthers: a keytab or cache that another user can write is
// refused, by a new credential and by one that read it before.
func TestWritableByOthers(t *testing.T) {
	for _, usage := range []gssapi.CredUsage{gssapi.CredUsageInitiateOnly, gssapi.CredUsageAcceptOnly} {
		for _, mode := range []os.FileMode{0o620, 0o602, 0o666} {
			w := newPlace(t)
			path := w.ccache
			if usage == gssapi.CredUsageAcceptOnly {
				path = w.keytab
			}
			cred, err := w.p.AcquireCredential(nil, nil, usage, nil)
			require.NoError(t, err)
			b := &bench{realm: w.realm, p: w.p}
			b.establish(t, allFlags) // the control
			require.NoError(t, os.Chmod(path, mode))
			_, err = w.p.AcquireCredential(nil, nil, usage, nil)
			requireUntrusted(t, err, path, fmt.Sprintf("%04o", mode))
			if usage == gssapi.CredUsageInitiateOnly {
				_, err = cred.Inquire()
				requireUntrusted(t, err, path, "chmod go-w")
			}
			init, acc := b.start(t, allFlags)
			tok, _, err := init.Continue(nil)
			if usage == gssapi.CredUsageAcceptOnly {
				require.NoError(t, err)
				_, _, err = acc.Continue(tok)
			}
			requireUntrusted(t, err, path, "chmod go-w")
		}
	}
}

// TestFileOwner: a keytab or cache of another user is refused, unless the
// configuration names that user.
func TestFileOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("gives files to another user, which takes root")
	}
	w := newPlace(t)
	with := func(owner int, usage gssapi.CredUsage) error {
		p, err := krb5.New(&krb5.Config{Keytab: w.keytab, CCache: w.ccache, FileOwner: owner, ReplayCache: filepath.Join(w.dir, "replay")})
		require.NoError(t, err)
		cred, err := p.AcquireCredential(nil, nil, usage, nil)
		if err == nil {
			require.NoError(t, cred.Release())
		}
		return err
	}
	for path, usage := range map[string]gssapi.CredUsage{w.ccache: gssapi.CredUsageInitiateOnly, w.keytab: gssapi.CredUsageAcceptOnly} {
		require.NoError(t, with(0, usage)) // the control
		require.NoError(t, os.Chown(path, stranger, stranger))
		requireUntrusted(t, with(0, usage), path, fmt.Sprint("user ", stranger))
		requireUntrusted(t, with(stranger+1, usage), path, fmt.Sprint("user ", stranger))
		require.NoError(t, with(stranger, usage))
		require.NoError(t, os.Chmod(path, 0o606))
		requireUntrusted(t, with(stranger, usage), path, "0606")
	}
	_, err := krb5.New(&krb5.Config{FileOwner: -1})
	require.ErrorIs(t, err, gssapi.ErrFailure)
}

// initiate starts a context with the tickets of a cache and returns its error.
func initiate(t *testing.T, ccache []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ccache")
	require.NoError(t, os.WriteFile(path, ccache, 0o600))
	p, err := krb5.New(&krb5.Config{CCache: path})
	require.NoError(t, err)
	sc, err := p.InitSecContext(importName(t, p, "http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE))
	require.NoError(t, err)
	_, _, err = sc.Continue(nil)
	return err
}

// The kinds of tickets in a cache, see TestOlderTicketFirst.
func kinds() map[string]krb5test.Ticket {
	const tgs = "krbtgt/EXAMPLE.TEST"
	past := time.Now().Add(-9 * time.Hour)
	return map[string]krb5test.Ticket{
		"granting": {Service: tgs}, "expired granting": {Service: tgs, Start: past, Lifetime: -time.Hour},
		"service": {Service: service}, "expired service": {Service: service, Start: past, Lifetime: -time.Hour},
	}
}

// remove does to the credential at index n what MIT's library does to one that
// is removed.
func remove(t *testing.T, b []byte, n int) {
	t.Helper()
	at := 0
	for range n + 1 {
		i := bytes.Index(b[at:], []byte{0, 18, 0, 0, 0, 32}) // enctype, length of the key
		require.GreaterOrEqual(t, i, 0)
		at += i + 6
	}
	times := b[at+32:]
	copy(times, []byte{0xff, 0xff, 0xff, 0xff}) // authtime
	copy(times[8:], []byte{0, 0, 0, 0})         // endtime
}

// TestOlderTicketFirst: a ticket that is expired or was removed stands in the way
// of no living one, wherever it stands.
func TestOlderTicketFirst(t *testing.T) {
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", service, "krbtgt/EXAMPLE.TEST")
	require.NoError(t, err)
	for _, c := range []struct {
		tickets []string
		removed int // index, -1: none
		err     error
	}{
		{[]string{"granting", "service"}, -1, nil},
		{[]string{"service"}, -1, nil},
		{[]string{"expired granting", "granting", "service"}, -1, nil},
		{[]string{"granting", "expired granting", "service"}, -1, nil},
		{[]string{"expired granting", "service"}, -1, nil},
		{[]string{"granting", "service"}, 0, nil},
		{[]string{"granting", "granting", "service"}, 0, nil},
		{[]string{"expired service", "service"}, -1, nil},
		{[]string{"service", "expired service"}, -1, nil},
		{[]string{"service", "service"}, 0, nil},
		{[]string{"service", "service"}, 1, nil},
		{[]string{"expired granting", "expired service"}, -1, gssapi.ErrCredentialsExpired},
		{[]string{"granting", "expired service"}, -1, gssapi.ErrCredentialsExpired},
		{[]string{"granting"}, -1, krb5.ErrNoTicket},
		{[]string{"granting", "service"}, 1, krb5.ErrNoTicket},
		{[]string{"service"}, 0, krb5.ErrNoTicket},
	} {
		var tickets []krb5test.Ticket
		for _, k := range c.tickets {
			tickets = append(tickets, kinds()[k])
		}
		b, err := realm.CCache("alice", tickets...)
		require.NoError(t, err)
		if c.removed >= 0 {
			remove(t, b, c.removed)
		}
		err = initiate(t, b)
		if c.err == nil {
			require.NoError(t, err, c)
		} else {
			require.ErrorIs(t, err, c.err, c)
		}
	}
}

// TestInquireLifetime: what Inquire says is the living ticket-granting ticket's
// time, and where none is alive the time of the ticket that lasts longest.
func TestInquireLifetime(t *testing.T) {
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", service, "krbtgt/EXAMPLE.TEST")
	require.NoError(t, err)
	p, err := krb5.New(nil)
	require.NoError(t, err)
	short := krb5test.Ticket{Service: "krbtgt/EXAMPLE.TEST", Lifetime: 2 * time.Hour}
	for _, c := range []struct {
		tickets []krb5test.Ticket
		want    time.Duration
	}{
		{[]krb5test.Ticket{kinds()["expired granting"], short, kinds()["service"]}, 2 * time.Hour},
		{[]krb5test.Ticket{kinds()["expired granting"], kinds()["service"]}, 10 * time.Hour},
		{[]krb5test.Ticket{short, kinds()["granting"]}, 10 * time.Hour},
	} {
		b, err := realm.CCache("alice", c.tickets...)
		require.NoError(t, err)
		cred, err := p.CCacheCredential(b)
		require.NoError(t, err)
		info, err := cred.Inquire()
		require.NoError(t, err)
		require.WithinDuration(t, time.Now().Add(c.want), info.InitiatorExpiry.ExpiresAt, time.Minute)
	}
}

// TestKeyVersionZero: version 0 of a key, in a ticket or in the keytab, stands for
// any. The control is a version that is not there.
func TestKeyVersionZero(t *testing.T) {
	b := newBench(t, krb5.Config{})
	for version, want := range map[uint32]error{0: nil, 2: nil, 3: krb5.KRB_AP_ERR_BADKEYVER} {
		f := b.forge(t, 18)
		f.kvno = version
		_, _, err := b.show(t, f.bytes(t))
		if want == nil {
			require.NoError(t, err, version)
		} else {
			require.ErrorIs(t, err, want, version)
		}
	}
}

// TestLargeCache: a cache is used whatever its length, and its length takes no
// locked memory.
func TestLargeCache(t *testing.T) {
	w := newPlace(t)
	b, err := os.ReadFile(w.ccache)
	require.NoError(t, err)
	one, err := w.realm.CCache("alice", krb5test.Ticket{Service: "ldap/www.example.test"})
	require.NoError(t, err)
	none := bytes.Index(one[8:], []byte("alice")) + 8 + len("alice") // where the credentials begin
	note := bytes.Replace(one[none:], binary.BigEndian.AppendUint32(nil, uint32(len("EXAMPLE.TEST"))), binary.BigEndian.AppendUint32(nil, uint32(len("X-CACHECONF:"))), 2)
	require.Equal(t, len("EXAMPLE.TEST"), len("X-CACHECONF:"))
	note = bytes.ReplaceAll(note, []byte("EXAMPLE.TEST"), []byte("X-CACHECONF:"))
	flood := append(b[:none:none], bytes.Repeat(note, (4<<20)/len(note))...)
	flood = append(flood, b[none:]...)
	require.NoError(t, os.WriteFile(w.ccache, flood, 0o600))
	cred, err := w.p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateOnly, nil)
	require.NoError(t, err)
	require.Less(t, w.p.LockedBytes(), 16<<10)
	bench := &bench{realm: w.realm, p: w.p, initiator: cred}
	bench.establish(t, allFlags)
}

// withOffset writes a clock offset into a cache's header.
func withOffset(t *testing.T, b []byte, offset time.Duration) []byte {
	t.Helper()
	require.Equal(t, []byte{5, 4, 0, 0}, b[:4])
	head := []byte{5, 4, 0, 12, 0, 1, 0, 8}
	head = binary.BigEndian.AppendUint32(head, uint32(int32(offset/time.Second)))
	head = binary.BigEndian.AppendUint32(head, uint32(int32(offset%time.Second/time.Microsecond)))
	return append(head, b[4:]...)
}

// TestClockOffset: on a host whose clock is wrong, the offset that kinit kept
// makes tickets live as long as the KDC says, and authenticators have the time
// that acceptors have.
func TestClockOffset(t *testing.T) {
	for _, offset := range []time.Duration{20 * time.Minute, -20 * time.Minute} {
		for _, known := range []bool{true, false} {
			b := newBench(t, krb5.Config{})
			data, err := b.realm.CCache("alice", krb5test.Ticket{Service: service, Lifetime: time.Hour})
			require.NoError(t, err)
			if known {
				data = withOffset(t, data, offset)
			}
			wrong, err := krb5.New(nil)
			require.NoError(t, err)
			wrong.Clock(func() time.Time { return time.Now().Add(-offset) })
			cred, err := wrong.CCacheCredential(data)
			require.NoError(t, err)
			info, err := cred.Inquire()
			require.NoError(t, err)
			sc, err := wrong.InitSecContext(importName(t, wrong, "http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE), gssapi.WithInitiatorCredential(cred))
			require.NoError(t, err)
			tok, _, err := sc.Continue(nil)
			if !known && offset > 0 {
				require.ErrorIs(t, err, krb5.KRB_AP_ERR_TKT_NYV, "the control")
				continue
			}
			require.NoError(t, err)
			_, _, err = b.show(t, tok)
			if !known {
				require.ErrorIs(t, err, krb5.KRB_AP_ERR_SKEW, "the control")
				continue
			}
			require.NoError(t, err)
			require.WithinDuration(t, time.Now().Add(time.Hour-offset), info.InitiatorExpiry.ExpiresAt, time.Minute, "by the host's own clock")
			sci, err := sc.Inquire()
			require.NoError(t, err)
			require.WithinDuration(t, time.Now().Add(time.Hour-offset), sci.ExpiresAt.ExpiresAt, time.Minute)

			// Stored elsewhere, the cache keeps its offset.
			path := filepath.Join(t.TempDir(), "stored")
			_, _, err = cred.(gssapi.CredentialExtCredStore).StoreInto(nil, gssapi.CredUsageInitiateOnly, false, false, gssapi.WithCredStoreCCache(path))
			require.NoError(t, err)
			stored, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, data[:16], stored[:16])
		}
	}
}

// TestDirectoryCache: the primary cache of a directory is used, another one as
// soon as it is primary, and tickets are stored there.
func TestDirectoryCache(t *testing.T) {
	w := newPlace(t)
	for file, client := range map[string]string{"tkt1": "alice", "tkt2": "bob"} {
		require.NoError(t, w.realm.WriteCCache(filepath.Join(w.dir, file), client))
	}
	primary := func(name string) {
		require.NoError(t, os.WriteFile(filepath.Join(w.dir, "primary"), []byte(name+"\n"), 0o600))
	}
	primary("tkt1")
	p, err := krb5.New(&krb5.Config{CCache: "DIR:" + w.dir, ReplayCache: filepath.Join(w.dir, "replay")})
	require.NoError(t, err)
	cred, err := p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateOnly, nil)
	require.NoError(t, err)
	for _, who := range []string{"alice", "bob", "alice"} {
		primary(map[string]string{"alice": "tkt1", "bob": "tkt2"}[who])
		info, err := cred.Inquire()
		require.NoError(t, err)
		require.Equal(t, who+"@EXAMPLE.TEST", info.Name)
	}
	one, err := p.AcquireCredentialFrom(nil, nil, gssapi.CredUsageInitiateOnly, nil, gssapi.WithCredStoreCCache("DIR::"+filepath.Join(w.dir, "tkt2")))
	require.NoError(t, err)
	info, err := one.Inquire()
	require.NoError(t, err)
	require.Equal(t, "bob@EXAMPLE.TEST", info.Name)

	_, _, err = one.(gssapi.CredentialExtCredStore).StoreInto(nil, gssapi.CredUsageInitiateOnly, true, false)
	require.NoError(t, err)
	info, err = cred.Inquire()
	require.NoError(t, err)
	require.Equal(t, "bob@EXAMPLE.TEST", info.Name, "stored as the primary one")
	_, _, err = one.(gssapi.CredentialExtCredStore).StoreInto(nil, gssapi.CredUsageInitiateOnly, true, false, gssapi.WithCredStoreCCache("KEYRING:x"))
	require.ErrorIs(t, err, krb5.ErrStore)
	require.ErrorContains(t, err, "KEYRING:x")
	require.NoError(t, os.Remove(filepath.Join(w.dir, "tkt1")))
	_, err = cred.Inquire()
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A requestKeeper keeps the last request.
type requestKeeper struct{ last krb5.Request }

func (g *requestKeeper) Grant(_ context.Context, r krb5.Request) (*krb5.Ticket, error) {
	g.last = r
	if r.TGT != nil {
		tgt := *r.TGT
		tgt.Key = bytes.Clone(tgt.Key)
		g.last.TGT = &tgt
	}
	return nil, os.ErrDeadlineExceeded
}

// TestRequest: a Granter gets the cache's best ticket-granting ticket, whose key
// is wiped afterwards, from any kind of cache.
func TestRequest(t *testing.T) {
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "krbtgt/EXAMPLE.TEST", service)
	require.NoError(t, err)
	short := kinds()["granting"]
	short.Lifetime = time.Hour
	data, err := realm.CCache("alice", kinds()["expired granting"], short, kinds()["granting"])
	require.NoError(t, err)
	data = withOffset(t, data, 90*time.Second)
	path := filepath.Join(t.TempDir(), "ccache")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	for _, from := range []string{"file", "memory"} {
		g := &requestKeeper{}
		p, err := krb5.New(&krb5.Config{CCache: path, Granter: g, FileOwner: 7})
		require.NoError(t, err)
		cred, err := p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateOnly, nil)
		if from == "memory" {
			cred, err = p.CCacheCredential(data)
		}
		require.NoError(t, err)
		sc, err := p.InitSecContext(importName(t, p, "http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE), gssapi.WithInitiatorCredential(cred))
		require.NoError(t, err)
		_, _, err = sc.Continue(nil)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, from == "file", g.last.CCache == path)
		require.Equal(t, 90*time.Second, g.last.Offset)
		require.Equal(t, 7, g.last.FileOwner)
		tgt := g.last.TGT
		require.NotNil(t, tgt)
		require.Equal(t, []string{"alice@EXAMPLE.TEST", "krbtgt/EXAMPLE.TEST@EXAMPLE.TEST"}, []string{tgt.Client, tgt.Service})
		require.WithinDuration(t, time.Now().Add(10*time.Hour), tgt.EndTime, time.Minute)
		require.True(t, bytes.Contains(data, tgt.Key) && bytes.Contains(data, tgt.Encoded))
	}
}
