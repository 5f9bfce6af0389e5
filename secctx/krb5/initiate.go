package krb5

import (
	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/permsg"
)

// requestFlags are the context flags that a program can ask for. Confidentiality
// and integrity come with the mechanism.
const requestFlags = gssapi.ContextFlagMutual | gssapi.ContextFlagReplay | gssapi.ContextFlagSequence |
	gssapi.ContextFlagIdentify

// initiate makes the first token, an AP-REQ with a fresh subkey. Without mutual
// authentication it also establishes the context. The gate is held.
func (c *secContext) initiate(tok []byte) ([]byte, error) {
	if len(tok) > 0 {
		return nil, failf(gssapi.ErrDefectiveToken, "an initiator's first call takes no token")
	}
	ticket, delegated, err := c.p.findTicket(c.setup)
	if err != nil {
		return nil, err
	}
	sub, err := c.p.randomKey(ticket.etype)
	if err != nil {
		ticket.key.Wipe()
		return nil, err
	}
	s := c.setup
	c.secrets.mu.Lock()
	c.secrets.key, c.secrets.subkey = ticket.key, sub // wiped with the context
	c.secrets.mu.Unlock()
	s.etype, s.ctime, s.seq = ticket.etype, c.p.stamp().Add(ticket.offset), initialSeq()
	s.result = facts{
		initiator: &name{principal: ticket.client, mn: true},
		acceptor:  &name{principal: ticket.service, mn: true},
		flags:     s.flags&requestFlags | gssapi.ContextFlagConf | gssapi.ContextFlagInteg,
		expires:   wholeSecond(ticket.end),
	}
	if delegated != nil {
		s.result.flags |= gssapi.ContextFlagDeleg
	}
	if limit := wholeSecond(c.p.now().Add(s.lifetime)); s.lifetime > 0 && limit.Before(s.result.expires) {
		s.result.expires = limit
	}
	out, err := c.request(ticket, sub, delegated)
	if err != nil {
		return nil, err
	}
	if s.flags&gssapi.ContextFlagMutual != 0 {
		c.state = stateWaiting
		return out, nil
	}
	// Without an AP-REP the acceptor counts from the initiator's number.
	return out, c.start(permsg.Params{SendSeq: uint64(s.seq), RecvSeq: uint64(s.seq)},
		kmsg.Key{EType: int32(s.etype), Value: sub.Bytes()})
}

// findTicket returns a ticket for the target, and the KRB-CRED that is delegated
// to it, nil for none. The caller wipes the ticket's key.
func (p *Provider) findTicket(s *setup) (t *serviceTicket, delegated []byte, err error) {
	own, _ := s.cred.(*credential) // checked by ownCredential
	if s.cred == nil {
		if own, err = p.acquire(nil, nil, gssapi.CredUsageInitiateOnly, nil); err != nil {
			return nil, nil, err
		}
		defer own.Release()
	}
	_, tickets, err := own.parts()
	if err != nil {
		return nil, nil, err
	}
	if tickets == nil {
		return nil, nil, failf(gssapi.ErrNoCred, "the credential is an acceptor's")
	}
	if t, err = p.ticket(tickets, s.target); err != nil {
		return nil, nil, err
	}
	return t, p.delegate(tickets, t, s.flags), nil
}

