package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
)

// Serve looks for a free descriptor again after a pause. The pause doubles each time.
const (
	firstLook   = 5 * time.Millisecond
	longestLook = time.Second
)

// Serve calls [Receive] in a loop, and handle with each context and its connection. When handle
// returns, Serve deletes the context, closes the connection and receives the next context. A
// handle that leaves its work to another goroutine must wait for it.
//
// While this process has no descriptor for a connection, Serve waits until one is free. The
// acceptor finds this worker busy. Serve returns nil when the acceptor has closed its
// connection, and otherwise the error of Receive after which it cannot be called again.
func Serve(ctx context.Context, acceptor *net.UnixConn, p gssapi.Provider, handle func(gssapi.SecContext, net.Conn)) error {
	pause := firstLook
	for {
		sc, conn, err := Receive(ctx, acceptor, p)
		var short *shortage
		switch {
		case err == io.EOF: //nolint:errorlint // as Receive has it
			return nil
		case errors.Is(err, ErrRefused): // the acceptor has it back and knows
		case errors.As(err, &short):
			if ctx.Err() != nil {
				_ = acceptor.Close()
				return fmt.Errorf("%w; %w", context.Cause(ctx), err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, longestLook)
			continue
		case err != nil:
			return err
		default:
			serveOne(sc, conn, handle)
		}
		pause = firstLook
	}
}

func serveOne(sc gssapi.SecContext, conn net.Conn, handle func(gssapi.SecContext, net.Conn)) {
	defer conn.Close()
	defer sc.Delete() //nolint:errcheck // its token for the peer is the handler's to send
	handle(sc, conn)
}
