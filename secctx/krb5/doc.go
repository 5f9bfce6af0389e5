// Package krb5 is the Kerberos 5 mechanism of GSS-API (RFC 4121) in Go alone, as a
// go-gssapi/v3 Provider. It needs no C library. It leaves no key behind when a
// context is exported, deleted or dropped. Package secctx hands its contexts to
// other processes.
//
//	p, err := krb5.New(nil)               // or gssapi.NewProvider(krb5.ProviderName)
//	sc, err := p.AcceptSecContext()       // with the keytab of $KRB5_KTNAME
//	out, info, err := sc.Continue(token)
//
// Importing the package registers the provider. Contexts, credentials and the
// provider are safe for concurrent use.
//
// # What it does
//
//   - Encryption types 17 and 18 (RFC 3962), 19 and 20 (RFC 8009).
//   - Mutual authentication, acceptor subkeys, channel bindings, delegation, replay
//     detection and sequencing.
//   - Keytabs in files. Credential caches in files, in directories, at a credential
//     server (KCM), and in the kernel's key rings.
//
// It does not do DES, triple DES and RC4, user-to-user authentication, and DCE
// style. It reads no krb5.conf and asks no name service. A [Granter] talks to the
// KDC: package kdc has one.
//
// Anonymous clients are GSS_S_UNAUTHORIZED. So is authorization data that must be
// understood (RFC 4120 section 5.2.6). AD-IF-RELEVANT may be ignored: a PAC inside
// is neither checked nor refused. Addresses in a ticket are not compared, since an
// acceptor does not know its peer's.
//
// Under GODEBUG=fips140=only types 17 and 18 are refused, because they need SHA-1.
// The error says so. Types 19 and 20 work. The hash of the channel bindings is MD5,
// as RFC 4121 demands: it protects nothing by itself.
//
// # Channel bindings
//
// An acceptor ignores channel bindings unless it is given its own. With its own, it
// refuses a client that bound another channel. It also refuses a client that bound
// none, unless [Config.BindingsIfSent] is set. gssapi.ContextFlagChannelBound among
// the context's flags says that the client sent bindings and that they are right.
//
// # Delegation
//
// With [Config.AcceptDelegation] an acceptor takes the forwarded ticket that a
// client delegates (RFC 4121 section 4.1.1.1). The ticket must be the authenticated
// client's own. Without that option the ticket is dropped and the flag not shown.
//
// The credential is in the context's information. The program owns it and releases
// it. It outlives the context, and no interprocess token holds it. Its own Export
// (gssapi.CredentialExtGGF) takes it to another process: package secctx seals that.
//
//	cred := info.DelegatedCredential
//	sc, err := p.InitSecContext(backend, gssapi.WithInitiatorCredential(cred)) // as the client; needs a Granter
//	_, _, err = cred.(gssapi.CredentialExtCredStore).StoreInto(nil, gssapi.CredUsageInitiateOnly, true, false, gssapi.WithCredStoreCCache(path))
//	err = cred.Release()
//
// An initiator delegates if
//
//   - it is asked to, by gssapi.ContextFlagDeleg, or by
//     gssapi.ContextFlagDelegPolicy if the KDC trusts the service with it,
//   - its Granter is a [Forwarder], and
//   - the KDC forwards the client's ticket.
//
// Otherwise the context comes about without, and its flags say so. The service can
// act as the client everywhere: delegate only to services that you trust with that.
//
// # Which files count
//
// A keytab or credential cache counts only if root, the effective user or
// [Config.FileOwner] owns it and no other user can write it. Otherwise the error is
// ErrUntrusted. The same holds for a credential server and for keys in a key ring.
//
// Files are read again when they change. Tickets that were removed or have expired
// are passed over. The clock offset that kinit keeps in a cache counts.
// doc/OPERATIONS.md lists the differences from MIT's library.
//
// # What an acceptor believes
//
// The ticket is the KDC's word for who the client is. The authenticator proves that
// the client is there now. Its client name and realm must be the ticket's.
//
// The service name beside the ticket is in clear, and a client can rewrite it. If two
// principals of a keytab share a key, a ticket for one is good for the other. The
// service names of a machine in Active Directory share a key. Use separate keys if
// that matters.
//
// A ticket that came by way of other realms is accepted if the KDC says that it
// checked them (RFC 4120 section 2.7). There is no other policy for realms.
//
// # Replays
//
// Accepted requests are recorded in a file that the processes of one user on one
// host share, see [Config.ReplayCache].
//
// A full or unusable replay cache refuses all contexts. A client that can
// authenticate can fill the cache, with some 700,000 contexts within the clock skew.
// Limit how often one client may try, or raise [Config.ReplayCapacity].
//
// A replay cache that may have forgotten a request refuses it with
// KRB_AP_ERR_REPEAT. A new cache refuses requests that are older than itself. A
// process whose cache was removed refuses all requests for as long as the clock
// skew. The error and doc/OPERATIONS.md say what happened and how it ends.
//
// The default directory is in /var/tmp. Another local user can make it first: then it
// is refused, and every context with it, until it is removed. Services configure a
// directory of their own.
//
// # Status
//
// Errors are [*Error]. errors.Is finds go-gssapi's error for the GSS status, and the
// reason: a [Code] of the Kerberos protocol or one of this package's errors. An error
// of Continue may come with a token, a KRB-ERROR for the peer.
//
// Errors of Unwrap and VerifyMIC are a gssapi.FatalStatus, or a gssapi.InfoStatus
// beside a genuine message, and no *Error. errors.Is works on all of them.
//
// # Memory
//
// Keys lie in locked memory (package memsafe) from the moment when they are read,
// decrypted or made. A context takes at most 256 bytes of it, and from its first
// message on expanded keys on the heap. Keys are wiped after their last use.
//
// Export returns the context's keys in ordinary memory: the caller wipes them. A
// Granter's keys are outside this promise. The session key of the ticket-granting
// ticket passes to it through ordinary memory, which is wiped.
package krb5