// request makes the AP-REQ's token.
func (c *secContext) request(t *serviceTicket, sub *memsafe.Secret, delegated []byte) ([]byte, error) {
	s := c.setup
	sum := kmsg.GSSChecksum{Bindings: s.bindings, Flags: uint32(s.result.flags), Cred: delegated}
	auth := kmsg.Authenticator{
		Client:       t.client,
		ChecksumType: kmsg.ChecksumGSS,
		Checksum:     sum.Marshal(),
		CTime:        s.ctime,
		CUSec:        s.ctime.Nanosecond() / 1000,
		Subkey:       kmsg.Key{EType: int32(t.etype), Value: sub.Bytes()},
		Seq:          s.seq,
		HasSeq:       true,
	}
	plain, mem, err := c.p.arena.marshal(&auth, kmsg.MaxName+4*kmsg.MaxParts+2*smallMessage+len(delegated))
	if err != nil {
		return nil, err
	}
	defer mem.Wipe()
	e := kmsg.Encrypted{EType: int32(t.etype)}
	if e.Cipher, err = etype.Encrypt(nil, t.etype, t.key.Bytes(), kmsg.UsageAuthenticator, plain); err != nil {
		return nil, fail(gssapi.ErrFailure, err)
	}
	var options uint32
	if s.flags&gssapi.ContextFlagMutual != 0 {
		options = kmsg.OptMutualRequired
	}
	msg, err := kmsg.MarshalAPReq(options, t.encoded, e)
	if err != nil {
		return nil, fail(gssapi.ErrFailure, err)
	}
	out, err := kmsg.MarshalToken(kmsg.TokenAPReq, msg)
	if err != nil {
		return nil, fail(gssapi.ErrFailure, err)
	}
	return out, nil
}

// finish takes the acceptor's answer: an AP-REP, which proves that the acceptor
// could read the authenticator, or a KRB-ERROR. The gate is held.
func (c *secContext) finish(tok []byte) error {
	id, msg, err := kmsg.ParseToken(tok)
	if err != nil {
		return tokenError(err)
	}
	switch id {
	case kmsg.TokenError:
		return peerError(msg)
	case kmsg.TokenAPRep:
		return c.verify(msg)
	}
	return failf(gssapi.ErrDefectiveToken, "%w: context token %04x", KRB_AP_ERR_MSG_TYPE, uint16(id))
}

// peerError returns the error that a KRB-ERROR tells. It is not authenticated.
func peerError(msg []byte) error {
	e, err := kmsg.ParseError(msg)
	if err != nil {
		return tokenError(err)
	}
	return failf(gssapi.ErrFailure, "%w: %w", ErrPeer, Code(e.Code))
}

// verify checks the AP-REP (RFC 4120 section 3.2.5).
func (c *secContext) verify(msg []byte) error {
	e, err := kmsg.ParseAPRep(msg)
	if err != nil {
		return tokenError(err)
	}
	s := c.setup
	if e.EType != int32(s.etype) || len(e.Cipher) == 0 {
		return failf(gssapi.ErrBadMic, "%w: AP-REP", KRB_AP_ERR_BAD_INTEGRITY)
	}
	mem, err := c.p.arena.alloc(len(e.Cipher))
	if err != nil {
		return err
	}
	defer mem.Wipe()
	plain, err := etype.Decrypt(mem.Bytes()[:0], s.etype, c.secrets.key.Bytes(), kmsg.UsageAPRepPart, e.Cipher)
	if err != nil {
		return failf(gssapi.ErrBadMic, "%w: AP-REP", KRB_AP_ERR_BAD_INTEGRITY)
	}
	rep, err := kmsg.ParseAPRepPart(plain)
	if err != nil {
		return tokenError(err)
	}
	if rep.CTime.Unix() != s.ctime.Unix() || rep.CUSec != s.ctime.Nanosecond()/1000 {
		return fail(gssapi.ErrDefectiveToken, KRB_AP_ERR_MUT_FAIL)
	}
	p := permsg.Params{SendSeq: uint64(s.seq), RecvSeq: uint64(rep.Seq)}
	key := kmsg.Key{EType: int32(s.etype), Value: c.secrets.subkey.Bytes()}
	if rep.Subkey.Value != nil {
		if !c.p.usableTicket(rep.Subkey) {
			return fail(gssapi.ErrFailure, c.p.unsupported("acceptor's subkey", rep.Subkey.EType))
		}
		key, p.AcceptorSubkey = rep.Subkey, true
	}
	return c.start(p, key)
}

// start establishes an initiator's context and wipes the keys that led to it.
func (c *secContext) start(p permsg.Params, key kmsg.Key) error {
	p.Initiator = true
	f := c.setup.result
	session, err := c.p.newSession(p, key, f.flags)
	if err != nil {
		return err
	}
	c.secrets.wipe()
	c.establish(f, session)
	return nil
}
