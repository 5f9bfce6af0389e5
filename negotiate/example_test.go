package negotiate_test

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"time"

	"github.com/sealctx/sealctx/negotiate"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/spnego"
)

// A server whose worker processes share a listener: a negotiation goes on in any of
// them.
func Example() {
	mech, err := krb5.New(&krb5.Config{BindingsIfSent: true})
	if err != nil {
		log.Fatal(err)
	}
	p, err := spnego.New(mech, &spnego.Config{Raw: true})
	if err != nil {
		log.Fatal(err)
	}
	host, err := seal.OpenHost(nil)
	if err != nil {
		log.Fatal(err)
	}
	a, err := negotiate.New(p, &negotiate.Options{
		Half:     negotiate.Cookie(host, ""),
		Bindings: negotiate.IfSent,
		Authorize: func(_ *http.Request, id negotiate.Identity) error {
			if id.Realm != "EXAMPLE.TEST" {
				return errors.New("a client of another realm")
			}
			return nil
		},
		Log: slog.Default(),
	})
	if err != nil {
		log.Fatal(err)
	}
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := negotiate.From(r)
		fmt.Fprintf(w, "You are %s.\n", id.Principal)
	})
	server := &http.Server{
		Addr:              ":8080",
		Handler:           a.Handler(page),
		ConnContext:       negotiate.ConnContext,
		MaxHeaderBytes:    128 << 10,
		ReadHeaderTimeout: time.Minute,
	}
	log.Fatal(server.ListenAndServe())
}
