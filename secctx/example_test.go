package secctx_test

import (
	"errors"
	"log"
	"net"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// The drop-in: everything else in the program stays as it was.
func ExampleWrap() {
	sealer, err := seal.OpenHost()
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Close()
	inner, err := gssapi.NewProvider("github.com/golang-auth/go-gssapi-c")
	if err != nil {
		log.Fatal(err)
	}
	p := secctx.Wrap(inner, sealer)

	sc, err := p.AcceptSecContext()
	if err != nil {
		log.Fatal(err)
	}
	defer sc.Delete()
	// ... Continue with the client's tokens, as ever, and then:
	token, err := sc.Export()
	if err != nil {
		log.Fatal(err)
	}
	_ = token // sealed; the worker gives it to its own ImportSecContext
}

// One name stands for two C libraries, whose plain tokens are different: a
// format of its own keeps the tokens of the one from the parser of the other.
func ExampleConfig_Wrap() {
	sealer, err := seal.OpenHost()
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Close()
	config := secctx.Config{Sealer: sealer, Format: "mit/1/amd64"}
	p := config.Wrap(gssapi.MustNewProvider("github.com/golang-auth/go-gssapi-c"))
	_ = p
}

// An acceptor hands a context to one worker process, and has it back if the
// worker does not take it.
func ExampleTakeBack() {
	handOver := func(sc gssapi.SecContext, pid int, worker net.Conn) error {
		to, err := seal.Process(pid)
		if err != nil {
			return err
		}
		token, err := secctx.Export(sc, to)
		if err != nil {
			return err // the context is still here, unless this is secctx.ErrLost
		}
		if _, err = worker.Write(token); err == nil {
			_, err = worker.Read(make([]byte, 1)) // its word that it has imported
		}
		if err == nil {
			return nil
		}
		back := secctx.TakeBack(sc, token)
		if errors.Is(back, seal.ErrSpent) {
			return nil // the worker was faster; the context is there
		}
		return errors.Join(err, back)
	}
	_ = handOver
}
