package handoff_test

import (
	"context"
	"errors"
	"log"
	"net"
	"os/exec"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/handoff"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
)

// An acceptor gives each context to a worker that is free.
func ExamplePool() {
	pool := &handoff.Pool{
		Workers: 8,
		Start: func(context.Context) (*net.UnixConn, error) {
			cmd := exec.Command("/usr/libexec/worker")
			defer func() { go cmd.Wait() }() //nolint:errcheck // the pool sees it end
			return handoff.Spawn(cmd)
		},
	}
	go pool.Run(context.Background())

	serve := func(sc gssapi.SecContext, conn net.Conn, read []byte) { // established
		defer conn.Close()
		defer sc.Delete() //nolint:errcheck // exported, mostly
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err := pool.Send(ctx, sc, conn, read)
		if errors.Is(err, handoff.ErrReturned) {
			log.Print("too busy: ", err) // sc works: tell the client so, before the end
		}
	}
	_ = serve
}

// A worker serves what it is given, one context after the other.
func ExampleServe() {
	sealer, err := seal.OpenHost(nil)
	if err != nil {
		log.Fatal(err)
	}
	mech, err := krb5.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	acceptor, err := handoff.FromParent()
	if err != nil {
		log.Fatal(err)
	}
	p := secctx.Wrap(mech, sealer)
	err = handoff.Serve(context.Background(), acceptor, p, func(sc gssapi.SecContext, conn net.Conn) {
		_, _ = sc, conn // Unwrap what comes from conn, answer
	})
	if err != nil {
		log.Fatal(err)
	}
}

// A service of the agent's policy, for whichever of its processes asks, as long
// as it is of the service's user.
func ExampleSender() {
	const wwwData = 33
	web, err := seal.Service("web")
	if err != nil {
		log.Fatal(err)
	}
	sender := handoff.Sender{Audience: func(p handoff.Peer) (seal.Party, error) {
		if p.UID != wwwData {
			return seal.Party{}, errors.New("not a web worker")
		}
		return web, nil
	}}
	_ = sender // .Send, or the Sender of a Pool
}
