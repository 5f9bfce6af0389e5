package krb5_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// exportCredential exports a credential of the mechanism itself.
func exportCredential(t testing.TB, c gssapi.Credential) []byte {
	t.Helper()
	tok, err := c.(gssapi.CredentialExtGGF).Export()
	require.NoError(t, err)
	require.Equal(t, len(tok), cap(tok), "one exact allocation")
	return tok
}

// TestCredentialExport: an exported credential initiates in another provider, and the
// exporter keeps its own. A delegated one does so too.
func TestCredentialExport(t *testing.T) {
	b, f := delegation(t, krb5.Config{AcceptDelegation: true})
	_, acc := b.establish(t, gssapi.ContextFlagDeleg)
	info, err := acc.Inquire()
	require.NoError(t, err)
	for _, cred := range []gssapi.Credential{b.initiator, info.DelegatedCredential} {
		tok := exportCredential(t, cred)
		other, err := krb5.New(&krb5.Config{Granter: f, ReplayCache: t.TempDir()})
		require.NoError(t, err)
		got, err := other.ImportCredential(tok)
		require.NoError(t, err)
		require.Equal(t, tok, exportCredential(t, got))
		require.Equal(t, tok, exportCredential(t, cred), "the exporter's")
		target, err := other.ImportName(service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
		require.NoError(t, err)
		init, err := other.InitSecContext(target, gssapi.WithInitiatorCredential(got))
		require.NoError(t, err)
		first, _, err := init.Continue(nil)
		require.NoError(t, err)
		acc, _, err := b.show(t, first)
		require.NoError(t, err)
		client, err := acc.Inquire()
		require.NoError(t, err)
		text, _, err := client.InitiatorName.Display()
		require.NoError(t, err)
		require.Equal(t, "alice@EXAMPLE.TEST", text)
		require.NoError(t, got.Release())
		_, err = init.Delete()
		require.NoError(t, err)
		require.Zero(t, other.LockedBytes())
	}
}

// TestCredentialExportRefused: what is no initiator's tickets is not exported, and
// nothing but an export is imported.
func TestCredentialExportRefused(t *testing.T) {
	b := newBench(t, krb5.Config{})
	_, err := b.acceptor.(gssapi.CredentialExtGGF).Export()
	require.ErrorIs(t, err, gssapi.ErrUnavailable)
	_, err = b.initiator.(gssapi.CredentialExtGGF).InquireByOid(nil)
	require.ErrorIs(t, err, gssapi.ErrUnavailable)
	expired, err := b.realm.Initiator(b.p, "alice", krb5test.Ticket{Lifetime: -time.Minute})
	require.NoError(t, err)
	_, err = expired.(gssapi.CredentialExtGGF).Export()
	require.ErrorIs(t, err, gssapi.ErrCredentialsExpired)

	good := exportCredential(t, b.initiator)
	require.NoError(t, b.initiator.Release())
	_, err = b.initiator.(gssapi.CredentialExtGGF).Export()
	require.ErrorIs(t, err, krb5.ErrReleased)
	before := b.p.LockedBytes()
	for n := range good {
		_, err := b.p.ImportCredential(good[:n])
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken, "cut to %d", n)
	}
	for i := range 8 * len(good) {
		tok := bytes.Clone(good)
		tok[i/8] ^= 1 << (i % 8)
		got, err := b.p.ImportCredential(tok)
		if err != nil {
			require.ErrorIs(t, err, gssapi.ErrDefectiveToken, "bit %d", i)
			continue
		}
		if again, err := got.(gssapi.CredentialExtGGF).Export(); err == nil { // or it has expired
			require.Equal(t, tok, again, "bit %d", i)
		}
		require.NoError(t, got.Release())
	}
	for name, tok := range map[string][]byte{
		"trailing byte": append(bytes.Clone(good), 0), "a context": exported(t, newBench(t, krb5.Config{})), "nothing": nil,
	} {
		_, err := b.p.ImportCredential(tok)
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken, name)
	}
	require.LessOrEqual(t, b.p.LockedBytes(), before)
	got, err := b.p.ImportCredential(good)
	require.NoError(t, err, "the control")
	require.NoError(t, got.Release())
}
