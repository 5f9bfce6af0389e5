package negotiate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"

	"github.com/golang-auth/go-gssapi/v3"
)

// Handler returns a handler that authenticates requests and passes them on to next,
// with the client in the request's context, see [From]. The next handler does not
// see the client's token. Its response has the last token of mutual authentication
// in its header.
func (a *Authenticator) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, next) })
}

func (a *Authenticator) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	answer := a.Check(&Request{Context: r.Context(), Major: r.ProtoMajor, Header: r.Header, TLS: r.TLS, Remote: r.RemoteAddr})
	h := w.Header()
	for name, values := range answer.Header {
		h[name] = append(h[name], values...)
	}
	if answer.Identity == nil {
		a.refuse(w, r, answer)
		return
	}
	if answer.Context != nil {
		r = a.withoutToken(r)
	}
	id := *answer.Identity // the handlers' own
	r = withIdentity(r, &id)
	if answer.Delegated != nil {
		defer release(answer.Delegated)
		r = r.WithContext(context.WithValue(r.Context(), delegatedKey{}, answer.Delegated))
	}
	if a.o.Authorize != nil {
		if err := a.o.Authorize(r, id); err != nil {
			end(answer.Context)
			a.log.LogAttrs(r.Context(), slog.LevelInfo, "client not authorized", slog.String("remote", r.RemoteAddr),
				slog.String("principal", id.Principal), slog.String("reason", err.Error()))
			text(w, http.StatusForbidden, fmt.Sprintf("You are authenticated as %s, who may not use this.\n", id.Principal))
			return
		}
	}
	switch {
	case answer.Context == nil:
	case a.o.Established != nil:
		a.o.Established(w, r, answer.Context)
	default:
		defer end(answer.Context)
	}
	next.ServeHTTP(w, r)
}

func end(sc gssapi.SecContext) {
	if sc != nil {
		_, _ = sc.Delete() // the client is told nothing by it
	}
}

// refuse answers a request that is not authenticated.
func (a *Authenticator) refuse(w http.ResponseWriter, r *http.Request, answer *Answer) {
	if a.o.Fallback == nil || answer.Continued {
		text(w, answer.Status, "Authentication with Kerberos is required.\n")
		return
	}
	if _, ok := From(r); ok { // of another authenticator around this one
		r = withIdentity(r, nil)
	}
	if _, err := a.scheme.token(r.Header, a.o.MaxToken); !errors.Is(err, errNone) {
		r = a.withoutToken(r)
	}
	a.o.Fallback.ServeHTTP(w, r)
}

func text(w http.ResponseWriter, status int, body string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // the client may be gone
}

// withoutToken returns the request without the credentials that were used. A
// handler that passes requests on must not pass a ticket on.
func (a *Authenticator) withoutToken(r *http.Request) *http.Request {
	other := *r
	other.Header = make(http.Header, len(r.Header))
	for name, values := range r.Header {
		if name != a.scheme.credentials {
			other.Header[name] = slices.Clip(values)
		}
	}
	return &other
}
