package krb5_test

import (
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// referred makes a credential of a cache as MIT's library leaves it where it
// cannot tell a host's realm: the services' realms are empty.
func referred(t *testing.T, b *bench) gssapi.Credential {
	t.Helper()
	data, err := b.realm.CCache("alice")
	require.NoError(t, err)
	c, err := ccache.Parse(data)
	require.NoError(t, err)
	for i := range c.Credentials {
		c.Credentials[i].Server.Realm = ""
	}
	buf, err := c.MarshalTo(make([]byte, c.Size()))
	require.NoError(t, err)
	cred, err := b.p.CCacheCredential(buf)
	require.NoError(t, err)
	return cred
}

// TestReferralRealm: a ticket that the cache files under the empty realm is
// found with and without a realm, its acceptor has the ticket's realm, and the
// context can be moved.
func TestReferralRealm(t *testing.T) {
	b := newBench(t, krb5.Config{})
	b.initiator = referred(t, b)
	init, acc := b.establish(t, allFlags)
	info, err := init.Inquire()
	require.NoError(t, err)
	text, _, err := info.AcceptorName.Display()
	require.NoError(t, err)
	require.Equal(t, service+"@EXAMPLE.TEST", text)
	converse(t, move(t, init), move(t, acc))

	for text, want := range map[string]error{service + "@EXAMPLE.TEST": nil, service + "@OTHER.TEST": krb5.ErrNoTicket} {
		init, err := b.p.InitSecContext(importName(t, b.p, text, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME),
			gssapi.WithInitiatorCredential(b.initiator))
		require.NoError(t, err)
		_, _, err = init.Continue(nil)
		require.ErrorIs(t, err, want)
	}
}

// TestExportChecksNames: a context whose token could not be imported is not
// exported, and lives on.
func TestExportChecksNames(t *testing.T) {
	b := newBench(t, krb5.Config{})
	init, acc := b.establish(t, allFlags)
	restore := krb5.TakeAcceptorRealm(init)
	_, err := init.Export()
	require.ErrorIs(t, err, gssapi.ErrUnavailable)
	converse(t, init, acc)
	restore()
	converse(t, move(t, init), acc)
}

// TestGrantedWithoutRealm: a Granter's ticket without a realm is refused.
func TestGrantedWithoutRealm(t *testing.T) {
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", service)
	require.NoError(t, err)
	for _, c := range []struct {
		name  string
		fault func(*krb5.Ticket)
		err   error
	}{
		{"control", func(*krb5.Ticket) {}, nil},
		{"service", func(g *krb5.Ticket) { g.Service = service }, gssapi.ErrDefectiveCredential},
		{"client", func(g *krb5.Ticket) { g.Client = "alice" }, gssapi.ErrDefectiveCredential},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &granter{realm: realm, fault: c.fault}
			p, err := krb5.New(&krb5.Config{CCache: t.TempDir() + "/none", ClientKeytab: "/keytab", Granter: g})
			require.NoError(t, err)
			init, err := p.InitSecContext(importName(t, p, service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME))
			require.NoError(t, err)
			_, _, err = init.Continue(nil)
			require.ErrorIs(t, err, c.err)
			require.True(t, g.bounded, "a Granter's time is limited")
		})
	}
}
