package negotiate

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/golang-auth/go-gssapi/v3"
)

// An Identity is an authenticated client.
type Identity struct {
	Principal string    // as the mechanism writes it: alice@EXAMPLE.TEST
	User      string    // the principal without its realm: alice, or host/www.example.test
	Realm     string    // EXAMPLE.TEST; empty if the mechanism has none
	Expires   time.Time // when the context expires; zero: never
	Bound     bool      // the client is bound to this TLS channel
}

type identityKey struct{}

// From returns the client of a request that an authenticator's handler passed on.
// It is false, and the Identity empty, for every other request.
func From(r *http.Request) (Identity, bool) { return FromContext(r.Context()) }

// FromContext is From for a request's context.
func FromContext(ctx context.Context) (Identity, bool) {
	if id, _ := ctx.Value(identityKey{}).(*Identity); id != nil {
		return *id, true
	}
	return Identity{}, false
}

// withIdentity returns the request with a client in its context. Nil hides one
// that is there already.
func withIdentity(r *http.Request, id *Identity) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), identityKey{}, id))
}

type delegatedKey struct{}

// Delegated returns the credential that the client delegated with this request, nil
// if it did not, or if the client was authenticated by its connection before. It is
// good until the next handler returns: Handler releases it then. To keep it, store or
// export it. The mechanism must be configured to take delegated credentials.
func Delegated(r *http.Request) gssapi.Credential {
	cred, _ := r.Context().Value(delegatedKey{}).(gssapi.Credential)
	return cred
}

var (
	errNoName      = errors.New("the context names no client")
	errAnonymous   = errors.New("the client is anonymous")
	errStrangeName = errors.New("the client's name has control characters")
)

// identity is the client of an established context.
func identity(info *gssapi.SecContextInfoPartial) (*Identity, error) {
	if isNil(info.InitiatorName) {
		return nil, errNoName
	}
	if info.Flags&gssapi.ContextFlagAnon != 0 {
		return nil, errAnonymous
	}
	text, _, err := info.InitiatorName.Display()
	switch {
	case err != nil:
		return nil, err
	case text == "":
		return nil, errNoName
	case strings.ContainsFunc(text, unicode.IsControl):
		return nil, errStrangeName
	}
	id := &Identity{Principal: text, Bound: info.Flags&gssapi.ContextFlagChannelBound != 0}
	id.User, id.Realm = splitPrincipal(text)
	if info.ExpiresAt.Status == gssapi.GssLifetimeAvailable {
		id.Expires = info.ExpiresAt.ExpiresAt
	}
	return id, nil
}

// splitPrincipal takes the realm off a principal: what follows the first '@' that
// no backslash quotes (RFC 1964 section 2.1.1).
func splitPrincipal(text string) (user, realm string) {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '@':
			return text[:i], text[i+1:]
		}
	}
	return text, ""
}
