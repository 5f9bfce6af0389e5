package spnego

import (
	"bytes"
	"slices"

	"github.com/golang-auth/go-gssapi/v3"
)

// accept takes a token of the initiator. The gate is held alone.
func (c *secContext) accept(token []byte) ([]byte, error) {
	switch {
	case c.phase == phaseNew && len(token) == 0:
		c.phase = phaseHinted
		return hints(c.p.list), nil
	case len(token) == 0:
		return nil, defective("empty token")
	case c.phase == phaseNew || c.phase == phaseHinted:
		return c.acceptFirst(token)
	case c.neg.raw:
		return c.acceptRaw(token)
	}
	resp, ok := parseResp(token)
	switch {
	case !ok:
		return nil, defective("malformed NegTokenResp")
	case resp.mech != nil:
		return nil, defective("the initiator names a mechanism for the second time")
	case resp.state == reject:
		return nil, status(gssapi.ErrFailure, ErrRejected)
	case resp.state == requestMIC:
		return nil, defective("only an acceptor asks for signatures")
	case c.phase == phaseMIC:
		return c.acceptMIC(&resp)
	case resp.token == nil:
		return nil, defective("the mechanism's token is missing")
	}
	return c.acceptStep(resp.token, resp.mic)
}

// acceptFirst takes the initial token and chooses the mechanism.
func (c *secContext) acceptFirst(token []byte) ([]byte, error) {
	oid, body, ok := openFrame(token)
	if !ok {
		return nil, defective("malformed initial token")
	}
	n := c.neg
	if !bytes.Equal(oid, oidSPNEGO) {
		if n.mech = c.p.mech(oid); n.mech == nil || !c.p.raw {
			return nil, errOtherMech
		}
		n.raw = true
		return c.acceptRaw(token)
	}
	init, ok := parseInit(body)
	if !ok {
		return nil, defective("malformed NegTokenInit")
	}
	first, ok := c.choose(init.mechTypes)
	if !ok {
		return nil, errNoCommonMech
	}
	n.mechTypes = slices.Clone(init.mechTypes)
	if first && init.mechToken != nil {
		return c.acceptStep(init.mechToken, init.mic)
	}
	c.phase, n.answered = phaseMech, true
	resp := respToken{state: acceptIncomplete, mech: n.wire}
	if !first {
		// The optimistic token, and a signature with it, are another mechanism's.
		n.required, resp.state = true, requestMIC
	} else if init.mic != nil {
		return nil, defective("a signature without a token of the mechanism")
	}
	return resp.build(), nil
}

// choose takes the first mechanism of a list that is available here, and reports
// whether it is the first of the list.
func (c *secContext) choose(mechTypes []byte) (first, ok bool) {
	list, _ := mechList(mechTypes) // it was checked
	for first = true; !list.Empty(); first = false {
		oid, _ := nextMech(&list)
		if m := c.p.mech(oid); m != nil {
			c.neg.mech, c.neg.wire = m, slices.Clone(oid)
			return first, true
		}
	}
	return false, false
}

// acceptRaw takes a token of a mechanism without a negotiation around it.
func (c *secContext) acceptRaw(token []byte) ([]byte, error) {
	out, done, err := c.step(token)
	if err != nil {
		return out, err
	}
	if c.phase = phaseMech; done {
		c.phase = phaseEstablished
	}
	return out, nil
}

// step gives the mechanism a token. done reports whether the mechanism is
// established.
func (c *secContext) step(token []byte) (out []byte, done bool, err error) {
	n := c.neg
	if oid, _, framed := openFrame(token); framed && c.inner == nil && !slices.Equal(plainOID(oid), n.mech.Oid()) {
		return nil, false, errOtherMech // a token of another mechanism of the inner provider
	}
	if c.inner == nil {
		if c.inner, err = c.p.inner.AcceptSecContext(n.accept...); err != nil {
			c.inner = nil
			return nil, false, err
		}
	}
	out, n.info, err = c.inner.Continue(token)
	if err != nil {
		return out, false, err
	}
	return out, c.mechDone(), c.checkMech()
}

// mechDone reports whether the inner context is established on this side.
func (c *secContext) mechDone() bool {
	return c.neg.info.FullyEstablished && !c.inner.ContinueNeeded()
}

// checkMech returns GSS_S_BAD_MECH if the inner context is of another mechanism
// than the chosen one.
func (c *secContext) checkMech() error {
	n := c.neg
	if n.info.FullyEstablished && n.info.Mech != nil && !slices.Equal(plainOID(n.info.Mech.Oid()), n.mech.Oid()) {
		return errOtherMech
	}
	return nil
}

// acceptStep gives the mechanism a token, and signs and verifies the list when the
// mechanism is done (RFC 4178 section 5).
func (c *secContext) acceptStep(token, mic []byte) ([]byte, error) {
	n := c.neg
	if mic != nil {
		if n.early != nil {
			return nil, defective("a second signature")
		}
		n.early = slices.Clone(mic)
	}
	out, done, err := c.step(token)
	if err != nil {
		return out, err
	}
	resp := respToken{state: acceptIncomplete, token: out}
	if !n.answered {
		resp.mech, n.answered = n.wire, true
	}
	if !done {
		if len(out) == 0 {
			return nil, defective("the mechanism waits for a token and has none for the peer")
		}
		c.phase = phaseMech
		return resp.build(), nil
	}
	if n.early != nil {
		if err := c.verify(n.early); err != nil {
			return nil, err
		}
		n.required = true // a signature is answered with one
	}
	if n.required {
		if !n.verified && len(out) == 0 {
			return nil, errMICMissing // the initiator was done, and had to sign
		}
		if resp.mic, err = c.sign(); err != nil {
			return nil, err
		}
	}
	if n.required && !n.verified {
		c.phase = phaseMIC
	} else {
		c.phase, resp.state = phaseEstablished, acceptCompleted
	}
	return resp.build(), nil
}

// acceptMIC takes the signature that ends a negotiation.
func (c *secContext) acceptMIC(resp *respToken) ([]byte, error) {
	switch {
	case resp.token != nil:
		return nil, defective("a token for a mechanism that is done")
	case resp.mic == nil:
		return nil, errMICMissing
	}
	if err := c.verify(resp.mic); err != nil {
		return nil, err
	}
	c.phase = phaseEstablished
	return nil, nil
}

// verify checks the peer's signature over the list.
func (c *secContext) verify(mic []byte) error {
	if _, err := c.inner.VerifyMIC(c.neg.mechTypes, mic); err != nil {
		return err
	}
	c.neg.verified = true
	return nil
}

// sign signs the list.
func (c *secContext) sign() ([]byte, error) {
	mic, err := c.inner.GetMIC(c.neg.mechTypes, 0)
	if err == nil && len(mic) == 0 {
		err = status(gssapi.ErrFailure, errMICMissing)
	}
	c.neg.sent = err == nil
	return mic, err
}
