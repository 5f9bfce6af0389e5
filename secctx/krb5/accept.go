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
// Delegation is not among them: the flag is set once the credential is there.
const peerFlags = gssapi.ContextFlagMutual | gssapi.ContextFlagReplay | gssapi.ContextFlagSequence |
	gssapi.ContextFlagConf | gssapi.ContextFlagInteg | gssapi.ContextFlagIdentify

// accept takes the initiator's token and establishes the context. It returns the
// AP-REP if mutual authentication was asked for. If the token is an AP-REQ that is
// refused, it returns a KRB-ERROR for the peer beside the error. The gate is held.
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

// An acceptance is the work on one AP-REQ. What it decrypts lies in locked memory
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

// run checks in the order of RFC 4120 section 3.2.3. The replay cache comes last,
// so that only requests that pass every other check are recorded.
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

// acceptorCredential returns cred. If that is nil, it returns the credential of
// the configured keytab.
func (p *Provider) acceptorCredential(cred gssapi.Credential) (*credential, error) {
	if cred != nil {
		return cred.(*credential), nil // checked by ownCredential
	}
	return p.acquire(nil, nil, gssapi.CredUsageAcceptOnly, nil)
}

// openTicket decrypts the ticket. The key is the keytab's for the service, key
// version and encryption type that the ticket names.
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
		// Not before: a peer could take locked memory by naming any service.
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

// candidates returns the keys that may be the ticket's. There are several if the
// ticket names no key version, or if old entries were left in the keytab.
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

// checkTicket checks what the KDC says in the ticket.
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
		// The KDC has not checked the realms in between, and there is no policy here.
		// Clients of the own realm are no exception: a foreign KDC can name them.
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

// checkAuthenticator compares the client's name and realm with those in the
// ticket, and its time with this host's.
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

// checkBindings compares the client's channel bindings with the acceptor's, if it
// has any. A client that sends bindings wherever it has a channel, and sent none,
// has another channel than this one.
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

// record puts the authenticator into the replay cache. Then it compares the time
// again. The record of the authenticator's first use may have expired while this
// acceptance waited for the keytab or for the cache's lock.
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

// errorToken makes the KRB-ERROR for an error with a code of the protocol (RFC
// 4121 section 4.1). It holds no secret and is not authenticated.
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
