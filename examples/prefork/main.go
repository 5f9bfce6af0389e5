// Command prefork is a server of MIT's gss-sample protocol, for gss-client, that
// separates its privileges. The acceptor has the keytab and the network; it
// establishes contexts, and looks at no message of theirs. The workers answer the
// messages and have neither: each is a process of its own, as root of another
// user, in a network namespace in which there is nothing. The acceptor hands
// them contexts, sealed, and connections.
//
//	KRB5_KTNAME=FILE prefork                              # one user, this host's keyring
//	KRB5_KTNAME=FILE prefork -agent SOCKET -user 54321    # as root, with the sealctx agent,
//	                                                      # whose policy has: allow user root to user 54321
//	gss-client -port 4444 HOST SERVICE@HOST hello
package main

import (
	"bufio"
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/handoff"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/spnego"
)

// limit is how long a client may take, for its context and for its messages.
const limit = time.Minute

var (
	addr   = flag.String("listen", "localhost:4444", "the `address` to listen at")
	socket = flag.String("agent", "", "the `socket` of the agent that seals (default: this user's keyring)")
	user   = flag.Int("user", os.Getuid(), "user and group `id` of the workers; another than this needs root and the agent")
)

func main() {
	flag.Parse()
	p, err := provider()
	if err == nil && flag.Arg(0) == "worker" {
		err = work(p)
	} else if err == nil {
		err = accept(p)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func provider() (gssapi.Provider, error) {
	mech, err := krb5.New(nil)
	if err != nil {
		return nil, err
	}
	negotiated, err := spnego.New(mech, &spnego.Config{Raw: true}) // gss-client with and without -spnego
	if err != nil {
		return nil, err
	}
	var sealer seal.Sealer
	if *socket != "" {
		sealer, err = agent.Dial(*socket)
	} else {
		sealer, err = seal.OpenHost()
	}
	if err != nil {
		return nil, err
	}
	return secctx.Wrap(negotiated, sealer), nil
}

// accept is the acceptor.
func accept(p gssapi.Provider) error {
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	log.Print("listening at ", l.Addr())
	pool := &handoff.Pool{Workers: 4, Start: start, Lost: func(_ *net.UnixConn, err error) { log.Print("worker lost: ", err) }}
	go pool.Run(context.Background())
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { log.Print(conn.RemoteAddr(), ": accepted, error ", handle(p, pool, conn)) }()
	}
}

// handle establishes a client's context and hands it over, with whatever the
// client has sent behind it. A client without a context has nothing to protect.
func handle(p gssapi.Provider, pool *handoff.Pool, conn net.Conn) error {
	defer conn.Close() // here; the worker has its own descriptor
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_ = conn.SetDeadline(time.Now().Add(limit)) // ours: the worker sets its own
	r := bufio.NewReader(conn)
	sc, err := establish(r, conn, p)
	if err != nil {
		return err
	}
	if sc == nil {
		return serve(nil, r, conn)
	}
	defer sc.Delete() //nolint:errcheck // there is no token for the peer
	read, _ := r.Peek(r.Buffered())
	return pool.Send(ctx, sc, conn, read)
}

// start starts a worker, which has this program, a socket to us and no network.
func start(context.Context) (*net.UnixConn, error) {
	cmd := exec.Command("/proc/self/exe", "-agent", *socket, "worker") // which any user can execute
	cmd.Env, cmd.Stderr = append(os.Environ(), "KRB5_KTNAME=/nonexistent"), os.Stderr
	handoff.Isolate(cmd, *user, *user)
	defer func() { go cmd.Wait() }() //nolint:errcheck // the pool sees it end
	return handoff.Spawn(cmd)
}

// work is a worker.
func work(p gssapi.Provider) error {
	acceptor, err := handoff.FromParent()
	if err != nil {
		return err
	}
	return handoff.Serve(context.Background(), acceptor, p, func(sc gssapi.SecContext, conn net.Conn) {
		log.Printf("process %d of user %d serves %v", os.Getpid(), os.Getuid(), conn.RemoteAddr())
		_ = conn.SetDeadline(time.Now().Add(limit)) // it fails where reading does
		log.Print(conn.RemoteAddr(), ": served, error ", serve(sc, bufio.NewReader(conn), conn))
	})
}
