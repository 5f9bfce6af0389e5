package krb5test_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// TestFiles: a keytab and a cache that were written are what a provider reads,
// and a realm opened from the keytab mints for the same service.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	kt, cc := filepath.Join(dir, "keytab"), filepath.Join(dir, "ccache")
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "http/www.example.test")
	require.NoError(t, err)
	require.NoError(t, realm.WriteKeytab(kt))
	data, err := os.ReadFile(kt)
	require.NoError(t, err)
	opened, err := krb5test.OpenRealm(data)
	require.NoError(t, err)
	require.Equal(t, "EXAMPLE.TEST", opened.Name())
	again, err := opened.Keytab()
	require.NoError(t, err)
	require.Equal(t, data, again)
	for _, r := range []*krb5test.Realm{realm, opened} {
		require.NoError(t, r.WriteCCache(cc, "alice"))
		for _, path := range []string{kt, cc} {
			st, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), st.Mode())
		}
		p, err := krb5.New(&krb5.Config{Keytab: kt, CCache: cc, ReplayCache: filepath.Join(dir, "replay")})
		require.NoError(t, err)
		require.Equal(t, "alice@EXAMPLE.TEST", establish(t, p, nil, nil))
	}
}

// establish returns the initiator's name as the acceptor sees it.
func establish(t *testing.T, p *krb5.Provider, initiator, acceptor gssapi.Credential) string {
	t.Helper()
	target, err := p.ImportName("http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	init, err := p.InitSecContext(target, gssapi.WithInitiatorCredential(initiator), gssapi.WithInitiatorFlags(gssapi.ContextFlagMutual))
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
	return text
}

// TestMint: a ticket is as it was asked for.
func TestMint(t *testing.T) {
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "http/www.example.test", "ldap/www.example.test")
	require.NoError(t, err)
	m, err := realm.Mint(krb5test.Ticket{Client: "bob@OTHER.TEST", Service: "ldap/www.example.test", Etype: 17, KeyEtype: 20, Lifetime: time.Minute})
	require.NoError(t, err)
	require.Equal(t, "bob@OTHER.TEST", m.Client)
	require.Equal(t, "ldap/www.example.test@EXAMPLE.TEST", m.Service)
	require.Equal(t, int32(20), m.Etype)
	require.Len(t, m.Key, 32)
	require.WithinDuration(t, time.Now().Add(time.Minute), m.End, 2*time.Second)

	p, err := krb5.New(&krb5.Config{ReplayCache: t.TempDir()})
	require.NoError(t, err)
	acceptor, err := realm.Acceptor(p)
	require.NoError(t, err)
	for _, id := range krb5test.Enctypes() {
		initiator, err := realm.Initiator(p, "carol", krb5test.Ticket{Etype: id})
		require.NoError(t, err)
		require.Equal(t, "carol@EXAMPLE.TEST", establish(t, p, initiator, acceptor))
	}
}

func TestRefuses(t *testing.T) {
	_, err := krb5test.NewRealm("EXAMPLE.TEST")
	require.Error(t, err)
	_, err = krb5test.NewRealm("", "http/www")
	require.Error(t, err)
	_, err = krb5test.NewRealm("EXAMPLE.TEST", "a@b@c")
	require.Error(t, err)
	_, err = krb5test.OpenRealm([]byte("no keytab"))
	require.Error(t, err)
	_, err = krb5test.OpenRealm([]byte{5, 2})
	require.Error(t, err)
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "http/www")
	require.NoError(t, err)
	for _, ticket := range []krb5test.Ticket{{Service: "ldap/www"}, {Service: "http/www@OTHER.TEST"}, {Etype: 23}} {
		_, err = realm.Mint(ticket)
		require.ErrorIs(t, err, krb5test.ErrUnknownService)
	}
	_, err = realm.Mint(krb5test.Ticket{KeyEtype: 23})
	require.Error(t, err)
	require.Error(t, realm.WriteKeytab("/nowhere/keytab"))
}
