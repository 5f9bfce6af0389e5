package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/handoff"
)

const (
	// maxHeader bounds a request's header in bytes: room for a token of 64 KiB.
	maxHeader = 128 << 10

	// limit is how long a client may take for its header, and be idle.
	limit = time.Minute

	// listenerFD is the listener, behind the connection to the acceptor.
	listenerFD = 4
)

// An asker asks the acceptor about requests, one at a time.
type asker struct {
	p       gssapi.Provider
	mu      sync.Mutex
	conn    net.Conn
	answers chan []byte // lines
}

// work is a worker.
func work() error {
	p, _, err := provider()
	if err != nil {
		return err
	}
	conn, err := handoff.FromParent()
	if err != nil {
		return err
	}
	file := os.NewFile(listenerFD, "listener")
	l, err := net.FileListener(file)
	if err != nil {
		return err
	}
	_ = file.Close() // the listener has its own
	next, err := pages()
	if err != nil {
		return err
	}
	a := &asker{p: p, conn: conn, answers: make(chan []byte)}
	go a.read()
	s := &http.Server{Handler: a.handler(next), ReadHeaderTimeout: limit, IdleTimeout: limit, MaxHeaderBytes: maxHeader}
	log.Print("process ", os.Getpid(), " of user ", os.Getuid(), " serves")
	if *cert != "" {
		return s.ServeTLS(l, *cert, *key)
	}
	return s.Serve(l)
}

// handler passes requests on whose client the acceptor knows.
func (a *asker) handler(next func(w http.ResponseWriter, r *http.Request, client string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := a.ask(r)
		if err != nil {
			log.Print("asking the acceptor: ", err)
			http.Error(w, "Try again.", http.StatusServiceUnavailable)
			return
		}
		for name, values := range got.Header {
			w.Header()[name] = values
		}
		if got.Context == nil {
			http.Error(w, "Authentication with Kerberos is required.", got.Status)
			return
		}
		client, err := a.client(got.Context)
		if err != nil {
			log.Print("importing a context: ", err)
			http.Error(w, "Try again.", http.StatusServiceUnavailable)
			return
		}
		r.Header.Del("Authorization") // it was used
		next(w, r, client)
	})
}

// read passes the acceptor's answers on. A worker ends with its acceptor.
func (a *asker) read() {
	r := bufio.NewReader(a.conn)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			os.Exit(0)
		}
		a.answers <- line
	}
}

// ask shows the acceptor a request.
func (a *asker) ask(r *http.Request) (*answer, error) {
	q := question{Major: r.ProtoMajor, Remote: r.RemoteAddr, Header: http.Header{}}
	for _, name := range []string{"Authorization", "Cookie"} {
		if v := r.Header[name]; v != nil {
			q.Header[name] = v
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := json.NewEncoder(a.conn).Encode(q); err != nil {
		return nil, err
	}
	got := new(answer)
	return got, json.Unmarshal(<-a.answers, got)
}

// client takes up a client's context and returns who the client is. A program that
// goes on to seal messages for the client would keep the context.
func (a *asker) client(token []byte) (string, error) {
	sc, err := a.p.ImportSecContext(token)
	if err != nil {
		return "", err
	}
	defer sc.Delete() //nolint:errcheck // there is no token for the client
	info, err := sc.Inquire()
	if err != nil {
		return "", err
	}
	if !info.FullyEstablished || info.InitiatorName == nil {
		return "", errors.New("the context names no client")
	}
	name, _, err := info.InitiatorName.Display()
	return name, err
}
