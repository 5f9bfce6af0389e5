package agent

import (
	"encoding/hex"
	"errors"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// inspect says how a token stands, without spending it. It answers the token's exporter,
// its audience and an administrator.
func (c *conn) inspect(r *request) (wire.Code, error) {
	b, err := wire.ParseInspect(r.body)
	if err != nil {
		return c.deny(r.op, wire.Protocol, "")
	}
	host, _ := c.hostOf(b)
	state, err := host.Status(b)
	if err != nil {
		c.denied(r.op, codeOf(err), err.Error())
		return c.failWith(r.op, err)
	}
	return wire.OK, c.send(wire.Frame(wire.Header{Op: r.op, Reply: true}, []byte{byte(state)}))
}

// stat tells a user about its own tokens, and an administrator about the epochs too.
func (c *conn) stat(r *request) (wire.Code, error) {
	if len(r.body) > 0 {
		return c.deny(r.op, wire.Protocol, "")
	}
	st := wire.Status{Admin: c.admin(), Outstanding: uint32(c.acct.tokens()), Limit: uint32(c.quota().Outstanding)}
	for _, h := range c.s.hosts {
		st.Suites = append(st.Suites, byte(h.suite))
		if !st.Admin {
			continue
		}
		keys, err := h.Keys()
		if err != nil {
			return c.failWith(wire.Stat, err)
		}
		for _, k := range keys {
			st.Epochs = append(st.Epochs, wire.Epoch{
				ID: k.ID, Suite: byte(h.suite), Seals: k.Seals, Age: k.Age,
				Outstanding: uint32(k.Outstanding), Limit: uint32(k.Capacity), MaxLifetime: k.MaxLifetime,
			})
		}
	}
	frame, err := st.Marshal()
	if err != nil {
		return c.fail(wire.Stat, wire.Unavailable, err.Error())
	}
	return wire.OK, c.send(frame)
}

// rotate makes new keys, of one suite or of all. Outstanding tokens stay good.
func (c *conn) rotate(r *request) (wire.Code, error) {
	one, err := wire.ParseRotate(r.body)
	switch {
	case err != nil:
		return c.deny(r.op, wire.Protocol, "")
	case !c.may(r.op):
		return c.deny(r.op, wire.Refused, "only root and the agent's own user may")
	case one != 0 && c.host(suite.Suite(one)) == nil:
		return c.deny(r.op, wire.BadRequest, "no keys of that suite here")
	}
	for _, h := range c.s.hosts {
		if one != 0 && h.suite != suite.Suite(one) {
			continue
		}
		if err := h.Rotate(); err != nil {
			return c.deny(r.op, wire.Unavailable, err.Error())
		}
		c.log.Info(eventRotated, "suite", h.suite.String())
	}
	return c.done(r.op)
}

// retire ends an epoch: its outstanding tokens are worthless from now on.
func (c *conn) retire(r *request) (wire.Code, error) {
	id, err := wire.ParseRetire(r.body)
	switch {
	case err != nil:
		return c.deny(r.op, wire.Protocol, "")
	case !c.may(r.op):
		return c.deny(r.op, wire.Refused, "only root and the agent's own user may")
	}
	for _, h := range c.s.hosts {
		if err = h.Retire(id); !errors.Is(err, seal.ErrRequest) {
			break
		}
	}
	switch {
	case errors.Is(err, seal.ErrRequest):
		return c.deny(r.op, wire.Unknown, "")
	case err != nil:
		return c.deny(r.op, wire.Unavailable, err.Error())
	}
	for _, acct := range c.s.users.all() {
		acct.retired(id)
	}
	c.log.Info(eventRetired, "epoch", hex.EncodeToString(id[:]))
	return c.done(r.op)
}
