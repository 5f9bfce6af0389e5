package krb5_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

const service = "http/www.example.test"

// bench is a realm, a provider, and a credential for each side.
type bench struct {
	realm     *krb5test.Realm
	p         *krb5.Provider
	acceptor  gssapi.Credential
	initiator gssapi.Credential
	replay    string // the replay cache's directory
}

func newBench(t testing.TB, config krb5.Config, tickets ...krb5test.Ticket) *bench {
	t.Helper()
	if config.ReplayCache == "" {
		config.ReplayCache = t.TempDir()
	}
	b := &bench{replay: config.ReplayCache}
	var err error
	b.realm, err = krb5test.NewRealm("EXAMPLE.TEST", service)
	require.NoError(t, err)
	b.p, err = krb5.New(&config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.p.Release() })
	b.acceptor, err = b.realm.Acceptor(b.p)
	require.NoError(t, err)
	b.initiator, err = b.realm.Initiator(b.p, "alice", tickets...)
	require.NoError(t, err)
	return b
}

// ageReplayCache makes the bench's replay cache one that has been there for ever,
// for requests that are older than the test.
func (b *bench) ageReplayCache(t testing.TB) {
	t.Helper()
	const began, size = 72, 32 // in the file's header
	f, err := os.OpenFile(filepath.Join(b.replay, "krb5.rcache"), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(make([]byte, size), began)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// start makes the two contexts, nothing sent yet.
func (b *bench) start(t testing.TB, flags gssapi.ContextFlag) (init, acc gssapi.SecContext) {
	t.Helper()
	target, err := b.p.ImportName("http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	init, err = b.p.InitSecContext(target, gssapi.WithInitiatorCredential(b.initiator), gssapi.WithInitiatorFlags(flags))
	require.NoError(t, err)
	acc, err = b.p.AcceptSecContext(gssapi.WithAcceptorCredential(b.acceptor))
	require.NoError(t, err)
	return init, acc
}

// establish makes an established pair.
func (b *bench) establish(t testing.TB, flags gssapi.ContextFlag) (init, acc gssapi.SecContext) {
	t.Helper()
	init, acc = b.start(t, flags)
	handshake(t, init, acc)
	return init, acc
}

func handshake(t testing.TB, init, acc gssapi.SecContext) {
	t.Helper()
	tok, _, err := init.Continue(nil)
	require.NoError(t, err)
	tok, _, err = acc.Continue(tok)
	require.NoError(t, err)
	if init.ContinueNeeded() {
		tok, _, err = init.Continue(tok)
		require.NoError(t, err)
	}
	require.Empty(t, tok)
	require.False(t, init.ContinueNeeded())
	require.False(t, acc.ContinueNeeded())
}

const allFlags = gssapi.ContextFlagMutual | gssapi.ContextFlagReplay | gssapi.ContextFlagSequence

// converse sends sealed and signed messages and MICs both ways.
func converse(t testing.TB, a, b gssapi.SecContext) {
	t.Helper()
	for _, dir := range [][2]gssapi.SecContext{{a, b}, {b, a}} {
		from, to := dir[0], dir[1]
		for _, conf := range []bool{true, false} {
			msg := []byte("a message of some length")
			tok, sealed, err := from.Wrap(msg, conf, 0)
			require.NoError(t, err)
			require.Equal(t, conf, sealed)
			got, sealed, _, err := to.Unwrap(tok)
			require.NoError(t, err)
			require.Equal(t, conf, sealed)
			require.Equal(t, msg, got)
		}
		msg := []byte("signed")
		mic, err := from.GetMIC(msg, 0)
		require.NoError(t, err)
		_, err = to.VerifyMIC(msg, mic)
		require.NoError(t, err)
	}
}

func TestEstablish(t *testing.T) {
	for _, id := range krb5test.Enctypes() {
		for _, key := range krb5test.Enctypes() {
			for _, flags := range []gssapi.ContextFlag{0, allFlags, gssapi.ContextFlagMutual} {
				for _, noSub := range []bool{false, true} {
					b := newBench(t, krb5.Config{NoAcceptorSubkey: noSub}, krb5test.Ticket{Etype: id, KeyEtype: key})
					init, acc := b.establish(t, flags)
					converse(t, init, acc)
				}
			}
		}
	}
}

// TestEstablishmentKeepsNoKeys: once a context is established, what led to it is
// gone on both sides: the ticket's session key, the subkeys, and what was
// decrypted. What is left in locked memory are the context's own keys. The control
// is an initiator that waits.
func TestEstablishmentKeepsNoKeys(t *testing.T) {
	lines := func(n int) int { return (n + 63) / 64 * 64 }                               // locked memory goes by cache lines
	own := map[int32]int{17: lines(128), 18: lines(256), 19: lines(128), 20: lines(208)} // doc/krb5-context.md
	for _, id := range krb5test.Enctypes() {
		for _, flags := range []gssapi.ContextFlag{0, allFlags} {
			b := newBench(t, krb5.Config{}, krb5test.Ticket{Etype: id})
			before := b.p.LockedBytes()
			init, acc := b.start(t, flags)
			tok, _, err := init.Continue(nil)
			require.NoError(t, err)
			key, subkey := krb5.Pending(init)
			if mutual := flags != 0; mutual {
				require.NotEmpty(t, key)
				require.NotEmpty(t, subkey)
				require.Equal(t, before+lines(len(key))+lines(len(subkey)), b.p.LockedBytes())
			} else {
				require.Empty(t, key)
				require.Empty(t, subkey)
				require.Equal(t, before+own[id], b.p.LockedBytes())
			}
			waiting := b.p.LockedBytes()
			tok, _, err = acc.Continue(tok)
			require.NoError(t, err)
			require.Equal(t, waiting+own[id], b.p.LockedBytes(), "the acceptor's")
			if init.ContinueNeeded() {
				_, _, err = init.Continue(tok)
				require.NoError(t, err)
			}
			key, subkey = krb5.Pending(init)
			require.Empty(t, key)
			require.Empty(t, subkey)
			require.Equal(t, before+2*own[id], b.p.LockedBytes())
			converse(t, init, acc)
		}
	}
}
