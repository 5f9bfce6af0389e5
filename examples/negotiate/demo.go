package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
	"github.com/sealctx/sealctx/secctx/spnego"
)

// visitor is the demonstration's client, alice, with a ticket.
type visitor struct {
	url, cookie string
	mech        *krb5.Provider
	alice       gssapi.Credential
	service     gssapi.GssName
}

// demo runs the server for a realm without a KDC, and a client that shows what it
// answers.
func demo(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	dir, err := os.MkdirTemp("/dev/shm", "negotiate-demo-") // tmpfs, for the keys
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "HTTP/localhost")
	if err != nil {
		return err
	}
	keytab := filepath.Join(dir, "keytab")
	if err := realm.WriteKeytab(keytab); err != nil {
		return err
	}
	for name, value := range map[string]string{"KRB5_KTNAME": keytab, "KRB5RCACHEDIR": dir + "/replay", "SEALCTX_DIR": dir + "/keys"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	log.SetOutput(io.Discard)
	*addr, *service = "localhost:0", "HTTP@localhost"
	at, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() { ended <- accept(ctx, func(a net.Addr) { at <- a }) }()
	select {
	case err := <-ended:
		return err
	case a := <-at:
		v := &visitor{url: "http://" + a.String()}
		err = errors.Join(v.become(realm), v.show(ctx))
	}
	stop()
	return errors.Join(err, <-ended)
}

func (v *visitor) become(realm *krb5test.Realm) (err error) {
	if v.mech, err = krb5.New(nil); err != nil {
		return err
	}
	if v.alice, err = realm.Initiator(v.mech, "alice"); err != nil {
		return err
	}
	v.service, err = v.mech.ImportName("HTTP@localhost", gssapi.GSS_NT_HOSTBASED_SERVICE)
	return err
}

// show sends the requests.
func (v *visitor) show(ctx context.Context) error {
	negotiated, err := spnego.New(v.mech, nil)
	if err != nil {
		return err
	}
	whole, err := v.token(negotiated)
	if err != nil {
		return err
	}
	// A client that offers Kerberos and sends its token in a second request.
	half, _ := base64.StdEncoding.DecodeString("YBsGBisGAQUFAqARMA+gDTALBgkqhkiG9xIBAgI=")
	rest, err := v.token(v.mech)
	if err != nil {
		return err
	}
	for _, tag := range []byte{0x04, 0xa2, 0x30, 0xa1} { // a NegTokenResp
		rest = append([]byte{tag, 0x82, byte(len(rest) >> 8), byte(len(rest))}, rest...)
	}
	for _, step := range []struct {
		what  string
		token []byte
	}{
		{"no credentials", nil},
		{"alice's ticket", whole},
		{"the same token again", whole},
		{"half of a negotiation", half},
		{"the other half", rest},
		{"the other half again", rest},
	} {
		answer, err := v.get(ctx, step.token)
		if err != nil {
			return err
		}
		fmt.Printf("%-24s %s\n", step.what, answer)
	}
	return nil
}

// token is alice's first token.
func (v *visitor) token(p gssapi.Provider) ([]byte, error) {
	sc, err := p.InitSecContext(v.service, gssapi.WithInitiatorCredential(v.alice), gssapi.WithInitiatorFlags(gssapi.ContextFlagMutual))
	if err != nil {
		return nil, err
	}
	token, _, err := sc.Continue(nil)
	return token, err
}

var (
	whoTold = regexp.MustCompile(`<h1>(.*)</h1>`)
	process = regexp.MustCompile(`answered by</dt><dd>(process \d+)`)
)

// get sends a request over a connection of its own, so that any worker gets it.
func (v *visitor) get(ctx context.Context, token []byte) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url, nil)
	if err != nil {
		return "", err
	}
	r.Close = true
	r.Header.Set("Cookie", v.cookie)
	if token != nil {
		r.Header.Set("Authorization", "Negotiate "+base64.StdEncoding.EncodeToString(token))
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	answer := resp.Status
	for _, c := range resp.Cookies() {
		if c.Value != "" {
			v.cookie = c.Name + "=" + c.Value
			answer += fmt.Sprintf(", and a cookie for %d seconds", c.MaxAge)
		}
	}
	if who := whoTold.FindSubmatch(body); who != nil {
		answer += fmt.Sprintf(", %s: %s", process.FindSubmatch(body)[1], who[1])
	}
	return answer, nil
}
