package negotiate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

type secretOf = memsafe.Secret

func ticketOf(client string) krb5test.Ticket { return krb5test.Ticket{Client: client} }

// TestCheck authenticates without net/http.
func TestCheck(t *testing.T) {
	r := newRig(t)
	a := r.new(Options{})
	answer := a.Check(&Request{Header: http.Header{}})
	require.Nil(t, answer.Identity)
	require.Equal(t, http.StatusUnauthorized, answer.Status)
	require.Equal(t, []string{"Negotiate"}, answer.Header.Values("WWW-Authenticate"))

	_, token := r.token()
	answer = a.Check(&Request{Header: http.Header{"Authorization": {token}}})
	require.Equal(t, "alice@EXAMPLE.TEST", answer.Identity.Principal)
	require.Zero(t, answer.Status)
	require.NotEmpty(t, decode(t, answer.Header))
	info, err := answer.Context.Inquire()
	require.NoError(t, err)
	require.True(t, info.FullyEstablished)
	_, err = answer.Context.Delete()
	require.NoError(t, err)

	ctx := ConnContext(context.Background(), nil)
	answer = a.Check(&Request{Context: ctx, Header: http.Header{"Authorization": {"Negotiate " + halfToken}}})
	require.True(t, answer.Continued)
	require.Nil(t, answer.Identity)
	require.Nil(t, answer.Context)
	require.Equal(t, http.StatusUnauthorized, answer.Status)
}

// TestManyClients has 256 clients at once, some bound to the channel, some not, some
// with several legs and some that fail. Each gets its own answer.
func TestManyClients(t *testing.T) {
	r := newRig(t)
	cert := certificate(t, x509.ECDSAWithSHA256)
	sealer := host(t)
	a := r.new(Options{Bindings: IfSent, Half: Cookie(sealer, "")})
	client, url := overTLS(t, a.Handler(&page{t: t}), TLSConfig(&tls.Config{Certificates: []tls.Certificate{cert}}), &tls.Config{})
	opts := []gssapi.InitSecContextOption{bound(t, cert)}
	var wg sync.WaitGroup
	for i := range 256 {
		user := fmt.Sprintf("user%d", i)
		cred := r.ticket(ticketOf(user))
		wg.Go(func() {
			switch i % 4 {
			case 0:
				_, token := r.initiate(r.client, cred, service)
				require.Equal(t, user+"@EXAMPLE.TEST", get(t, client, url, auth(encode(token))...).body)
			case 1:
				_, token := r.initiate(r.client, cred, service, opts...)
				require.Equal(t, user+"@EXAMPLE.TEST", get(t, client, url, auth(encode(token))...).body)
			case 2:
				resp := get(t, client, url, auth("Negotiate "+halfToken)...)
				_, request := r.initiate(r.initiator, cred, service)
				resp = get(t, client, url, "Authorization", second(request, nil), "Cookie", resp.cookies[0].Name+"="+resp.cookies[0].Value)
				require.Equal(t, user+"@EXAMPLE.TEST", resp.body)
			case 3:
				_, token := r.initiate(r.client, cred, service)
				require.Equal(t, http.StatusUnauthorized, get(t, client, url, auth(alter(encode(token)))...).status)
			}
		})
	}
	wg.Wait()
}

// FuzzCheck takes any credentials and cookies of a client that has no ticket.
func FuzzCheck(f *testing.F) {
	r := newRig(f)
	a := r.new(Options{Half: Cookie(host(f), "")})
	answer := a.Check(&Request{Header: http.Header{"Authorization": {"Negotiate " + halfToken}}})
	cookie := answer.Header.Get("Set-Cookie")
	f.Add("Negotiate "+halfToken, "")
	f.Add("Negotiate "+ntlmFirst, cookie)
	f.Add(second([]byte("token"), []byte("mic")), cookie)
	f.Add(second(nil, []byte("mic")), "negotiate=AAAA")
	f.Add("negotiate", ";;=;negotiate")
	f.Add("Basic YWxpY2U6cGFzc3dvcmQ=", "negotiate=; negotiate=")
	f.Fuzz(func(t *testing.T, authorization, cookie string) {
		answer := a.Check(&Request{Header: http.Header{"Authorization": {authorization}, "Cookie": {cookie}}})
		if answer.Identity != nil || answer.Context != nil || answer.Status != http.StatusUnauthorized {
			t.Fatalf("without a ticket: %+v", answer)
		}
		if len(answer.Header["Www-Authenticate"]) != 1 {
			t.Fatalf("challenges: %v", answer.Header)
		}
	})
}
