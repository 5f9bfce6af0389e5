package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/sealctx/sealctx/handoff"
	"github.com/sealctx/sealctx/negotiate"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// A question is what a worker shows the acceptor of a request, one line of JSON.
type question struct {
	Major  int
	Header http.Header // the client's credentials and cookies
	Remote string
}

// An answer is what the acceptor says, one line of JSON.
type answer struct {
	Status  int         // of the response if the client is not authenticated
	Header  http.Header // to be added to the response
	Context []byte      // the client's context, sealed for the worker
}

// maxQuestion bounds a question in bytes: the workers take headers of maxHeader.
const maxQuestion = 2 * maxHeader

// restart is how long a worker that ended is not started anew.
const restart = 100 * time.Millisecond

// accept is the acceptor. It tells ready where it listens.
func accept(ctx context.Context, ready func(net.Addr)) error {
	p, sealer, err := provider()
	if err != nil {
		return err
	}
	o := &negotiate.Options{Service: *service, Half: negotiate.Cookie(sealer, ""), Log: slog.Default()}
	if err := bind(o); err != nil {
		return err
	}
	a, err := negotiate.New(p, o)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // at the end
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	file, err := l.(*net.TCPListener).File() // the workers' own
	if err != nil {
		return err
	}
	ready(l.Addr())
	for range *workers {
		go keep(ctx, a, file)
	}
	<-ctx.Done()
	return nil // the workers end with their connection
}

// bind sets what the options have of TLS, which ends in the workers.
func bind(o *negotiate.Options) error {
	modes := map[string]negotiate.Bindings{"ignore": negotiate.Ignore, "ifsent": negotiate.IfSent, "require": negotiate.Require}
	var ok bool
	if o.Bindings, ok = modes[*bindings]; !ok {
		return fmt.Errorf("-bindings %s: it is ignore, ifsent or require", *bindings)
	}
	if *cert == "" {
		return nil
	}
	b, err := os.ReadFile(*cert)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return fmt.Errorf("%s has no certificate in PEM", *cert)
	}
	o.Certificate, err = x509.ParseCertificate(block.Bytes)
	return err
}

// keep has one worker running.
func keep(ctx context.Context, a *negotiate.Authenticator, listener *os.File) {
	for ctx.Err() == nil {
		log.Print("worker: ", run(ctx, a, listener))
		time.Sleep(restart)
	}
}

// run starts a worker and answers its questions until it ends.
func run(ctx context.Context, a *negotiate.Authenticator, listener *os.File) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-agent", *socket, "-cert", *cert, "-key", *key, "-backend", *backend, "worker")
	cmd.Env, cmd.Stderr = append(os.Environ(), "KRB5_KTNAME=/nonexistent"), log.Writer()
	cmd.ExtraFiles = []*os.File{listener}
	if *backend == "" { // a worker that passes requests on needs the network
		handoff.Isolate(cmd, *user, *user)
	}
	conn, err := handoff.Spawn(cmd)
	if err != nil {
		return err
	}
	defer func() {
		_ = conn.Close()
		_ = cmd.Process.Kill() // it has ended, or does not keep to the protocol
		_ = cmd.Wait()
	}()
	to, err := seal.Process(cmd.Process.Pid)
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(conn, maxQuestion)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		var q question
		if err := json.Unmarshal(line, &q); err != nil {
			return err
		}
		if err := json.NewEncoder(conn).Encode(reply(ctx, a, &q, to)); err != nil {
			return err
		}
	}
}

// reply authenticates a request and seals the client's context for the worker.
func reply(ctx context.Context, a *negotiate.Authenticator, q *question, to seal.Party) *answer {
	got := a.Check(&negotiate.Request{Context: ctx, Major: q.Major, Header: q.Header, Remote: q.Remote})
	if got.Identity == nil {
		return &answer{Status: got.Status, Header: got.Header}
	}
	token, err := secctx.Export(got.Context, to)
	_, _ = got.Context.Delete()
	if err != nil {
		log.Print(errors.Join(errors.New("exporting a context"), err))
		return &answer{Status: http.StatusServiceUnavailable}
	}
	return &answer{Header: got.Header, Context: token}
}
