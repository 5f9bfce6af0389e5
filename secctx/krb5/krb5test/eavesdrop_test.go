package krb5test_test

import (
	"fmt"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

func TestEavesdrop(t *testing.T) {
	for _, id := range krb5test.Enctypes() {
		t.Run(fmt.Sprint("enctype ", id), func(t *testing.T) {
			from, to := established(t, id)
			message := "pay 100 to Bob"
			recorded, _, err := from.Wrap([]byte(message), true, 0)
			require.NoError(t, err)
			plain, err := to.Export()
			require.NoError(t, err)

			at, size, text, ok := krb5test.Eavesdrop(plain, recorded)
			require.True(t, ok)
			require.Equal(t, message, string(text))

			// Those bytes were it, and all of them.
			for _, i := range []int{at, at + size/2, at + size - 1} {
				plain[i] ^= 1
				_, _, _, ok = krb5test.Eavesdrop(plain, recorded)
				require.False(t, ok, "a key with a bit altered opens the message")
				plain[i] ^= 1
			}
			for n := range recorded {
				_, _, _, ok := krb5test.Eavesdrop(plain[at:at+size], recorded[:n])
				require.False(t, ok, "a message cut to %d bytes opens", n)
			}
		})
	}
}

// established returns both sides of a context.
func established(t *testing.T, enctype int32) (from, to gssapi.SecContext) {
	t.Helper()
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "http/www.example.test")
	require.NoError(t, err)
	p, err := krb5.New(&krb5.Config{ReplayCache: t.TempDir() + "/replay", Enctypes: []int32{enctype}})
	require.NoError(t, err)
	cred, err := realm.Initiator(p, "alice", krb5test.Ticket{Etype: enctype})
	require.NoError(t, err)
	key, err := realm.Acceptor(p)
	require.NoError(t, err)
	name, err := p.ImportName("http/www.example.test", gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
	require.NoError(t, err)
	from, err = p.InitSecContext(name, gssapi.WithInitiatorCredential(cred), gssapi.WithInitiatorFlags(gssapi.ContextFlagMutual))
	require.NoError(t, err)
	to, err = p.AcceptSecContext(gssapi.WithAcceptorCredential(key))
	require.NoError(t, err)
	there, _, err := from.Continue(nil)
	require.NoError(t, err)
	back, _, err := to.Continue(there)
	require.NoError(t, err)
	_, _, err = from.Continue(back)
	require.NoError(t, err)
	return from, to
}
