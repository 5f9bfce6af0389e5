// Command dropin shows the three lines that a program changes. It exports a context and
// imports it in the same process. A real program sends the token to another process:
// packages secctx and handoff have examples.
package main

import (
	"fmt"
	"log"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

func main() {
	mech, err := krb5.New(nil) // or any other provider, by gssapi.NewProvider
	if err != nil {
		log.Fatal(err)
	}

	sealer, err := seal.OpenHost(nil)
	if err != nil {
		log.Fatal(err)
	}
	p := secctx.Wrap(mech, sealer) // use p where mech was used

	sc, err := established(p, mech)
	if err != nil {
		log.Fatal(err)
	}
	token, err := sc.Export() // sealed: opens once, on this host, for this user
	if err != nil {
		log.Fatal(err)
	}
	imported, err := p.ImportSecContext(token)
	if err != nil {
		log.Fatal(err)
	}
	info, err := imported.Inquire()
	if err != nil {
		log.Fatal(err)
	}
	name, _, err := info.InitiatorName.Display()
	fmt.Println("imported the context of", name, err)
	_, err = p.ImportSecContext(token)
	fmt.Println("a second time:", err)
	_, err = sc.Export()
	fmt.Println("the exporter:", err)
}

// established returns an acceptor's context. This example has no KDC and no client, so
// the function plays both.
func established(p gssapi.Provider, mech *krb5.Provider) (gssapi.SecContext, error) {
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "host/www.example.test")
	if err != nil {
		return nil, err
	}
	alice, err := realm.Initiator(mech, "alice")
	if err != nil {
		return nil, err
	}
	keys, err := realm.Acceptor(mech)
	if err != nil {
		return nil, err
	}
	name, err := mech.ImportName("host@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
	if err != nil {
		return nil, err
	}
	client, err := mech.InitSecContext(name, gssapi.WithInitiatorCredential(alice))
	if err != nil {
		return nil, err
	}
	token, _, err := client.Continue(nil)
	if err != nil {
		return nil, err
	}
	sc, err := p.AcceptSecContext(gssapi.WithAcceptorCredential(keys))
	if err != nil {
		return nil, err
	}
	_, _, err = sc.Continue(token)
	return sc, err
}
