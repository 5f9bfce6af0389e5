// Package spnego is the negotiation mechanism of GSS-API (RFC 4178), also known
// as SPNEGO, as a go-gssapi/v3 Provider over another Provider. It knows object
// identifiers and no mechanism: the inner provider does the authentication.
//
//	mech, err := krb5.New(nil)
//	inner, err := spnego.New(mech, nil)
//	p := secctx.Wrap(inner, sealer) // contexts that go to other processes
//	sc, err := p.AcceptSecContext()
//	out, info, err := sc.Continue(token)
//
// # How a mechanism is chosen
//
// The acceptor takes the first mechanism of the initiator's list that the inner
// provider has. If that is the first of the list, the optimistic token is used
// and no signature of the list is sent. Otherwise the acceptor asks for
// signatures, and the context is established only when the initiator's signature
// over the list, byte for byte as it was received, has been verified. A signature
// that was not asked for is verified too. Mechanisms that the inner provider does
// not have, NTLM and NegoEx among them, are skipped; their tokens are not read.
//
// The object identifier 1.2.840.48018.1.2.2, which Windows sends, stands for
// Kerberos 5 and is echoed.
//
// # Half-open contexts
//
// A negotiation can take more than one token. Until it has ended, a context has
// no names, no flags and no per-message calls, and FullyEstablished is false.
// Programs must look at FullyEstablished before they believe that a peer is
// authenticated. The HTTP handler of go-gssapi/v3 does not look: under that handler
// Continue fails where the negotiation needs a second token. Package negotiate has
// a handler that looks.
//
// An error ends a context for good. The token that comes with an error tells the
// peer that the negotiation was rejected.
//
// [ExportHalf] seals an acceptor's half-open negotiation, and [ImportHalf] takes
// it up in another process of the host.
//
// # What is passed on
//
// Names and credentials are the inner provider's. A [Provider] has the methods of
// every optional interface of go-gssapi. HasExtension reports which of them the
// inner provider has; the others answer GSS_S_UNAVAILABLE. Answers about an
// established context are the inner context's, its mechanism included.
//
// Errors match go-gssapi's error for their GSS status with errors.Is, and the
// inner provider's errors stay in the chain. A Provider and its contexts are safe
// for concurrent use as far as the inner provider's are.
package spnego
