// Package web has no code of its own: its tests let HTTP clients and Kerberos
// libraries of other makers talk to packages secctx/spnego and negotiate, and put
// Apache with mod_auth_gssapi beside them.
package web
