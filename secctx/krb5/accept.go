package krb5

import (
	"errors"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/rcache"
)

// peerFlags are the context flags that an initiator's checksum can set here.
// Delegation is not among them: it is a fact once a credential is there.
const peerFlags = gssapi.ContextFlagMutual | gssapi.ContextFlagReplay | gssapi.ContextFlagSequence |
	gssapi.ContextFlagConf | gssapi.ContextFlagInteg | gssapi.ContextFlagIdentify

// accept takes the initiator's token, establishes the context and returns the
// AP-REP, where mutual authentication was asked for. With an error comes a
// KRB-ERROR for the peer, if the token was an AP-REQ. The gate is held.
func (c *secContext) accept(tok []byte) ([]byte, error) {
	req, err := parseInitial(tok)
	if err != nil {
		return nil, err
	}
	a := &acceptance{p: c.p, setup: c.setup, req: req, now: c.p.now()}
	defer a.wipe()
	out, err := a.run(c)
	if err != nil {
		return a.errorToken(err), err
	}
	return out, nil
}

func parseInitial(tok []byte) (*kmsg.APReq, error) {
	id, msg, err := kmsg.ParseToken(tok)
	if err != nil {
		return nil, tokenError(err)
	}
	if id != kmsg.TokenAPReq {
		return nil, failf(gssapi.ErrDefectiveToken, "%w: context token %04x", KRB_AP_ERR_MSG_TYPE, uint16(id))
	}
	req, err := kmsg.ParseAPReq(msg)
	if err != nil {
		return nil, tokenError(err)
	}
	if req.Options&kmsg.OptUseSessionKey != 0 {
		return nil, fail(gssapi.ErrUnavailable, KRB_AP_ERR_USER_TO_USER_RQ)
	}
	return req, nil
}

// acceptance is one AP-REQ on its way. What it decrypts lies in locked memory
// and is wiped at the end.
type acceptance struct {
	p     *Provider
	setup *setup
	req   *kmsg.APReq
	now   time.Time

	ticketMem, authMem *memsafe.Secret
	ticket             *kmsg.TicketPart
	auth               *kmsg.Authenticator
	sum                kmsg.GSSChecksum
	service            kmsg.Principal // of the key that opened the ticket
	bound              bool           // the channel bindings are the client's too
	delegated          *credential    // until the context has it
}

func (a *acceptance) wipe() {
	_ = a.delegated.Release()
	a.ticketMem.Wipe()
	a.authMem.Wipe()
}

