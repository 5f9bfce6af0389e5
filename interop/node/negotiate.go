package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/golang-auth/go-gssapi/v3"
	ghttp "github.com/golang-auth/go-gssapi/v3/http"
)

// hello makes the first token of a SPNEGO negotiation with a service.
func (n *node) hello(args []string) (string, error) {
	name, err := n.provider.ImportName(args[0], gssapi.GSS_NT_HOSTBASED_SERVICE)
	if err != nil {
		return "", err
	}
	defer name.Release()
	sc, err := n.provider.InitSecContext(name, gssapi.WithInitiatorMech(gssapi.GSS_MECH_SPNEGO), gssapi.WithInitiatorFlags(gssapi.ContextFlagInteg))
	if err != nil {
		return "", err
	}
	defer sc.Delete()
	token, _, err := sc.Continue(nil)
	return hex.EncodeToString(token), err
}

// negotiate sends a token, as an HTTP client does, to go-gssapi's own handler over
// this node's provider. It answers "STATUS USER" where the next handler was
// called, "STATUS refused" where it was not, and "panic" where net/http had to
// recover from the handler.
func (n *node) negotiate(args []string) (string, error) {
	token, err := hex.DecodeString(args[0])
	if err != nil {
		return "", err
	}
	user := "refused"
	h, err := ghttp.NewHandler(n.provider, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := ghttp.GetInitiatorName(r)
		user = fmt.Sprintf("%q-%t", name.PrincipalName, ok)
	}))
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(l)
	defer server.Close()
	r, err := http.NewRequest(http.MethodGet, "http://"+l.Addr().String(), nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Negotiate "+base64.StdEncoding.EncodeToString(token))
	client := &http.Client{Timeout: patience}
	answer, err := client.Do(r)
	if err != nil {
		return "panic", nil // net/http closed the connection
	}
	defer answer.Body.Close()
	return fmt.Sprint(answer.StatusCode, " ", user), nil
}
