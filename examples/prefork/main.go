// Command prefork is a server of MIT's gss-sample protocol, for gss-client. It
// separates its privileges. The acceptor has the keytab and the network. It
// establishes contexts and reads none of their messages. The workers answer the
// messages, and have neither keytab nor network. Each worker is a process of its own.
// If the server runs as root, a worker runs as another user in an empty network
// namespace. The acceptor hands each worker sealed contexts and their connections.
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

// limit is the time that a client has to establish its context, and again to send its
// messages.
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
		sealer, err = seal.OpenHost(nil)
	}
	if err != nil {
		return nil, err
	}
	return secctx.Wrap(negotiated, sealer), nil
}

// accept runs the acceptor.
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

// handle establishes a client's context and hands it over, with the bytes that the client
// has sent after it. A client without a context has nothing to protect.
func handle(p gssapi.Provider, pool *handoff.Pool, conn net.Conn) error {
	defer conn.Close() // this process's descriptor; the worker has its own
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_ = conn.SetDeadline(time.Now().Add(limit)) // for the acceptor; the worker sets its own
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

// start starts a worker. The worker runs this program, with a socket to the acceptor and
// without a network.
func start(context.Context) (*net.UnixConn, error) {
	cmd := exec.Command("/proc/self/exe", "-agent", *socket, "worker") // which any user can execute
	cmd.Env, cmd.Stderr = append(os.Environ(), "KRB5_KTNAME=/nonexistent"), os.Stderr
	handoff.Isolate(cmd, *user, *user)
	defer func() { go cmd.Wait() }() //nolint:errcheck // the pool sees it end
	return handoff.Spawn(cmd)
}

// work runs a worker.
func work(p gssapi.Provider) error {
	acceptor, err := handoff.FromParent()
	if err != nil {
		return err
	}
	return handoff.Serve(context.Background(), acceptor, p, func(sc gssapi.SecContext, conn net.Conn) {
		log.Printf("process %d of user %d serves %v", os.Getpid(), os.Getuid(), conn.RemoteAddr())
		_ = conn.SetDeadline(time.Now().Add(limit)) // if this fails, reading fails too
		log.Print(conn.RemoteAddr(), ": served, error ", serve(sc, bufio.NewReader(conn), conn))
	})
}
