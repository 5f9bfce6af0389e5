package agent

import (
	"errors"
	"log/slog"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// handlers answer the operations of the protocol. An operation without one is not known
// here: see known.
var handlers = [...]func(*conn, *request) (wire.Code, error){
	wire.Reserve:  (*conn).reserve,
	wire.Open:     (*conn).open,
	wire.TakeBack: (*conn).open,
	wire.Cancel:   (*conn).cancel,
	wire.Inspect:  (*conn).inspect,
	wire.Stat:     (*conn).stat,
	wire.Rotate:   (*conn).rotate,
	wire.Retire:   (*conn).retire,
	wire.Prepare:  (*conn).prepare,
	wire.Seal:     (*conn).sealPlain,
	wire.OpenAny:  (*conn).openAny,
}

// known reports whether the agent answers an operation.
func known(op wire.Op) bool {
	return op.Known() && int(op) < len(handlers) && handlers[op] != nil
}

// handle answers a whole request. It reports whether the connection goes on.
func (c *conn) handle(r *request) (code wire.Code, more bool) {
	code, err := handlers[r.op](c, r)
	return code, err == nil && code != wire.Protocol
}

// fail refuses a request.
func (c *conn) fail(op wire.Op, code wire.Code, text string) (wire.Code, error) {
	return code, c.send(wire.Failure(op, code, text))
}

// failWith refuses a request for an error of package seal. The text of a defective
// token's refusal is empty: its sender is not told why. But a token of an epoch
// that is not here gets one, see seal.ErrDefective.
func (c *conn) failWith(op wire.Op, err error) (wire.Code, error) {
	if err == seal.ErrDefective { //nolint:errorlint // wrapped, it says something
		return c.fail(op, wire.Defective, "")
	}
	return c.fail(op, codeOf(err), err.Error())
}

// deny is fail for what package seal does not log.
func (c *conn) deny(op wire.Op, code wire.Code, text string) (wire.Code, error) {
	c.denied(op, code, text)
	return c.fail(op, code, text)
}

func (c *conn) denied(op wire.Op, code wire.Code, text string) {
	c.log.Warn(eventDenied, "operation", op.String(), "status", code.String(), "reason", text)
}

func (c *conn) noMore(what, word string, limit int) string {
	return c.s.policy.Load().noMore(what, c.id.UID, word, limit)
}

// admin reports whether the peer is root or the agent's user.
func (c *conn) admin() bool { return c.id.UID == 0 || c.id.UID == c.s.uid }

// may reports whether the peer may ask for an operation.
func (c *conn) may(op wire.Op) bool { return c.admin() || !op.Operation().Admin }

func (c *conn) reserve(r *request) (wire.Code, error) {
	req, err := wire.ParseReserve(r.body)
	if err != nil {
		return c.deny(r.op, wire.Protocol, "")
	}
	host := c.offered(req.Suites)
	if host == nil {
		return c.deny(r.op, wire.BadRequest, "none of the offered suites is allowed here")
	}
	to, code, text := c.audience(req.Audience, r.fd)
	if code != wire.OK {
		return c.deny(r.op, code, text)
	}
	now, err := c.s.now()
	if err != nil {
		return c.failWith(r.op, err)
	}
	room, ok := c.hold(token.KeySize)
	if !ok {
		return c.deny(r.op, wire.Quota, tooMuchLocked)
	}
	defer c.acct.unhold(room)
	if !c.acct.reserve(c.quota().Outstanding, now) {
		return c.deny(r.op, wire.Quota, c.noMore("too many tokens outstanding", wordOutstanding, c.quota().Outstanding))
	}
	grant, err := grantOf(host.Reserve(seal.Request{
		Format: string(req.Format), Mechanism: req.Mechanism, Audience: to, Lifetime: req.Lifetime,
	}))
	if err != nil {
		c.acct.unreserved()
		return c.failWith(r.op, err)
	}
	defer grant.Slot.Release()
	defer grant.Key.Wipe()
	return c.grant(grant, room)
}

// grantOf takes a new reservation apart.
func grantOf(r *seal.Reservation, err error) (*ask.Grant, error) {
	if err != nil {
		return nil, err
	}
	return r.Grant()
}

// tooMuchLocked is why a request is refused whose secret would be one too many.
const tooMuchLocked = "the secrets of this user's requests take as much locked memory as one user may have; read the answers, or send fewer requests at a time"

// grant sends what a reservation is made of, whose key takes room bytes of locked memory.
// If it does not arrive, no process has the key, and the slot is given back.
func (c *conn) grant(g *ask.Grant, room int64) (wire.Code, error) {
	head, _, err := token.ParseHeader(g.Start)
	if err != nil {
		c.acct.unreserved()
		return c.failWith(wire.Reserve, err)
	}
	key := keyOf(&head)
	c.acct.reserved(key, head.Expires, c.id.Groups)
	err = c.deliver(room, wire.KeyPrefix(g.Key.Len(), len(g.Start)), g.Key.Bytes(), wire.KeySuffix(g.Start))
	if err != nil && g.Slot.Cancel() == nil {
		c.acct.spent(key)
	}
	return wire.OK, err
}

// audience decides whether the peer may reserve for an audience, and returns it
// in full. A process comes as a descriptor.
func (c *conn) audience(b []byte, fd int) (to seal.Party, code wire.Code, text string) {
	if len(b) == 1 && b[0] == token.KindProcess {
		if fd < 0 {
			return to, wire.Protocol, "no descriptor of the process"
		}
		return c.processAudience(fd)
	}
	if fd >= 0 {
		return to, wire.Protocol, "a descriptor without a process"
	}
	if len(b) == 0 {
		return seal.User(c.id.UID), wire.OK, ""
	}
	named := targets[b[0]]
	if err := to.UnmarshalBinary(b); err != nil || named == nil {
		return to, wire.BadAudience, "no such audience"
	}
	policy := c.s.policy.Load()
	if target := named(policy, b[1:]); !policy.mayReserve(c.id.UID, c.id.Groups, target) {
		return to, wire.Refused, policy.refusal(c.id.UID, target)
	}
	return to, wire.OK, ""
}

func (c *conn) processAudience(fd int) (to seal.Party, code wire.Code, text string) {
	to, uid, err := peer.Process(fd)
	if err != nil {
		return to, codeOf(err), err.Error()
	}
	policy := c.s.policy.Load()
	if target := (who{kind: wordUser, id: uid, name: policy.userName(uid)}); !policy.mayReserve(c.id.UID, c.id.Groups, target) {
		return to, wire.Refused, policy.refusal(c.id.UID, target)
	}
	return to, wire.OK, ""
}

// open answers Open and TakeBack.
func (c *conn) open(r *request) (wire.Code, error) {
	ask, err := wire.ParseOpen(r.op, r.body)
	if err != nil {
		return c.deny(r.op, wire.Protocol, "")
	}
	return c.openOne(r.op, ask.Token, ask.Exporters, string(ask.Format))
}

func (c *conn) openOne(op wire.Op, sealed []byte, exporters [][]byte, formats ...string) (wire.Code, error) {
	if len(sealed) > c.quota().TokenSize {
		return c.deny(op, wire.Quota, c.noMore("token too large for this user", wordToken, c.quota().TokenSize))
	}
	host, t := c.hostOf(sealed)
	room, ok := c.hold(t.BodySize())
	if !ok {
		return c.deny(op, wire.Quota, tooMuchLocked)
	}
	defer c.acct.unhold(room)
	plain, err := redeem(op, host, sealed, exporters, formats)
	if err != nil {
		if op != wire.TakeBack && errors.Is(err, seal.ErrSpent) {
			c.alarm(t)
		}
		return c.failWith(op, err)
	}
	defer plain.Wipe()
	c.s.spent(t)
	err = c.deliver(room, wire.PlainPrefix(op, plain.Len()), plain.Bytes())
	if err != nil {
		c.log.Error(eventLost, "exporter", t.Exporter, "slot", t.Slot, "reason", err)
	}
	return wire.OK, err
}

// alarm tells of a second import. The user that reserved the token has a bucket for these
// alone. Neither refusals nor other users' tokens keep a second import out of the log.
func (c *conn) alarm(t *token.Token) {
	c.s.observe.SecondImport()
	log := slog.New(limited{c.s.log.Handler(), &c.s.users.of(t.Exporter).alarms})
	log.Error(eventAlarm, "peer_uid", c.id.UID, "peer_pid", c.id.PID, "exporter", t.Exporter, "slot", t.Slot)
}

func redeem(op wire.Op, host *seal.Host, sealed []byte, exporters [][]byte, formats []string) (*memsafe.Secret, error) {
	switch {
	case op == wire.TakeBack:
		return host.TakeBack(sealed, formats...)
	case len(exporters) == 0:
		return host.Open(sealed, formats...)
	}
	from := make([]seal.Party, len(exporters))
	for i, e := range exporters {
		if err := from[i].UnmarshalBinary(e); err != nil {
			return nil, err
		}
	}
	return host.OpenFrom(from, sealed, formats...)
}

// spent takes a claimed token off the account of the user that reserved it.
func (s *Server) spent(t *token.Token) {
	if acct := s.users.find(t.Exporter); acct != nil {
		acct.spent(keyOf(&t.Header))
	}
}

func (c *conn) cancel(r *request) (wire.Code, error) {
	start, err := wire.ParseCancel(r.body)
	if err != nil {
		return c.deny(r.op, wire.Protocol, "")
	}
	head, _, err := token.ParseHeader(start)
	host := c.host(head.Suite)
	if err != nil || host == nil {
		return c.deny(r.op, wire.Defective, "")
	}
	if err := host.Cancel(start); err != nil {
		c.denied(r.op, codeOf(err), err.Error())
		return c.failWith(r.op, err)
	}
	c.acct.spent(keyOf(&head))
	c.log.Info(eventCancelled, "slot", head.Slot)
	return c.done(r.op)
}

// done sends an answer without a body.
func (c *conn) done(op wire.Op) (wire.Code, error) {
	return wire.OK, c.send(wire.Frame(wire.Header{Op: op, Reply: true}, nil))
}