// run checks in the order of RFC 4120 section 3.2.3. The replay cache comes
// last, so that only what would be accepted is recorded.
func (a *acceptance) run(c *secContext) ([]byte, error) {
	own, err := a.p.acceptorCredential(a.setup.cred)
	if err != nil {
		return nil, err
	}
	if a.setup.cred == nil {
		defer own.Release()
	}
	cred, _, err := own.parts()
	if err != nil {
		return nil, err
	}
	if cred == nil {
		return nil, failf(gssapi.ErrNoCred, "the credential is an initiator's")
	}
	for _, step := range []func() error{
		func() error { return a.openTicket(cred) },
		a.checkTicket, a.openAuthenticator, a.checkAuthenticator, a.checkChecksum, a.takeDelegated,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if err := a.record(cred); err != nil {
		return nil, err
	}
	return a.answer(c)
}

// acceptorCredential returns cred, or without one that of the configured keytab.
func (p *Provider) acceptorCredential(cred gssapi.Credential) (*credential, error) {
	if cred != nil {
		return cred.(*credential), nil // checked by ownCredential
	}
	return p.acquire(nil, nil, gssapi.CredUsageAcceptOnly, nil)
}

// openTicket decrypts the ticket with the keytab's key for exactly the service,
// key version and encryption type that it names.
func (a *acceptance) openTicket(cred *acceptorCred) error {
	t := &a.req.Ticket
	if !a.p.permits(t.Enc.EType) {
		return fail(gssapi.ErrFailure, a.p.unsupported("ticket", t.Enc.EType))
	}
	if len(t.Enc.Cipher) == 0 {
		return fail(gssapi.ErrBadMic, KRB_AP_ERR_BAD_INTEGRITY)
	}
	var plain []byte
	err := cred.keys.use(func(entries []keytab.Entry) error {
		keys, err := a.candidates(cred, entries)
		if err != nil {
			return err
		}
		// Only now, so that nobody takes locked memory by naming any service.
		if a.ticketMem, err = a.p.arena.alloc(len(t.Enc.Cipher)); err != nil {
			return err
		}
		plain, err = a.tryKeys(keys)
		return err
	})
	if err != nil {
		return err
	}
	if a.ticket, err = kmsg.ParseTicketPart(plain); err != nil {
		return tokenError(err)
	}
	return nil
}

// candidates are the keys that could be the ticket's. There is more than one
// only where the ticket names no key version, or old entries were left.
func (a *acceptance) candidates(cred *acceptorCred, entries []keytab.Entry) (keys []*keytab.Entry, err error) {
	t := &a.req.Ticket
	miss := KRB_AP_ERR_NOKEY
	for i := range entries {
		e := &entries[i]
		if !e.Principal.Equal(t.Service) || !a.p.usableKey(e, cred.want) || e.Key.EType != t.Enc.EType {
			continue
		}
		if t.Enc.HasKVNO && !e.Matches(t.Enc.KVNO) {
			miss = KRB_AP_ERR_BADKEYVER
			continue
		}
		keys = append(keys, e)
	}
	if keys == nil {
		return nil, failf(gssapi.ErrNoCred, "%w: %s, key version %d, enctype %d", miss, t.Service, t.Enc.KVNO, t.Enc.EType)
	}
	return keys, nil
}

func (a *acceptance) tryKeys(keys []*keytab.Entry) ([]byte, error) {
	t := &a.req.Ticket
	for _, e := range keys {
		plain, err := etype.Decrypt(a.ticketMem.Bytes()[:0], etype.ID(t.Enc.EType), e.Key.Value, kmsg.UsageTicket, t.Enc.Cipher)
		if err == nil {
			a.service = e.Principal
			return plain, nil
		}
		if !errors.Is(err, etype.ErrIntegrity) && !errors.Is(err, etype.ErrKeySize) {
			return nil, fail(gssapi.ErrFailure, err)
		}
	}
	return nil, failf(gssapi.ErrBadMic, "%w: ticket", KRB_AP_ERR_BAD_INTEGRITY)
}

// checkTicket looks at what the KDC said.
func (a *acceptance) checkTicket() error {
	t, skew := a.ticket, a.p.config.ClockSkew
	start := t.StartTime
	if start.IsZero() {
		start = t.AuthTime
	}
	switch {
	case t.Flags&kmsg.FlagInvalid != 0, a.now.Before(start.Add(-skew)):
		return fail(gssapi.ErrFailure, KRB_AP_ERR_TKT_NYV)
	case a.now.After(t.EndTime.Add(skew)):
		return fail(gssapi.ErrCredentialsExpired, KRB_AP_ERR_TKT_EXPIRED)
	case t.Flags&kmsg.FlagAnonymous != 0 || t.Client.IsAnonymous():
		return failf(gssapi.ErrUnauthorized, "%w: the client is anonymous", KRB_ERR_GENERIC)
	case !a.p.usableTicket(t.Key):
		return fail(gssapi.ErrFailure, a.p.unsupported("session key", t.Key.EType))
	case len(t.Transited) > 0 && t.Flags&kmsg.FlagTransitPolicyChecked == 0:
		// Nobody has looked at the realms in between, and we have no policy. They
		// count for clients of our own realm too: a foreign KDC can name those.
		return fail(gssapi.ErrUnauthorized, KRB_AP_PATH_NOT_ACCEPTED)
	}
	return nil
}

func (a *acceptance) openAuthenticator() error {
	e := &a.req.Authenticator
	if e.EType != a.ticket.Key.EType || len(e.Cipher) == 0 {
		return failf(gssapi.ErrBadMic, "%w: authenticator", KRB_AP_ERR_BAD_INTEGRITY)
	}
	mem, err := a.p.arena.alloc(len(e.Cipher))
	if err != nil {
		return err
	}
	a.authMem = mem
	plain, err := etype.Decrypt(mem.Bytes()[:0], etype.ID(e.EType), a.ticket.Key.Value, kmsg.UsageAuthenticator, e.Cipher)
	if err != nil {
		return failf(gssapi.ErrBadMic, "%w: authenticator", KRB_AP_ERR_BAD_INTEGRITY)
	}
	if a.auth, err = kmsg.ParseAuthenticator(plain); err != nil {
		return tokenError(err)
	}
	return nil
}

// checkAuthenticator compares what the client says with what the KDC said:
// name and realm both.
func (a *acceptance) checkAuthenticator() error {
	if !a.auth.Client.Equal(a.ticket.Client) {
		return fail(gssapi.ErrDefectiveToken, KRB_AP_ERR_BADMATCH)
	}
	if err := a.inTime(a.now); err != nil {
		return err
	}
	if k := a.auth.Subkey; k.Value != nil && !a.p.usableTicket(k) {
		return fail(gssapi.ErrFailure, a.p.unsupported("subkey", k.EType))
	}
	return nil
}

// inTime compares the authenticator's time with the host's.
func (a *acceptance) inTime(now time.Time) error {
	if d := now.Sub(a.ctime()); d > a.p.config.ClockSkew || d < -a.p.config.ClockSkew {
		return failf(gssapi.ErrFailure, "%w: %v", KRB_AP_ERR_SKEW, d.Round(time.Second))
	}
	return nil
}

func (a *acceptance) ctime() time.Time {
	return a.auth.CTime.Add(time.Duration(a.auth.CUSec) * time.Microsecond)
}

// checkChecksum reads flags and channel bindings.
func (a *acceptance) checkChecksum() (err error) {
	if a.auth.Checksum == nil || a.auth.ChecksumType != kmsg.ChecksumGSS {
		return fail(gssapi.ErrDefectiveToken, KRB_AP_ERR_INAPP_CKSUM)
	}
	if a.sum, err = kmsg.ParseGSSChecksum(a.auth.Checksum); err != nil {
		return tokenError(err)
	}
	if err := a.checkBindings(); err != nil {
		return err
	}
	if a.flags()&gssapi.ContextFlagDceStyle != 0 {
		return failf(gssapi.ErrUnavailable, "DCE style is not supported")
	}
	return nil
}

// checkBindings compares the channel bindings of an acceptor that was given any.
// A client that is aware of channel bindings and sends none talks to another
// channel than this one.
func (a *acceptance) checkBindings() error {
	none := a.sum.Bindings == [16]byte{}
	switch {
	case !a.setup.bound:
		return nil
	case a.sum.Bindings == a.setup.bindings:
		a.bound = true
		return nil
	case !none:
		return failf(gssapi.ErrBadBindings, "the client's are of another channel")
	case !a.p.config.BindingsIfSent:
		return failf(gssapi.ErrBadBindings, "the client sent none, and Config.BindingsIfSent is not set")
	case a.auth.BindingsAware:
		return failf(gssapi.ErrBadBindings, "the client sent none, and says that it would where it had a channel to bind")
	}
	return nil
}

func (a *acceptance) flags() gssapi.ContextFlag { return gssapi.ContextFlag(a.sum.Flags) }

// record puts the authenticator into the replay cache, for as long as its time
// would be good. That it still is, is looked at once more: while this one waited
// for keytab and lock, the record of its first use may have expired and gone.
func (a *acceptance) record(cred *acceptorCred) error {
	cache, err := a.p.replay.at(cred.replay, a.p.config.ReplayCapacity)
	if err != nil {
		return replayError(err)
	}
	err = cache.Insert(a.req.Authenticator.Cipher, a.p.now, a.ctime(), a.p.config.ClockSkew)
	if err != nil && !errors.Is(err, rcache.ErrForgotten) {
		return replayError(err)
	}
	if late := a.inTime(a.p.now()); late != nil {
		return late
	}
	return replayError(err)
}

// errorToken makes the KRB-ERROR for an error that has a code of the protocol
// (RFC 4121 section 4.1). Nothing about it is secret or authentic.
func (a *acceptance) errorToken(err error) []byte {
	code := KRB_ERR_GENERIC
	errors.As(err, &code)
	e := kmsg.Error{Code: int32(code), STime: a.now, SUSec: a.now.Nanosecond() / 1000, Service: a.req.Ticket.Service}
	msg, err := e.Marshal()
	if err != nil {
		return nil
	}
	tok, err := kmsg.MarshalToken(kmsg.TokenError, msg)
	if err != nil {
		return nil
	}
	return tok
}
