// Package seal turns a plain interprocess token of GSS-API into a sealed one
// and back: encrypted and authenticated under this host's key, for one audience,
// for a few minutes, and good for one import.
//
// [OpenHost] is the one way to start: it opens this user's keyring in the
// runtime directory.
//
//	host, err := seal.OpenHost()
//	r, err := host.Reserve(seal.Request{Format: "mit/2/amd64", Mechanism: oid})
//	plain, err := ...                   // only now is the context given up
//	sealed, err := r.Seal(plain)        // wipe plain
//	...
//	secret, err := host.Open(sealed, "mit/2/amd64") // in another process, once
//
// Programs that use contexts through go-gssapi need none of this: package secctx
// does it behind Export and ImportSecContext.
//
// The token's bytes are in doc/SPEC.md. What a sealed token promises, and to
// whom, is in doc/THREATS.md.
package seal
