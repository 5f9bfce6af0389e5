//go:build linux

package krb5_test

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// TestFIPSOnly: under GODEBUG=fips140=only enctypes 19 and 20 do everything, and
// 17 and 18 are errors that say why and what to use, in every place where a peer,
// a file or the program brings one.
func TestFIPSOnly(t *testing.T) {
	require.False(t, fips140.Enforced(), "the other tests need all four types")
	dir := t.TempDir()
	b := newBench(t, krb5.Config{ReplayCache: filepath.Join(dir, "replay")})
	require.NoError(t, b.realm.WriteKeytab(filepath.Join(dir, "keytab")))
	for _, id := range []int32{17, 18, 19, 20} {
		name := func(kind string) string { return filepath.Join(dir, fmt.Sprint(kind, id)) }
		require.NoError(t, b.realm.WriteCCache(name("ccache"), "alice", krb5test.Ticket{Etype: id}))
		require.NoError(t, os.WriteFile(name("request"), b.forge(t, id).bytes(t), 0o600))
		f := b.forge(t, 20)
		f.auth.Subkey.EType, f.auth.Subkey.Value = id, randomKey(id)
		require.NoError(t, os.WriteFile(name("subkey"), f.bytes(t), 0o600))
		var err error
		b.initiator, err = b.realm.Initiator(b.p, "alice", krb5test.Ticket{Etype: id})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(name("context"), exported(t, b), 0o600))
	}
	tg := memscan.Start(t, "fips", &memscan.Options{Env: []string{"GODEBUG=fips140=only", leakDirVar + "=" + dir}})
	tg.Wait()
}

// fipsVictim runs in a process of its own, since the mode is the process's.
func fipsVictim(v *memscan.Victim) {
	if !fips140.Enforced() {
		v.Fatal(errors.New("GODEBUG=fips140=only has no effect"))
	}
	p, dir := leakProvider(v)
	for _, id := range []int32{17, 18, 19, 20} {
		read := func(kind string) []byte {
			b, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(kind, id)))
			v.Check(err)
			return b
		}
		_, configErr := krb5.New(&krb5.Config{Enctypes: []int32{id}})
		_, importErr := p.ImportSecContext(read("context"))
		for what, err := range map[string]error{
			"config": configErr, "context": importErr,
			"ticket": fipsAccept(v, p, read("request")), "subkey": fipsAccept(v, p, read("subkey")),
			"cache": fipsInitiate(v, p, read("ccache")),
		} {
			switch said := err != nil && strings.Contains(err.Error(), "fips140=only") && strings.Contains(err.Error(), "use 19 or 20"); {
			case id < 19 && (!said || errors.Is(err, gssapi.ErrDefectiveToken)):
				v.Fatal(fmt.Errorf("%s, enctype %d: %w", what, id, err))
			case id >= 19 && err != nil:
				v.Fatal(fmt.Errorf("%s, enctype %d: %w", what, id, err))
			}
		}
	}
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", service)
	v.Check(err)
	acceptor, err := realm.Acceptor(p)
	v.Check(err)
	for _, id := range []int32{19, 20} {
		initiator, err := realm.Initiator(p, "alice", krb5test.Ticket{Etype: id})
		v.Check(err)
		fipsConverse(v, p, initiator, acceptor)
	}
}

func fipsAccept(v *memscan.Victim, p *krb5.Provider, tok []byte) error {
	sc, err := p.AcceptSecContext()
	v.Check(err)
	_, _, err = sc.Continue(tok)
	return err
}

func fipsInitiate(v *memscan.Victim, p *krb5.Provider, ccache []byte) error {
	cred, err := p.CCacheCredential(ccache)
	v.Check(err)
	target, err := p.ImportName(service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
	v.Check(err)
	sc, err := p.InitSecContext(target, gssapi.WithInitiatorCredential(cred))
	v.Check(err)
	_, _, err = sc.Continue(nil)
	return err
}

// fipsConverse establishes a context with channel bindings, whose hash is not
// FIPS's, hands it on and uses it.
func fipsConverse(v *memscan.Victim, p *krb5.Provider, initiator, acceptor gssapi.Credential) {
	target, err := p.ImportName(service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
	v.Check(err)
	from, err := p.InitSecContext(target, gssapi.WithInitiatorCredential(initiator),
		gssapi.WithInitiatorFlags(allFlags), gssapi.WithInitiatorChannelBinding(ownChannel))
	v.Check(err)
	to, err := p.AcceptSecContext(gssapi.WithAcceptorCredential(acceptor), gssapi.WithAcceptorChannelBinding(ownChannel))
	v.Check(err)
	var tok []byte
	for _, sc := range []gssapi.SecContext{from, to, from} {
		tok, _, err = sc.Continue(tok)
		v.Check(err)
	}
	plain, err := to.Export()
	v.Check(err)
	to, err = p.ImportSecContext(plain)
	v.Check(err)
	sealed, _, err := from.Wrap([]byte("message"), true, 0)
	v.Check(err)
	_, _, _, err = to.Unwrap(sealed)
	v.Check(err)
	mic, err := to.GetMIC([]byte("message"), 0)
	v.Check(err)
	_, err = from.VerifyMIC([]byte("message"), mic)
	v.Check(err)
}
