package handoff

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/golang-auth/go-gssapi/v3"
)

// Serve calls [Receive] again and again, and handle with what it returns, until
// the acceptor closes its connection, which is a nil error, or another error of
// Receive's than ErrRefused. When handle returns, the context is deleted and the
// connection closed. The next context is received after that: a handle that
// leaves its work to another goroutine must wait for it.
func Serve(ctx context.Context, acceptor *net.UnixConn, p gssapi.Provider, handle func(gssapi.SecContext, net.Conn)) error {
	for {
		sc, conn, err := Receive(ctx, acceptor, p)
		switch {
		case err == io.EOF: //nolint:errorlint // as Receive has it
			return nil
		case errors.Is(err, ErrRefused): // the acceptor has it back and knows
		case err != nil:
			return err
		default:
			serveOne(sc, conn, handle)
		}
	}
}

func serveOne(sc gssapi.SecContext, conn net.Conn, handle func(gssapi.SecContext, net.Conn)) {
	defer conn.Close()
	defer sc.Delete() //nolint:errcheck // its token for the peer is the handler's to send
	handle(sc, conn)
}
