package negotiate

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// scheme is how the Negotiate scheme is spoken: by a server or by a proxy.
type scheme struct {
	status       int
	credentials  string // the client's header
	authenticate string
}

var (
	origin = scheme{http.StatusUnauthorized, "Authorization", "Www-Authenticate"}
	proxy  = scheme{http.StatusProxyAuthRequired, "Proxy-Authorization", "Proxy-Authenticate"}
)

const schemeName = "Negotiate"

// token is the client's token, of at most max bytes. errNone if the client has no
// credentials of this scheme.
func (s scheme) token(h http.Header, max int) ([]byte, error) {
	values := h[s.credentials]
	switch len(values) {
	case 0:
		return nil, errNone
	case 1:
	default:
		return nil, fmt.Errorf("%d fields %s", len(values), s.credentials)
	}
	name, text, _ := strings.Cut(strings.Trim(values[0], " \t"), " ")
	if !strings.EqualFold(name, schemeName) {
		return nil, errNone
	}
	text = strings.TrimLeft(text, " ")
	if text == "" {
		return nil, errNone // RFC 4559 section 4.2 has no empty credentials
	}
	if len(text) > base64.StdEncoding.EncodedLen(max) {
		return nil, fmt.Errorf("%s of %d characters, more than a token of %d bytes takes", s.credentials, len(text), max)
	}
	token, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("credentials are not base64")
	}
	if len(token) > max {
		return nil, fmt.Errorf("token of %d bytes, at most %d are taken", len(token), max)
	}
	return token, nil
}

// challenge puts a challenge, or the last token, into a response's header.
func (s scheme) challenge(h http.Header, token []byte) {
	value := schemeName
	if len(token) > 0 {
		b := make([]byte, 0, len(schemeName)+1+base64.StdEncoding.EncodedLen(len(token)))
		b = append(b, schemeName+" "...)
		value = string(base64.StdEncoding.AppendEncode(b, token))
	}
	h[s.authenticate] = []string{value}
}
