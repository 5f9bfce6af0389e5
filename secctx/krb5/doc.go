// Package krb5 is the Kerberos 5 mechanism of GSS-API (RFC 4121) in Go alone,
// as a go-gssapi/v3 Provider: it needs no C library, it leaves no key behind
// when a context is exported, deleted or dropped, and its contexts can be
// handed to another process through package secctx.
//
//	p, err := krb5.New(nil)               // or gssapi.NewProvider(krb5.ProviderName)
//	sc, err := p.AcceptSecContext()       // with the keytab of $KRB5_KTNAME
//	out, info, err := sc.Continue(token)
//
// Importing the package registers the provider.
//
// # What it does
//
// Encryption types 17 and 18 (RFC 3962), 19 and 20 (RFC 8009); mutual
// authentication, acceptor subkeys, channel bindings, replay detection and
// sequencing; keytabs that are files; credential caches that are files, in
// directories, at a credential server (KCM) or in the kernel's key rings. It reads
// no krb5.conf and asks no name service. Talking to a KDC is package kdc's, which
// a [Config] brings along where it is wanted.
//
// It does not do DES, triple DES and RC4, user-to-user, and DCE style.
// Authorization data that may be ignored, AD-IF-RELEVANT with a PAC in it
// as KDCs send it, is left alone, neither checked nor refused; any other is
// GSS_S_UNAUTHORIZED (RFC 4120 section 5.2.6), and so are anonymous clients. The
// addresses that a ticket may be restricted to are not compared: an acceptor
// here does not know its peer's, and behind translators they say nothing.
//
// Under GODEBUG=fips140=only types 17 and 18 are refused, since they need SHA-1,
// with an error that says so. Types 19 and 20 work. The hash of the channel
// bindings is MD5, as RFC 4121 has it: it protects nothing by itself.
//
// # Channel bindings
//
// An acceptor ignores channel bindings unless it is given its own. Then it
// refuses clients that bound another channel, and clients that bound none unless
// [Config.BindingsIfSent] is set. gssapi.ContextFlagChannelBound in the context's
// flags says that the bindings were sent and right, before and after an export.
//
// # Delegation
//
// With [Config.AcceptDelegation] an acceptor takes the forwarded ticket that a
// client delegates (RFC 4121 section 4.1.1.1), if it is the authenticated client's
// own; without, the ticket is dropped and the flag not shown. The context's
// information holds the credential. It belongs to the program, which releases it:
// it outlives the context, and no interprocess token holds it.
//
//	cred := info.DelegatedCredential
//	sc, err := p.InitSecContext(backend, gssapi.WithInitiatorCredential(cred)) // as the client; needs a Granter
//	_, _, err = cred.(gssapi.CredentialExtCredStore).StoreInto(nil, gssapi.CredUsageInitiateOnly, true, false, gssapi.WithCredStoreCCache(path))
//	err = cred.Release()
//
// An initiator delegates if it is asked to with gssapi.ContextFlagDeleg, or with
// gssapi.ContextFlagDelegPolicy where the KDC trusts the service with it, its
// Granter is a [Forwarder], and the KDC forwards its ticket. If it cannot, the
// context comes about without, and its flags say so. The service can act as the
// client everywhere: delegate to services that you trust with that.
//
// # Which files count
//
// A keytab or credential cache counts only if root, the effective user or
// [Config.FileOwner] owns it and nobody else can write it; otherwise the error is
// ErrUntrusted. The same holds for a credential server and for keys in a key ring.
// Files are read again when they change. A ticket that was removed
// or has expired stands in the way of no living one. The clock offset that kinit
// keeps in a cache counts. doc/OPERATIONS.md lists where this differs from MIT's
// library, for programs that come from there.
//
// # What an acceptor believes
//
// Who the client is, the KDC says, in a ticket that the service's key opens;
// that it is there now, the authenticator says, whose client name and realm
// must be the ticket's. The ticket's service name is in clear, and a client can
// rewrite it: where two principals of one keytab share a key, as the service
// names of a machine in Active Directory do, a ticket for the one is as good for
// the other. Give them keys of their own where that matters. A ticket that came
// by way of other realms is good where the KDC says that it checked them (RFC 4120
// section 2.7); there is no policy here to check them with.
//
// Authenticators are remembered in a file that the processes of one user on one
// host share, see [Config.ReplayCache]. A full or unusable replay cache refuses
// contexts, those of everybody: a client that can authenticate can fill the
// cache, some 700,000 contexts within the clock skew, and nobody else
// gets in until its records expire. Limit how often one client may try, or give
// [Config.ReplayCapacity] a value to match.
//
// A replay cache that may have forgotten a request refuses it with
// KRB_AP_ERR_REPEAT: a new cache what is older than itself, a process whose cache
// was removed under it everything within the clock skew. The error says what
// happened and how it ends; so does doc/OPERATIONS.md.
//
// The default directory is in
// /var/tmp, where any local user can make it first: it is then refused and with
// it every context, until it is removed. Services configure a directory of
// their own.
//
// # Status
//
// Errors are [*Error]: errors.Is finds go-gssapi's error for the GSS status, and
// the reason, a [Code] of the Kerberos protocol or one of this package's errors.
// What Unwrap and VerifyMIC find wrong with a message is a gssapi.FatalStatus, or
// beside a genuine one a gssapi.InfoStatus, and no *Error: errors.Is works on all.
// An error that Continue returns may come with a token, a KRB-ERROR, to be sent
// to the peer.
//
// # Memory
//
// Keys lie in locked memory (package memsafe) from the moment when they are
// read, decrypted or made; a context takes 256 bytes of it or less, and for as
// long as it lives expanded keys on the heap from its first message on. Wipe
// follows use. A Granter's keys are its own affair, and the
// session key of the ticket-granting ticket passes to it through ordinary memory,
// which is wiped. What Export
// returns holds keys and is the caller's to wipe.
//
// Contexts, credentials and the provider are safe for concurrent use.
package krb5
