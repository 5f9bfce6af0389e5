package krb5_test

import (
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// place is a directory with a keytab and a cache, and a provider for them.
type place struct {
	dir, keytab, ccache string
	realm               *krb5test.Realm
	p                   *krb5.Provider
}

func newPlace(t *testing.T) *place {
	t.Helper()
	dir := t.TempDir()
	w := &place{dir: dir, keytab: filepath.Join(dir, "keytab"), ccache: filepath.Join(dir, "ccache")}
	var err error
	w.realm, err = krb5test.NewRealm("EXAMPLE.TEST", service, "ldap/www.example.test")
	require.NoError(t, err)
	require.NoError(t, w.realm.WriteKeytab(w.keytab))
	require.NoError(t, w.realm.WriteCCache(w.ccache, "alice"))
	w.p, err = krb5.New(&krb5.Config{Keytab: w.keytab, CCache: "FILE:" + w.ccache, ReplayCache: filepath.Join(dir, "replay")})
	require.NoError(t, err)
	return w
}

func TestAcquire(t *testing.T) {
	w := newPlace(t)
	both, err := w.p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateAndAccept, nil)
	require.NoError(t, err)
	info, err := both.Inquire()
	require.NoError(t, err)
	require.Equal(t, "alice@EXAMPLE.TEST", info.Name)
	require.Equal(t, gssapi.CredUsageInitiateAndAccept, info.Usage)
	require.Equal(t, gssapi.GssLifetimeIndefinite, info.AcceptorExpiry.Status)
	require.WithinDuration(t, time.Now().Add(10*time.Hour), info.InitiatorExpiry.ExpiresAt, time.Minute)
	b := &bench{realm: w.realm, p: w.p, acceptor: both, initiator: both}
	init, acc := b.establish(t, allFlags)
	converse(t, init, acc)
	require.NoError(t, both.Release())
	require.NoError(t, both.Release())
	_, err = both.Inquire()
	require.ErrorIs(t, err, krb5.ErrReleased)
	converse(t, init, acc)

	b.acceptor, b.initiator = nil, nil // the configured files
	init, acc = b.establish(t, allFlags)
	converse(t, init, acc)
}

