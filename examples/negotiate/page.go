package main

import (
	"html/template"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
)

// pages returns what authenticated clients get: the page, or the backend's answer.
func pages() (func(http.ResponseWriter, *http.Request, string), error) {
	if *backend == "" {
		return page, nil
	}
	u, err := url.Parse(*backend)
	if err != nil {
		return nil, err
	}
	return passOn(u), nil
}

var pageTemplate = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Who you are</title>
<style>
	body { font: 17px/1.5 system-ui, sans-serif; margin: 3em auto; max-width: 34em; padding: 0 1em; color: #1d2733 }
	h1 { font-size: 1.6em; font-weight: 600; margin-bottom: .2em }
	dl { display: grid; grid-template-columns: 9em 1fr; gap: .3em 1em; border-top: 1px solid #c8d0d8; padding-top: 1em }
	dt { color: #5a6672 } dd { margin: 0 }
</style>
<h1>You are {{.Client}}.</h1>
<p>Your browser said so with a Kerberos ticket. No password was sent.</p>
<dl>
	<dt>answered by</dt><dd>process {{.Process}}, which has no keytab</dd>
	<dt>context from</dt><dd>process {{.Acceptor}}, sealed, for this request</dd>
	<dt>protocol</dt><dd>{{.Protocol}}{{if .TLS}} over TLS{{end}}</dd>
</dl>
</html>
`))

// page says who the client is and which process answers.
func page(w http.ResponseWriter, r *http.Request, client string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	h.Set("Cache-Control", "no-store")
	err := pageTemplate.Execute(w, map[string]any{
		"Client": client, "Process": os.Getpid(), "Acceptor": os.Getppid(), "Protocol": r.Proto, "TLS": r.TLS != nil,
	})
	if err != nil {
		log.Print(r.RemoteAddr, ": ", err)
	}
}

// remoteUser is the header field that tells the backend who the client is.
const remoteUser = "X-Remote-User"

// passOn is the reverse proxy.
func passOn(u *url.URL) func(http.ResponseWriter, *http.Request, string) {
	return func(w http.ResponseWriter, r *http.Request, client string) {
		p := &httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(u)
			pr.SetXForwarded()
			for name := range pr.Out.Header {
				if means(name, remoteUser) {
					delete(pr.Out.Header, name)
				}
			}
			pr.Out.Trailer = nil // fields behind the body count as header fields too
			pr.Out.Header.Set(remoteUser, client)
		}}
		p.ServeHTTP(w, r)
	}
}

// means reports whether a backend may take one header field for another: many
// frameworks do not tell '_' from '-', nor upper case from lower.
func means(name, field string) bool {
	return strings.EqualFold(strings.ReplaceAll(name, "_", "-"), field)
}
