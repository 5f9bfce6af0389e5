// Package seal turns a plain interprocess token of GSS-API into a sealed token, and
// back. A sealed token is encrypted and authenticated under this host's key. It is
// for one audience, for a few minutes, and good for one import.
//
// [OpenHost] opens the keys of this process's user. The recommendation is:
//
//	host, err := seal.OpenHost(nil)
//	r, err := host.Reserve(seal.Request{Format: "mit/2/amd64", Mechanism: oid})
//	plain, err := ...                   // the mechanism gives up the context
//	sealed, err := r.Seal(plain)        // wipe plain
//	...
//	secret, err := host.Open(sealed, "mit/2/amd64") // in another process, once
//
// Programs that use contexts through go-gssapi need none of this: package secctx
// does it behind Export and ImportSecContext. If exporter and importer run as
// different users, use the client of package agent in place of a Host. It has the
// same methods.
//
// The bytes of a token are in doc/SPEC.md. What a sealed token promises, and to
// whom, is in doc/THREATS.md.
package seal
