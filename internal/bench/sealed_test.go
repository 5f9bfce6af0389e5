package main

import (
	"os"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// BenchmarkSealedExportImport is a whole hop of a Kerberos context as a program
// sees it: Export and ImportSecContext of a wrapped provider.
func BenchmarkSealedExportImport(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-bench-")
	check(b, err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	host, err := seal.OpenHost(&seal.Options{Directory: dir + "/ring"})
	check(b, err)
	mech, err := krb5.New(&krb5.Config{ReplayCache: dir + "/replay"})
	check(b, err)
	p := secctx.Wrap(mech, host)
	sc := establish(b, mech, p)
	b.ReportAllocs()
	for b.Loop() {
		token, err := sc.Export()
		check(b, err)
		sc, err = p.ImportSecContext(token)
		check(b, err)
	}
}

func check(b *testing.B, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}

// establish returns the acceptor's side of a context.
func establish(b *testing.B, mech *krb5.Provider, p gssapi.Provider) gssapi.SecContext {
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "http/www.example.test")
	check(b, err)
	from, err := realm.Initiator(mech, "alice")
	check(b, err)
	with, err := realm.Acceptor(mech)
	check(b, err)
	name, err := mech.ImportName("http/www.example.test", gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
	check(b, err)
	initiator, err := mech.InitSecContext(name, gssapi.WithInitiatorCredential(from), gssapi.WithInitiatorFlags(gssapi.ContextFlagMutual))
	check(b, err)
	acceptor, err := p.AcceptSecContext(gssapi.WithAcceptorCredential(with))
	check(b, err)
	there, _, err := initiator.Continue(nil)
	check(b, err)
	back, _, err := acceptor.Continue(there)
	check(b, err)
	_, _, err = initiator.Continue(back)
	check(b, err)
	return acceptor
}
