package agent

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// A prepared is a reservation that the agent seals for its peer. It belongs to the
// connection that made it and ends with it, so that only the process that reserved can
// have a token sealed, and a process that ends leaves no slot behind.
type prepared struct {
	start       []byte
	reservation *seal.Reservation
	key         slotKey
	expires     time.Duration // since boot
	room        int64         // of locked memory, that its key takes
}

// prepare answers Prepare: it reserves tokens and keeps their keys.
func (c *conn) prepare(r *request) (wire.Code, error) {
	ask, err := wire.ParsePrepare(r.body)
	if err != nil {
		return c.deny(r.op, wire.Protocol, "")
	}
	if len(c.prepared)+ask.Count > wire.MaxPrepared {
		return c.deny(r.op, wire.Quota, "too many reservations on this connection that were not sealed")
	}
	to, code, text := c.audience(ask.Audience, r.fd)
	if code != wire.OK {
		return c.deny(r.op, code, text)
	}
	req := seal.Request{Format: string(ask.Format), Mechanism: ask.Mechanism, Audience: to, Lifetime: ask.Lifetime}
	before := len(c.prepared)
	for range ask.Count {
		code, err := c.prepareOne(r.op, &req)
		if code != wire.OK || err != nil {
			c.cancelPrepared(before)
			return code, err
		}
	}
	starts := make([][]byte, 0, ask.Count)
	for _, p := range c.prepared[before:] {
		starts = append(starts, p.start)
	}
	return wire.OK, c.send(wire.MarshalPrepared(starts))
}

// prepareOne reserves one token. Its answer is sent unless it is OK.
func (c *conn) prepareOne(op wire.Op, req *seal.Request) (wire.Code, error) {
	now, err := c.s.now()
	if err != nil {
		return c.failWith(op, err)
	}
	room, ok := c.hold(token.KeySize)
	if !ok {
		return c.deny(op, wire.Quota, tooMuchLocked)
	}
	if c.s.prepared.Add(room) > c.s.part(preparedPart) {
		c.unprepared(room)
		return c.deny(op, wire.Quota, tooMuchLocked)
	}
	if !c.acct.reserve(c.quota().Outstanding, now) {
		c.unprepared(room)
		return c.deny(op, wire.Quota, c.noMore("too many tokens outstanding", wordOutstanding, c.quota().Outstanding))
	}
	grant, err := grantOf(c.host(c.s.hosts[0].suite).Reserve(*req))
	if err != nil {
		c.acct.unreserved()
		c.unprepared(room)
		return c.failWith(op, err)
	}
	head, _, err := token.ParseHeader(grant.Start)
	made := new(seal.Reservation)
	if err == nil {
		err = made.Adopt(*grant)
	}
	if err != nil {
		c.acct.unreserved()
		c.unprepared(room)
		grant.Key.Wipe()
		grant.Slot.Release()
		return c.failWith(op, err)
	}
	key := keyOf(&head)
	c.acct.reserved(key, head.Expires, c.id.Groups)
	c.prepared = append(c.prepared, prepared{grant.Start, made, key, head.Expires, room})
	return wire.OK, nil
}

// sealPlain answers Seal. The plain token lies in the request's buffer, which free wipes.
func (c *conn) sealPlain(r *request) (wire.Code, error) {
	start, plain, err := wire.ParseSeal(r.body)
	if err != nil {
		return c.deny(r.op, wire.Protocol, "")
	}
	i := slices.IndexFunc(c.prepared, func(p prepared) bool { return bytes.Equal(p.start, start) })
	if i < 0 {
		return c.deny(r.op, wire.BadRequest, "nothing is reserved under this start on this connection")
	}
	p := c.prepared[i]
	c.prepared = slices.Delete(c.prepared, i, i+1)
	sealed, err := p.reservation.Seal(plain)
	c.unprepared(p.room)
	if err != nil {
		c.acct.spent(p.key)
		return c.failWith(r.op, err)
	}
	unsent := func() {
		if host := c.host(token.SuiteOf(sealed)); host != nil && host.Cancel(start) == nil {
			c.acct.spent(p.key)
		}
	}
	if most := c.quota().TokenSize; len(sealed) > most { // nobody under this quota could open it
		unsent()
		return c.deny(r.op, wire.Quota, fmt.Sprintf("the token would have %d bytes; this user's tokens have at most %d", len(sealed), most))
	}
	if err := c.send(wire.MarshalSealed(sealed)); err != nil {
		unsent()
		return wire.OK, err
	}
	return wire.OK, nil
}

// unprepared takes the room of a prepared key off every account.
func (c *conn) unprepared(room int64) {
	c.s.prepared.Add(-room)
	c.acct.unhold(room)
}

// cancelPrepared gives back what was reserved and not sealed, but for the first keep.
func (c *conn) cancelPrepared(keep int) {
	for _, p := range c.prepared[keep:] {
		c.giveBack(&p)
	}
	c.prepared = c.prepared[:keep]
}

func (c *conn) giveBack(p *prepared) {
	if p.reservation.Cancel() == nil {
		c.acct.spent(p.key)
	}
	c.unprepared(p.room)
}

// expirePrepared gives back what was reserved and whose time is over, so that a
// connection that goes on does not keep its key and epoch.
func (c *conn) expirePrepared() {
	if len(c.prepared) == 0 {
		return
	}
	now, err := c.s.now()
	if err != nil {
		return // it ends with its connection
	}
	c.prepared = slices.DeleteFunc(c.prepared, func(p prepared) bool {
		if p.expires+c.s.times.prepared > now {
			return false
		}
		c.giveBack(&p)
		return true
	})
}

// openAny answers OpenAny: Open with several formats.
func (c *conn) openAny(r *request) (wire.Code, error) {
	ask, err := wire.ParseOpenAny(r.body)
	if err != nil {
		return c.deny(r.op, wire.Protocol, "")
	}
	formats := make([]string, len(ask.Formats))
	for i, f := range ask.Formats {
		formats[i] = string(f)
	}
	return c.openOne(r.op, ask.Token, ask.Exporters, formats...)
}

// wipePlain wipes a request that carried a plain token, or may have: its operation is not
// known until its header is read.
func (r *request) wipePlain() {
	if r.op == 0 || r.op.Operation().Body == wire.WithPlain {
		memsafe.Wipe(r.buf)
	}
}
