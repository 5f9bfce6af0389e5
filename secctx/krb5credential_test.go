package secctx

import (
	"path/filepath"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// TestKerberosCredentialSealed: a user's Kerberos tickets go to another process sealed,
// once, and initiate there. The control is the mechanism's own export, in clear.
func TestKerberosCredentialSealed(t *testing.T) {
	dir := t.TempDir()
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "http/www.example.test")
	require.NoError(t, err)
	minted, err := realm.CCache("alice")
	require.NoError(t, err)
	mech, err := krb5.New(&krb5.Config{CCache: filepath.Join(dir, "ccache"), ReplayCache: filepath.Join(dir, "replay")})
	require.NoError(t, err)
	defer mech.Release()
	own, err := mech.CCacheCredential(minted)
	require.NoError(t, err)
	plain, err := own.(gssapi.CredentialExtGGF).Export()
	require.NoError(t, err)
	const head = len("SCC5") + 1
	require.Equal(t, minted, plain[head:], "the control")
	_, _, err = own.(gssapi.CredentialExtRFC5588).StoreCredential(gssapi.CredUsageInitiateOnly, nil, false, false)
	require.NoError(t, err)

	h := newHost(t, nil)
	cred, err := Wrap(mech, h).AcquireCredential(nil, nil, gssapi.CredUsageInitiateOnly, nil)
	require.NoError(t, err)
	defer cred.Release()
	sealed, err := cred.(gssapi.CredentialExtGGF).Export()
	require.NoError(t, err)
	for i := head; i+32 <= len(plain); i++ {
		require.NotContains(t, string(sealed), string(plain[i:i+32]))
	}
	other, err := krb5.New(&krb5.Config{ReplayCache: filepath.Join(dir, "replay")})
	require.NoError(t, err)
	defer other.Release()
	importer := Wrap(other, h)
	got, err := importer.(gssapi.ProviderExtGGF).ImportCredential(sealed)
	require.NoError(t, err)
	defer got.Release()
	_, err = importer.(gssapi.ProviderExtGGF).ImportCredential(sealed)
	require.ErrorIs(t, err, seal.ErrSpent)
	target, err := importer.ImportName("http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	init, err := importer.InitSecContext(target, gssapi.WithInitiatorCredential(got))
	require.NoError(t, err)
	_, info, err := init.Continue(nil)
	require.NoError(t, err)
	text, _, err := info.InitiatorName.Display()
	require.NoError(t, err)
	require.Equal(t, "alice@EXAMPLE.TEST", text)
}
