package secctx_test

import (
	"errors"
	"log"
	"net"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// The rest of the program stays as it was.
func ExampleWrap() {
	sealer, err := seal.OpenHost(nil)
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

// A format of the program's own tells apart what the library's name does not, such as
// two releases of one library whose plain tokens differ.
func ExampleConfig_Wrap() {
	sealer, err := seal.OpenHost(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Close()
	config := secctx.Config{Sealer: sealer, Format: "mit-1.21/amd64"}
	p := config.Wrap(gssapi.MustNewProvider("github.com/golang-auth/go-gssapi-c"))
	_ = p
}

// An acceptor hands a context to one worker process, and takes it back if the worker does
// not import it.
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
			_, err = worker.Read(make([]byte, 1)) // the worker says that it has imported the context
		}
		if err == nil {
			return nil
		}
		back := secctx.TakeBack(sc, token)
		if errors.Is(back, seal.ErrSpent) {
			return nil // the worker was faster, and has the context
		}
		return errors.Join(err, back)
	}
	_ = handOver
}
