package spnego

import (
	"errors"
	"slices"

	"github.com/golang-auth/go-gssapi/v3"
)

var errNoTarget = errors.New("spnego: a context needs the name of its acceptor")

// initiate takes a token of the acceptor; the first call has none. The gate is
// held alone.
func (c *secContext) initiate(token []byte) ([]byte, error) {
	if c.phase == phaseNew {
		if len(token) > 0 {
			return nil, defective("an initiator's first call takes no token")
		}
		return c.offer()
	}
	resp, ok := parseResp(token)
	if !ok {
		return nil, defective("malformed NegTokenResp")
	}
	first := !c.neg.answered
	c.neg.answered = true
	if resp.state == reject {
		return nil, c.rejected(&resp, first)
	}
	if resp.state == requestMIC {
		if !first {
			return nil, defective("signatures are asked for too late")
		}
		c.neg.required = true
	}
	if resp.mech != nil {
		other, err := c.settle(resp.mech, first)
		if err != nil {
			return nil, err
		}
		if other {
			return c.reselect(&resp)
		}
	}
	return c.initiateStep(&resp)
}

// offer makes the initial token: the mechanisms that have a token to begin with,
// and the token of the first.
func (c *secContext) offer() ([]byte, error) {
	n := c.neg
	var out []byte
	var oids [][]byte
	var errs []error
	for _, m := range c.p.mechs {
		if n.mech == nil {
			var err error
			if out, err = c.start(m); err != nil {
				errs = append(errs, err)
				c.dropInner()
				continue
			}
			n.mech = m
		}
		oids = append(oids, m.Oid())
	}
	if n.mech == nil {
		return nil, errors.Join(errs...)
	}
	n.mechTypes = buildMechs(oids)
	c.phase = phaseMech
	init := initToken{mechTypes: n.mechTypes, mechToken: out}
	return init.build(), nil
}

// start begins a mechanism and returns its first token.
func (c *secContext) start(m gssapi.GssMech) (out []byte, err error) {
	n := c.neg
	opts := n.init
	opts.Mech = m
	if c.inner, err = c.p.inner.InitSecContext(n.target, func(o *gssapi.InitSecContextOptions) { *o = opts }); err != nil {
		c.inner = nil
		return nil, err
	}
	out, n.info, err = c.inner.Continue(nil)
	return out, err
}

// rejected is the error for an acceptor's rejection. The mechanism may read the
// reason in the token that came along.
func (c *secContext) rejected(resp *respToken, first bool) error {
	reason := gssapi.ErrFailure
	if first && resp.token == nil {
		reason = gssapi.ErrBadMech
	}
	err := status(reason, ErrRejected)
	if resp.token != nil && !c.mechDone() {
		if _, _, why := c.inner.Continue(resp.token); why != nil {
			err = errors.Join(err, why)
		}
	}
	return err
}

// settle reads the acceptor's choice, and reports whether it is another mechanism
// than the one that was begun.
func (c *secContext) settle(oid []byte, first bool) (other bool, err error) {
	if !first {
		return false, defective("the acceptor names a mechanism for the second time")
	}
	list, _ := mechList(c.neg.mechTypes) // our own
	for !list.Empty() {
		id, _ := nextMech(&list)
		if slices.Equal(id, plainOID(oid)) {
			m := c.p.mech(id)
			other = !slices.Equal(id, c.neg.mech.Oid())
			c.neg.mech = m
			return other, nil
		}
	}
	return false, status(gssapi.ErrBadMech, errors.New("spnego: the acceptor chose a mechanism that was not offered"))
}

// reselect begins the mechanism that the acceptor chose instead of the first. Both
// sides must sign the list then, whatever the acceptor says.
func (c *secContext) reselect(resp *respToken) ([]byte, error) {
	if resp.token != nil || resp.mic != nil || resp.state == acceptCompleted {
		return nil, defective("the acceptor chose another mechanism and went on with the first")
	}
	c.neg.required = true
	c.dropInner()
	out, err := c.start(c.neg.mech)
	if err != nil {
		return nil, err
	}
	answer := respToken{state: acceptIncomplete, token: out}
	if c.mechDone() {
		if answer.mic, err = c.sign(); err != nil {
			return nil, err
		}
	}
	return answer.build(), nil
}

// initiateStep gives the mechanism the acceptor's token, and verifies and signs
// the list when the mechanism is done (RFC 4178 section 5).
func (c *secContext) initiateStep(resp *respToken) ([]byte, error) {
	n := c.neg
	var out []byte
	done := c.mechDone()
	switch {
	case done && resp.token != nil:
		return nil, defective("a token for a mechanism that is done")
	case !done && resp.token == nil:
		return nil, defective("the mechanism's token is missing")
	case !done:
		var err error
		if out, n.info, err = c.inner.Continue(resp.token); err != nil {
			return nil, err
		}
		if err := c.checkMech(); err != nil {
			return nil, err
		}
		done = c.mechDone()
	}
	if resp.mic != nil {
		if !done || n.verified {
			return nil, defective("a signature where none can be")
		}
		if err := c.verify(resp.mic); err != nil {
			return nil, err
		}
		n.required = true
	}
	if resp.state == acceptCompleted || resp.state == noState && done && !n.required && len(out) == 0 {
		return nil, c.completed(done, out)
	}
	return c.initiateMore(done, out)
}

// completed ends a negotiation that the acceptor says is complete.
func (c *secContext) completed(done bool, out []byte) error {
	switch n := c.neg; {
	case !done || len(out) > 0:
		return defective("the acceptor is done and the mechanism is not")
	case n.required && !n.verified:
		return errMICMissing
	}
	c.phase = phaseEstablished
	return nil
}

// initiateMore answers an acceptor that waits for a token.
func (c *secContext) initiateMore(done bool, out []byte) ([]byte, error) {
	n := c.neg
	answer := respToken{state: acceptIncomplete, token: out}
	if done && !n.sent {
		n.required = true // nothing else can be missing
		var err error
		if answer.mic, err = c.sign(); err != nil {
			return nil, err
		}
	}
	if len(answer.token) == 0 && len(answer.mic) == 0 {
		return nil, defective("the acceptor waits for a token and there is none")
	}
	if done && n.verified && len(out) == 0 {
		c.phase, answer.state = phaseEstablished, acceptCompleted
	}
	return answer.build(), nil
}
