// Command webbench measures an authenticated HTTP request: mutual authentication,
// established for each request. It runs inside a private realm, see withkdc.
//
//	webbench cpu ours|mit|gokrb5 N    CPU time in a handler, nanoseconds a request:
//	                                  package negotiate over secctx/krb5, the same over
//	                                  MIT's library, gokrb5's handler
//	webbench rate ours|apache N       N requests by 8 clients to a server, Apache with
//	                                  mod_auth_gssapi or package negotiate: nanoseconds a request
//
// Tokens are made before the clock starts.
package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	gokeytab "github.com/jcmturner/gokrb5/v8/keytab"
	goservice "github.com/jcmturner/gokrb5/v8/service"
	gospnego "github.com/jcmturner/gokrb5/v8/spnego"

	gssapic "github.com/golang-auth/go-gssapi-c"

	"github.com/sealctx/sealctx/negotiate"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/kdc"
	"github.com/sealctx/sealctx/secctx/spnego"
)

// service is one of the realm that withkdc makes, and principal the same.
const (
	service   = "e18@localhost"
	principal = "e18/localhost"
	clients   = 8

	// settled is how old a keytab must be to be taken for one that does not
	// change: the realm has just made it.
	settled = 3 * time.Second
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "webbench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "serve" {
		return serve()
	}
	if len(args) != 3 {
		return errors.New("usage: webbench cpu|rate KIND N")
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	var ns float64
	switch args[0] {
	case "cpu":
		ns, err = cpu(args[1], n)
	case "rate":
		ns, err = rate(args[1], n)
	default:
		err = errors.New("cpu or rate")
	}
	if err == nil {
		fmt.Printf("%.0f\n", ns)
	}
	return err
}

// tokens are values of Authorization, each for a context of its own.
func tokens(n int) ([]string, error) {
	granter, err := kdc.New("")
	if err != nil {
		return nil, err
	}
	mech, err := krb5.New(&krb5.Config{Granter: granter})
	if err != nil {
		return nil, err
	}
	p, err := spnego.New(mech, nil)
	if err != nil {
		return nil, err
	}
	cred, err := p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateOnly, nil)
	if err != nil {
		return nil, err
	}
	name, err := p.ImportName(service, gssapi.GSS_NT_HOSTBASED_SERVICE)
	if err != nil {
		return nil, err
	}
	all := make([]string, n)
	for i := range all {
		sc, err := p.InitSecContext(name, gssapi.WithInitiatorCredential(cred), gssapi.WithInitiatorFlags(gssapi.ContextFlagMutual|gssapi.ContextFlagInteg))
		if err != nil {
			return nil, err
		}
		token, _, err := sc.Continue(nil)
		if err != nil {
			return nil, err
		}
		_, _ = sc.Delete()
		all[i] = "Negotiate " + base64.StdEncoding.EncodeToString(token)
	}
	return all, nil
}

var page = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the page\n") })

// handler is a handler of a kind, around the page.
func handler(kind string) (http.Handler, error) {
	var p gssapi.Provider
	switch kind {
	case "ours":
		mech, err := krb5.New(nil)
		if err != nil {
			return nil, err
		}
		if p, err = spnego.New(mech, nil); err != nil {
			return nil, err
		}
	case "mit":
		var err error
		if p, err = gssapi.NewProvider(gssapic.LIBID); err != nil {
			return nil, err
		}
	case "gokrb5":
		kt, err := gokeytab.Load(strings.TrimPrefix(os.Getenv("KRB5_KTNAME"), "FILE:"))
		if err != nil {
			return nil, err
		}
		return gospnego.SPNEGOKRB5Authenticate(page, kt, goservice.KeytabPrincipal(principal), goservice.DecodePAC(false),
			goservice.Logger(log.New(io.Discard, "", 0))), nil
	default:
		return nil, fmt.Errorf("no handler %q", kind)
	}
	a, err := negotiate.New(p, &negotiate.Options{Service: service})
	if err != nil {
		return nil, err
	}
	return a.Handler(page), nil
}

// response is a response that goes nowhere.
type response struct {
	header http.Header
	status int
}

func (r *response) Header() http.Header         { return r.header }
func (r *response) Write(b []byte) (int, error) { return len(b), nil }
func (r *response) WriteHeader(status int)      { r.status = status }

// cpu is the CPU time of a handler for each of n requests, all threads of this
// process together.
func cpu(kind string, n int) (float64, error) {
	h, err := handler(kind)
	if err != nil {
		return 0, err
	}
	values, err := tokens(n + n/10)
	if err != nil {
		return 0, err
	}
	time.Sleep(settled) // of every kind, so that they are alike
	var before time.Duration
	for i, v := range values {
		if i == n/10 { // warm
			before = used()
		}
		r, err := http.NewRequest(http.MethodGet, "http://localhost/", nil) //nolint:noctx // in this process
		if err != nil {
			return 0, err
		}
		r.RemoteAddr = "127.0.0.1:1234"
		r.Header.Set("Authorization", v)
		w := &response{header: http.Header{}, status: http.StatusOK}
		h.ServeHTTP(w, r)
		if w.status != http.StatusOK {
			return 0, fmt.Errorf("request %d: %d", i, w.status)
		}
	}
	return float64(used()-before) / float64(n), nil
}

func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serve is a server of package negotiate. It prints its address.
func serve() error {
	h, err := handler("ours")
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return (&http.Server{Handler: h, ReadHeaderTimeout: time.Minute}).Serve(l)
}

// rate sends n requests to a server, and returns the time by the number of them.
func rate(kind string, n int) (float64, error) {
	values, err := tokens(n)
	if err != nil {
		return 0, err
	}
	start := startServer
	if kind == "apache" {
		start = startApache
	} else if kind != "ours" {
		return 0, fmt.Errorf("no server %q", kind)
	}
	addr, stop, err := start()
	if err != nil {
		return 0, err
	}
	defer stop()
	if err := await(addr); err != nil {
		return 0, err
	}
	var wg sync.WaitGroup
	errs := make([]error, clients)
	begin := time.Now()
	for i := range clients {
		wg.Go(func() { errs[i] = send(addr, values[i*n/clients:(i+1)*n/clients]) })
	}
	wg.Wait()
	return float64(time.Since(begin)) / float64(n), errors.Join(errs...)
}

// send sends requests over one connection.
func send(addr string, values []string) error {
	c := &http.Client{Transport: &http.Transport{}, Timeout: 5 * time.Minute}
	defer c.CloseIdleConnections()
	for _, v := range values {
		r, err := http.NewRequest(http.MethodGet, "http://"+addr+"/", nil) //nolint:noctx // it has a timeout
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", v)
		resp, err := c.Do(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d, error %w", resp.StatusCode, err)
		}
	}
	return nil
}

// await waits until a server takes connections.
func await(addr string) error {
	var err error
	for range 1000 {
		var c net.Conn
		if c, err = net.Dial("tcp", addr); err == nil {
			return c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}
