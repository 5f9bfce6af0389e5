// Package secctx makes any provider of go-gssapi/v3 hand its security contexts to
// other processes of this host in sealed tokens. It is a drop-in: wrap the
// provider, and use it as before.
//
//	sealer, err := seal.OpenHost(nil)
//	inner, err := gssapi.NewProvider("github.com/golang-auth/go-gssapi-c")
//	p := secctx.Wrap(inner, sealer)
//
// From here on a context's Export returns a sealed token. p.ImportSecContext opens
// the token once, in a process of its audience (RFC 2743 2.2.8 and 2.2.9, RFC 2744
// 5.14 and 5.17). [Export] names an audience. [TakeBack] undoes an export while
// nobody has imported the token. [Status] tells how a context and its token stand.
// [Config] has the settings.
//
// # What travels
//
// A token carries what the mechanism puts into its own interprocess token: keys,
// sequence numbers, replay window, names, flags, lifetime. The importer continues the
// message stream where the exporter left it, and may export again.
//
// A context that is half-established or has expired cannot be exported. Delegated
// credentials do not travel with a context (RFC 2743 2.2.8).
//
// # Credentials
//
// A credential that can be exported (GFD.24) is exported sealed too. ImportCredential
// of a wrapped provider opens the token once, and takes nothing else. The audience and
// the lifetime are the Config's; [ExportCredential] names another audience. The
// exporter keeps its credential. A context's token and a credential's have different
// plain formats, so neither can be taken for the other.
//
// # After an export
//
// The handle has no context any more. This package answers every call with
// GSS_S_NO_CONTEXT and does not ask the mechanism. ContinueNeeded is false, and
// Continue begins no second handshake. Names that the handle gave out stay good until
// its Delete. The caller still has to call Delete, which then succeeds, returns no
// token for the peer, and does nothing to the exported context.
//
// # Who wipes what
//
// This package wipes the plain token that the mechanism exports. The plain token that
// it imports lies in locked memory, which is wiped afterwards. Both are wiped too if the
// mechanism panics; the panic passes through. A mechanism has to wipe what it keeps for
// itself: package secctx/krb5 does, C libraries do not (doc/THREATS.md).
//
// A sealed token is no secret. Until it is imported, however, it is worth as much as
// the context: any process of its audience that holds it can import the context.
//
// # What is wrapped
//
// A wrapped provider makes wrapped contexts, and wrapped credentials where these can be
// exported. Names and other credentials are the inner provider's own. A wrapped value
// implements those of go-gssapi's optional interfaces that the inner one implements,
// and no others. No other method of the inner value can be called through it, because
// such a method could lead past the seal.
//
// Results are the inner provider's, with these exceptions:
//
//   - Export, ImportSecContext, ImportCredential, and Continue after an import, are as
//     described here.
//   - InquireByOid refuses inquiries that might return keys. See Config.AllowInquire.
//   - nil without an error becomes an error (GSS_S_FAILURE) where a result is owed.
//     After a token was claimed the error is ErrLost.
//   - A name or credential that is absent is nil in the results of Continue and Inquire.
//     Some providers return nil pointers there, which compare as not nil.
//   - FullyEstablished is false while ContinueNeeded is true.
//   - An acceptor's context names no initiator and hands out no delegated credential
//     before it is established.
//
// Errors match their GSS status through errors.Is. The errors of package seal match as
// themselves too.
//
// # HTTP
//
// Serve HTTP Negotiate with package negotiate, or with a handler that looks at
// FullyEstablished before it calls the next handler and denies a request without an
// initiator name. Do not use the Handler of github.com/golang-auth/go-gssapi/v3/http: up
// to v3.0.2-beta7 it looks at neither, and serves a client that sends half of a
// negotiation.
//
// If that Handler calls Continue of a wrapped acceptor, and the context is not
// established or names no initiator, Continue deletes the context and returns an error
// (GSS_S_NO_CONTEXT). Every other caller gets the half-open context and continues with
// the next leg. A copy of that Handler under another name is not recognised.
//
// # Programs in C
//
// A process that has libsealctx-gss loaded seals contexts below this package. A provider
// that was wrapped in such a process makes and imports no context (ErrSealedBelow).
//
// # HTTP
//
// Package negotiate authenticates HTTP requests. Two other handlers should not be
// used: that of go-gssapi/v3 calls the next handler for half of a negotiation, and
// gokrb5's does not verify the signature of the mechanism list and panics before
// authentication (doc/negotiate.md).
//
// # Concurrency
//
// Everything here is as safe for concurrent use as the inner provider is. Per-message
// calls run side by side. Continue, Inquire, ProcessToken, SetOption, Delete, Export,
// TakeBack and Status wait for the calls under way on the same context and run alone.
package secctx
