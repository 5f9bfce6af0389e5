// Command negotiate is a web server for clients with Kerberos that separates its
// privileges. The acceptor has the keytab. The workers, each a process of its own,
// have the listener: they speak HTTP and TLS, and serve a page that says who the
// client is. A worker shows the acceptor the credentials of each request, and gets
// the client's context, sealed for that worker alone. A negotiation of several
// requests goes on in any worker, since its state is in a sealed cookie.
//
//	KRB5_KTNAME=FILE negotiate -service HTTP@www.example.test
//	KRB5_KTNAME=FILE negotiate -cert FILE -key FILE -bindings require    # TLS
//	KRB5_KTNAME=FILE negotiate -backend http://localhost:8081            # reverse proxy
//	KRB5_KTNAME=FILE negotiate -agent SOCKET -user 54321                 # as root: workers of another
//	                                # user; the policy has: allow user root to user 54321
//	negotiate demo                  # a server, a client and tickets, with no KDC
//	curl --negotiate -u : http://www.example.test:8080/
//
// As a reverse proxy it passes requests on with the client's principal in the header
// field X-Remote-User, after it has removed the client's own.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/spnego"
)

var (
	addr     = flag.String("listen", "localhost:8080", "the `address` to listen at")
	workers  = flag.Int("workers", 4, "how many worker processes there are")
	service  = flag.String("service", "", "the `name` of the service (default: HTTP@ and this host's name)")
	bindings = flag.String("bindings", "ifsent", "channel bindings: ignore, ifsent or require")
	cert     = flag.String("cert", "", "the `file` of the TLS certificate (default: no TLS)")
	key      = flag.String("key", "", "the `file` of the certificate's private key")
	backend  = flag.String("backend", "", "pass requests on to this `URL`")
	socket   = flag.String("agent", "", "the `socket` of the agent that seals (default: this user's keyring)")
	user     = flag.Int("user", os.Getuid(), "user and group `id` of the workers; another than this needs root and the agent")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch flag.Arg(0) {
	case "worker":
		err = work()
	case "demo":
		err = demo(ctx)
	default:
		err = accept(ctx, func(a net.Addr) { log.Print("listening at ", a) })
	}
	if err != nil {
		log.Fatal(err)
	}
}

// provider is Kerberos, negotiated, with contexts that travel sealed. The acceptor
// and the workers have the same; only the acceptor has a keytab.
func provider() (gssapi.Provider, seal.Sealer, error) {
	mech, err := krb5.New(&krb5.Config{BindingsIfSent: true})
	if err != nil {
		return nil, nil, err
	}
	negotiated, err := spnego.New(mech, &spnego.Config{Raw: true}) // python3-requests-kerberos does not negotiate
	if err != nil {
		return nil, nil, err
	}
	var sealer seal.Sealer
	if *socket != "" {
		sealer, err = agent.Dial(*socket)
	} else {
		sealer, err = seal.OpenHost(nil)
	}
	if err != nil {
		return nil, nil, err
	}
	return secctx.Wrap(negotiated, sealer), sealer, nil
}
