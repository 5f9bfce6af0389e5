// Package secctx makes any provider of go-gssapi/v3 hand its security contexts
// to other processes of this host in sealed tokens. It is a drop-in: wrap the
// provider, and use it as before.
//
//	sealer, err := seal.OpenHost()
//	inner, err := gssapi.NewProvider("github.com/golang-auth/go-gssapi-c")
//	p := secctx.Wrap(inner, sealer)
//
// From here on Export of a context gives a sealed token, and p.ImportSecContext
// opens one, once, in whichever process it is meant for (RFC 2743 2.2.8 and
// 2.2.9, RFC 2744 5.14 and 5.17). [Export] names an audience; [TakeBack] undoes
// an export that nobody imported, and [Outstanding] tells whether it could.
// [Config] has what can be set.
//
// # What travels
//
// Whatever the mechanism puts into its own interprocess token: keys, sequence
// numbers, replay window, names, flags, lifetime. The importer goes on in the
// middle of the message stream, and may export again. Delegated credentials do
// not travel (RFC 2743 2.2.8): what is to be done with one is to be done before.
// Neither does a half-established context, nor one that has expired.
//
// # After an export
//
// The handle has no context: every call on it is answered GSS_S_NO_CONTEXT by
// this package, and the mechanism is not asked. ContinueNeeded is false, Continue
// begins no second handshake, Delete succeeds, sends nothing to the peer, and
// does nothing to the exported context. Names that the handle gave out before
// stay good until its Delete, which is still to be called.
//
// # Who wipes what
//
// This package wipes the plain token that the mechanism exports, and the one
// that it imports lies in locked memory that is wiped after; also when the
// mechanism panics, which passes through. What a mechanism keeps for itself it
// must wipe itself: package secctx/krb5 does, C libraries do not (doc/THREATS.md).
// A sealed token is no secret, but until it is imported it is the context: who
// is of its audience and has it, has the context.
//
// # What is wrapped
//
// Security contexts. Names and credentials are the inner provider's own, and a
// credential that can be exported (GFD.24) is exported as the inner provider does
// it. A wrapped provider or context implements those of go-gssapi's optional
// interfaces that the inner one implements, and no others; other methods are not
// passed on. There is no way from a wrapped context to the inner one, since it
// would lead past the seal; whoever needs the inner provider has it already.
// Answers are the inner one's, except that
//
//   - Export, ImportSecContext and Continue after an import, are as described;
//   - InquireByOid refuses what may return keys, see Config.AllowInquire;
//   - nil without an error is an error (GSS_S_FAILURE), where the inner one owes a
//     result; after a token was claimed it is ErrLost;
//   - a name or credential that is not there is nil in the results of Continue
//     and Inquire, where some providers return nil pointers that compare as
//     not nil. FullyEstablished is false as long as ContinueNeeded is true, and an
//     acceptor's context names no initiator and gives no delegated credential
//     before it is established.
//
// # HTTP
//
// Serve HTTP Negotiate with a handler that looks at FullyEstablished before it
// calls the next handler, and that denies a request without an initiator name.
// Do not use the Handler of github.com/golang-auth/go-gssapi/v3/http: up to
// v3.0.2-beta7 it looks at neither, and serves a client that sends half of a
// negotiation. Under that Handler, Continue of a wrapped acceptor returns an
// error (GSS_S_NO_CONTEXT) and deletes a context that is not established or names
// no initiator. Every other caller gets the half-open context and goes on with
// the next leg. A copy of that Handler under another name is not recognised.
//
// Errors carry GSS statuses for errors.Is, and those of package seal match as
// themselves too.
//
// # Concurrency
//
// Everything here is safe for concurrent use as far as the inner provider is.
// Per-message calls run side by side; Continue, Inquire, ProcessToken, SetOption,
// Delete, Export and TakeBack wait for the calls under way on the same context
// and run alone.
package secctx