func TestAcquireByName(t *testing.T) {
	w := newPlace(t)
	acquire := func(text string, nt gssapi.GssNameType, usage gssapi.CredUsage) (gssapi.Credential, error) {
		return w.p.AcquireCredential(importName(t, w.p, text, nt), []gssapi.GssMech{gssapi.GSS_MECH_KRB5}, usage, nil)
	}
	for _, c := range []struct {
		text  string
		nt    gssapi.GssNameType
		usage gssapi.CredUsage
		err   error
	}{
		{"http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE, gssapi.CredUsageAcceptOnly, nil},
		{"http", gssapi.GSS_NT_HOSTBASED_SERVICE, gssapi.CredUsageAcceptOnly, nil},
		{service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME, gssapi.CredUsageAcceptOnly, nil},
		{service + "@EXAMPLE.TEST", gssapi.GSS_KRB5_NT_PRINCIPAL_NAME, gssapi.CredUsageAcceptOnly, nil},
		{service + "@OTHER.TEST", gssapi.GSS_KRB5_NT_PRINCIPAL_NAME, gssapi.CredUsageAcceptOnly, gssapi.ErrNoCred},
		{"imap", gssapi.GSS_NT_HOSTBASED_SERVICE, gssapi.CredUsageAcceptOnly, gssapi.ErrNoCred},
		{"alice@EXAMPLE.TEST", gssapi.GSS_NT_USER_NAME, gssapi.CredUsageInitiateOnly, nil},
		{"alice", gssapi.GSS_NT_USER_NAME, gssapi.CredUsageInitiateOnly, nil},
		{"bob", gssapi.GSS_NT_USER_NAME, gssapi.CredUsageInitiateOnly, gssapi.ErrNoCred},
	} {
		cred, err := acquire(c.text, c.nt, c.usage)
		if c.err != nil {
			require.ErrorIs(t, err, c.err, c.text)
			continue
		}
		require.NoError(t, err, c.text)
		info, err := cred.InquireByMech(gssapi.GSS_MECH_KRB5)
		require.NoError(t, err)
		require.Equal(t, c.usage, info.Usage)
	}
	_, err := w.p.AcquireCredential(nil, []gssapi.GssMech{gssapi.GSS_MECH_SPNEGO}, gssapi.CredUsageAcceptOnly, nil)
	require.ErrorIs(t, err, gssapi.ErrBadMech)

	// A named acceptor refuses the keytab's other services.
	ldap, err := acquire("ldap", gssapi.GSS_NT_HOSTBASED_SERVICE, gssapi.CredUsageAcceptOnly)
	require.NoError(t, err)
	b := &bench{realm: w.realm, p: w.p, acceptor: ldap}
	_, out, err := b.show(t, b.forge(t, 18).bytes(t))
	requireCode(t, err, gssapi.ErrNoCred, krb5.KRB_AP_ERR_NOKEY, out)
}

func TestAcquireFails(t *testing.T) {
	w := newPlace(t)
	from := func(usage gssapi.CredUsage, opts ...gssapi.CredStoreOption) error {
		_, err := w.p.AcquireCredentialFrom(nil, nil, usage, nil, opts...)
		return err
	}
	broken := filepath.Join(w.dir, "broken")
	require.NoError(t, os.WriteFile(broken, []byte("neither"), 0o600))
	expired := filepath.Join(w.dir, "expired")
	require.NoError(t, w.realm.WriteCCache(expired, "alice", krb5test.Ticket{Lifetime: -time.Minute}))
	for name, c := range map[string]struct{ err, want error }{
		"no keytab":        {from(gssapi.CredUsageAcceptOnly, gssapi.WithCredStoreServerKeytab("/nowhere")), gssapi.ErrNoCred},
		"no cache":         {from(gssapi.CredUsageInitiateOnly, gssapi.WithCredStoreCCache("/nowhere")), gssapi.ErrNoCred},
		"broken keytab":    {from(gssapi.CredUsageAcceptOnly, gssapi.WithCredStoreServerKeytab(broken)), gssapi.ErrDefectiveCredential},
		"broken cache":     {from(gssapi.CredUsageInitiateOnly, gssapi.WithCredStoreCCache(broken)), gssapi.ErrDefectiveCredential},
		"expired":          {from(gssapi.CredUsageInitiateOnly, gssapi.WithCredStoreCCache(expired)), gssapi.ErrCredentialsExpired},
		"KCM":              {from(gssapi.CredUsageInitiateOnly, gssapi.WithCredStoreCCache("KCM:")), krb5.ErrStore},
		"password":         {from(gssapi.CredUsageInitiateOnly, gssapi.WithCredStorePassword("x")), gssapi.ErrUnavailable},
		"no replay cache":  {from(gssapi.CredUsageAcceptOnly, gssapi.WithCredStoreRCache("none:")), gssapi.ErrUnavailable},
		"directory":        {from(gssapi.CredUsageAcceptOnly, gssapi.WithCredStoreServerKeytab(w.dir)), gssapi.ErrNoCred},
		"both, one broken": {from(gssapi.CredUsageInitiateAndAccept, gssapi.WithCredStoreCCache(broken)), gssapi.ErrDefectiveCredential},
	} {
		require.ErrorIs(t, c.err, c.want, name)
	}
	runtime.GC()
	require.Zero(t, w.p.LockedBytes(), "secrets left")
	for _, data := range [][]byte{nil, []byte("x"), make([]byte, 2<<20)} {
		_, err := w.p.KeytabCredential(nil, data)
		require.ErrorIs(t, err, gssapi.ErrDefectiveCredential)
		_, err = w.p.CCacheCredential(data)
		require.ErrorIs(t, err, gssapi.ErrDefectiveCredential)
	}
}

// TestFilesAreReadAnew: a new key and a new ticket are seen by credentials that
// exist, a removed file is noticed, and what was read before is wiped.
func TestFilesAreReadAnew(t *testing.T) {
	w := newPlace(t)
	cred, err := w.p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateAndAccept, nil)
	require.NoError(t, err)
	b := &bench{realm: w.realm, p: w.p, acceptor: cred, initiator: cred}
	b.establish(t, allFlags)
	locked := w.p.LockedBytes()

	w.realm, err = krb5test.NewRealm("EXAMPLE.TEST", service, "ldap/www.example.test")
	require.NoError(t, err)
	require.NoError(t, w.realm.WriteKeytab(w.keytab))
	init, acc := b.start(t, allFlags)
	tok, _, err := init.Continue(nil)
	require.NoError(t, err)
	_, _, err = acc.Continue(tok)
	require.ErrorIs(t, err, krb5.KRB_AP_ERR_BAD_INTEGRITY, "old ticket, new key")
	_, err = init.Delete()
	require.NoError(t, err)

	require.NoError(t, w.realm.WriteCCache(w.ccache, "alice"))
	init, acc = b.establish(t, allFlags)
	for _, sc := range []gssapi.SecContext{init, acc} {
		_, err := sc.Delete()
		require.NoError(t, err)
	}
	require.LessOrEqual(t, w.p.LockedBytes(), locked)

	require.NoError(t, os.Remove(w.keytab))
	_, _, err = b.show(t, b.forge(t, 18).bytes(t))
	require.ErrorIs(t, err, gssapi.ErrNoCred)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestAddAndStore(t *testing.T) {
	w := newPlace(t)
	acc, err := w.p.AcquireCredential(nil, nil, gssapi.CredUsageAcceptOnly, nil)
	require.NoError(t, err)
	_, err = acc.Add(nil, gssapi.GSS_MECH_KRB5, gssapi.CredUsageAcceptOnly, nil, nil, false)
	require.ErrorIs(t, err, gssapi.ErrDuplicateElement)
	_, err = acc.Add(nil, gssapi.GSS_MECH_SPNEGO, gssapi.CredUsageInitiateOnly, nil, nil, false)
	require.ErrorIs(t, err, gssapi.ErrBadMech)
	both, err := acc.Add(nil, gssapi.GSS_MECH_KRB5, gssapi.CredUsageInitiateOnly, nil, nil, false)
	require.NoError(t, err)
	require.NotSame(t, acc, both)
	require.NoError(t, acc.Release())
	b := &bench{realm: w.realm, p: w.p, acceptor: both, initiator: both}
	b.establish(t, allFlags)

	data, err := w.realm.CCache("alice")
	require.NoError(t, err)
	mem, err := w.p.CCacheCredential(data)
	require.NoError(t, err)
	clear(data)
	merged, err := mem.Add(nil, nil, gssapi.CredUsageAcceptOnly, nil, nil, true)
	require.NoError(t, err)
	require.Same(t, mem, merged)
	copied, err := w.realm.Initiator(w.p, "alice")
	require.NoError(t, err)
	copied2, err := copied.Add(nil, nil, gssapi.CredUsageAcceptOnly, nil, nil, false)
	require.NoError(t, err)
	require.NoError(t, copied.Release())
	b.initiator, b.acceptor = copied2, merged
	b.establish(t, allFlags)

	store := mem.(gssapi.CredentialExtCredStore)
	path := filepath.Join(w.dir, "stored")
	mechs, usage, err := store.StoreInto(nil, gssapi.CredUsageInitiateOnly, false, false, gssapi.WithCredStoreCCache(path))
	require.NoError(t, err)
	require.Len(t, mechs, 1)
	require.Equal(t, gssapi.CredUsageInitiateOnly, usage)
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode())
	_, _, err = store.StoreInto(nil, gssapi.CredUsageInitiateOnly, false, false, gssapi.WithCredStoreCCache(path))
	require.ErrorIs(t, err, gssapi.ErrDuplicateElement)
	_, _, err = store.StoreInto(nil, gssapi.CredUsageInitiateOnly, true, false, gssapi.WithCredStoreCCache(path))
	require.NoError(t, err)
	_, _, err = store.StoreInto(nil, gssapi.CredUsageAcceptOnly, true, false, gssapi.WithCredStoreCCache(path))
	require.ErrorIs(t, err, krb5.ErrStore)
	left, err := filepath.Glob(filepath.Join(w.dir, ".krb5cc*"))
	require.NoError(t, err)
	require.Empty(t, left)

	require.NoError(t, w.p.SetCCacheName(path))
	b.initiator = nil
	b.establish(t, allFlags)
	require.ErrorIs(t, w.p.SetCCacheName("MEMORY:x"), krb5.ErrStore)
	require.NoError(t, w.p.RegisterAcceptorIdentity("/nowhere"))
	_, err = w.p.AcquireCredential(nil, nil, gssapi.CredUsageAcceptOnly, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestStoreIntoCCacheName: tickets go where SetCCacheName said.
func TestStoreIntoCCacheName(t *testing.T) {
	dir := t.TempDir()
	configured, set := filepath.Join(dir, "configured"), filepath.Join(dir, "set")
	b := newBench(t, krb5.Config{CCache: configured})
	require.NoError(t, b.p.SetCCacheName(set))
	_, _, err := b.initiator.(gssapi.CredentialExtCredStore).StoreInto(nil, gssapi.CredUsageInitiateOnly, true, false)
	require.NoError(t, err)
	require.FileExists(t, set)
	require.NoFileExists(t, configured)
}

// TestEnvironment: the places that C libraries take, where nothing is said.
func TestEnvironment(t *testing.T) {
	w := newPlace(t)
	t.Setenv("KRB5_KTNAME", "FILE:"+w.keytab)
	t.Setenv("KRB5CCNAME", w.ccache)
	t.Setenv("KRB5RCACHEDIR", filepath.Join(w.dir, "replay"))
	p, err := krb5.New(nil)
	require.NoError(t, err)
	b := &bench{realm: w.realm, p: p}
	init, acc := b.establish(t, allFlags)
	converse(t, init, acc)
	_, err = os.Stat(filepath.Join(w.dir, "replay", "krb5.rcache"))
	require.NoError(t, err)
}

// TestNoFile: what is no file is refused and nobody waits for it, least of all a
// named pipe, which anybody can put where the default cache would be.
func TestNoFile(t *testing.T) {
	w := newPlace(t)
	pipe := filepath.Join(w.dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	done := make(chan error, 2)
	go func() {
		for _, usage := range []gssapi.CredUsage{gssapi.CredUsageInitiateOnly, gssapi.CredUsageAcceptOnly} {
			_, err := w.p.AcquireCredentialFrom(nil, nil, usage, nil,
				gssapi.WithCredStoreCCache(pipe), gssapi.WithCredStoreServerKeytab(pipe))
			done <- err
		}
	}()
	for range 2 {
		select {
		case err := <-done:
			require.ErrorIs(t, err, gssapi.ErrNoCred)
		case <-time.After(5 * time.Second):
			t.Fatal("waits for a writer")
		}
	}
}

// TestCredentialUnderUse: questions and changes at the same time, for the race
// detector.
func TestCredentialUnderUse(t *testing.T) {
	w := newPlace(t)
	cred, err := w.p.AcquireCredential(nil, nil, gssapi.CredUsageAcceptOnly, nil)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, err := cred.Inquire()
			assert.NoError(t, err)
		})
	}
	wg.Go(func() {
		_, err := cred.Add(nil, nil, gssapi.CredUsageInitiateOnly, nil, nil, true)
		assert.NoError(t, err)
	})
	wg.Wait()
	info, err := cred.Inquire()
	require.NoError(t, err)
	require.Equal(t, gssapi.CredUsageInitiateAndAccept, info.Usage)
}

// TestDroppedCredential: keys of a credential that nobody releases are wiped
// when it is collected.
func TestDroppedCredential(t *testing.T) {
	w := newPlace(t)
	func() {
		_, err := w.p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateAndAccept, nil)
		require.NoError(t, err)
		require.Positive(t, w.p.LockedBytes())
	}()
	require.Eventually(t, func() bool { runtime.GC(); return w.p.LockedBytes() == 0 }, 10*time.Second, 10*time.Millisecond)
}
