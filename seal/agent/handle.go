package agent

import (
	"errors"
	"log/slog"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
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

// peer is the other end as package seal asks for it.
func (c *conn) peer() seal.Peer {
	return seal.Peer{UID: c.id.UID, Groups: c.id.Groups, Log: c.log}
}

// opener is peer with what the kind of a token's audience needs: the peer's services, by
// the policy that is in force, or its process.
func (c *conn) opener(kind uint8) (seal.Peer, error) {
	p := c.peer()
	p.Exporter, p.Imports = c.exporterIs, c.mayImport
	switch kind {
	case token.KindService:
		if policy := c.s.policy.Load(); c.policy != policy || c.services == nil {
			c.policy, c.services = policy, policy.servicesOf(c.id.UID, c.id.Groups)
		}
		p.Services = c.services
	case token.KindProcess:
		var err error
		if p.Process, err = c.id.Process(); err != nil {
			return p, err
		}
	}
	return p, nil
}

// admin reports whether the peer is root or the agent's user.
func (c *conn) admin() bool { return c.id.UID == 0 || c.id.UID == c.s.uid }

// may reports whether the peer may ask for an operation.
func (c *conn) may(op wire.Op) bool { return c.admin() || !op.Operation().Admin }

func (c *conn) reserve(r *request) (wire.Code, error) {
	ask, err := wire.ParseReserve(r.body)
	if err != nil {
		return c.deny(r.op, wire.Protocol, "")
	}
	host := c.s.offered(ask.Suites)
	if host == nil {
		return c.deny(r.op, wire.BadRequest, "none of the offered suites is allowed here")
	}
	to, code, text := c.audience(ask.Audience, r.fd)
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
	grant, err := host.ReserveFor(c.peer(), seal.Request{
		Format: string(ask.Format), Mechanism: ask.Mechanism, Audience: to, Lifetime: ask.Lifetime,
	})
	if err != nil {
		c.acct.unreserved()
		return c.failWith(r.op, err)
	}
	defer grant.Slot.Release()
	defer grant.Key.Wipe()
	return c.grant(grant, room)
}

// tooMuchLocked is why a request is refused whose secret would be one too many.
const tooMuchLocked = "the secrets of this user's requests take as much locked memory as one user may have; read the answers, or send fewer requests at a time"

// grant sends what a reservation is made of, whose key takes room bytes of locked memory.
// If it does not arrive, no process has the key, and the slot is given back.
func (c *conn) grant(g *seal.Grant, room int64) (wire.Code, error) {
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
func (c *conn) audience(b []byte, fd int) (to seal.Audience, code wire.Code, text string) {
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
	if err := to.UnmarshalBinary(b); err != nil || b[0] == 0 || b[0] == token.KindProcess {
		return to, wire.BadAudience, "no such audience"
	}
	policy := c.s.policy.Load()
	if target := policy.target(b[0], b[1:]); !policy.mayReserve(c.id.UID, c.id.Groups, target) {
		return to, wire.Refused, policy.refusal(c.id.UID, target)
	}
	return to, wire.OK, ""
}

func (c *conn) processAudience(fd int) (to seal.Audience, code wire.Code, text string) {
	to, uid, err := seal.ProcessOf(fd)
	if err != nil {
		return to, codeOf(err), err.Error()
	}
	policy := c.s.policy.Load()
	if target := (who{kind: wordUser, id: uid, name: policy.userName(uid)}); !policy.mayReserve(c.id.UID, c.id.Groups, target) {
		return to, wire.Refused, policy.refusal(c.id.UID, target)
	}
	return to, wire.OK, ""
}

// offered returns the host of the suite that the agent likes best of those that
// a client offers, or nil.
func (s *Server) offered(suites []byte) *seal.Host {
	for _, h := range s.hosts {
		for _, o := range suites {
			if h.suite == suite.Suite(o) {
				return h.Host
			}
		}
	}
	return nil
}

// hostOf returns the host that a token is for, and the token taken apart. For bytes that
// are no token it returns any host, which refuses them.
func (s *Server) hostOf(b []byte) (*seal.Host, *token.Token) {
	t, err := token.Parse(b)
	if err != nil {
		return s.hosts[0].Host, &token.Token{}
	}
	if h := s.host(suite.Suite(t.Suite)); h != nil {
		return h, &t
	}
	return s.hosts[0].Host, &t
}

// open answers Open and TakeBack.
func (c *conn) open(r *request) (wire.Code, error) {
	ask, err := wire.ParseOpen(r.op, r.body)
	if err != nil {
		return c.deny(r.op, wire.Protocol, "")
	}
	return c.openOne(r.op, &ask)
}

func (c *conn) openOne(op wire.Op, ask *wire.OpenRequest) (wire.Code, error) {
	if len(ask.Token) > c.quota().TokenSize {
		return c.deny(op, wire.Quota, c.noMore("token too large for this user", wordToken, c.quota().TokenSize))
	}
	host, t := c.s.hostOf(ask.Token)
	room, ok := c.hold(t.BodySize())
	if !ok {
		return c.deny(op, wire.Quota, tooMuchLocked)
	}
	defer c.acct.unhold(room)
	plain, err := c.redeem(op, host, t, ask)
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

func (c *conn) redeem(op wire.Op, host *seal.Host, t *token.Token, ask *wire.OpenRequest) (*memsafe.Secret, error) {
	if op == wire.TakeBack {
		return host.TakeBackFor(c.peer(), ask.Token, string(ask.Format))
	}
	exporters := make([]seal.Party, len(ask.Exporters))
	for i, e := range ask.Exporters {
		if err := exporters[i].UnmarshalBinary(e); err != nil {
			return nil, err
		}
	}
	p, err := c.opener(t.Audience.Kind)
	if err != nil {
		return nil, err
	}
	return host.OpenFor(p, exporters, ask.Token, string(ask.Format))
}

// exporterIs reports whether the exporter of an authentic token is a party: a
// user, a member of a group, or what the policy of now names so. Its groups are
// those that it had when it reserved. A token that is in time and has no place in
// its exporter's account is spent.
func (c *conn) exporterIs(t token.Header, who seal.Party) (bool, error) {
	if who == seal.User(t.Exporter) {
		return true, nil
	}
	groups, outstanding := c.s.exporter(&t)
	if !outstanding {
		return false, seal.ErrSpent
	}
	return c.s.policy.Load().isParty(t.Exporter, groups, who), nil
}

// mayImport asks the policy whether the peer may open what an exporter reserved.
func (c *conn) mayImport(t token.Header) error {
	policy := c.s.policy.Load()
	if !policy.limitsImports() {
		return nil
	}
	groups, outstanding := c.s.exporter(&t)
	if !outstanding {
		return seal.ErrSpent
	}
	return policy.mayImport(c.id.UID, c.id.Groups, t.Exporter, groups)
}

// exporter returns the groups that the exporter of an authentic token had when it
// reserved it, and whether the token is still in its account.
func (s *Server) exporter(t *token.Header) (groups []uint32, outstanding bool) {
	acct := s.users.find(t.Exporter)
	if acct == nil {
		return nil, false
	}
	return acct.groupsOf(keyOf(t))
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
	host := c.s.host(suite.Suite(head.Suite))
	if err != nil || host == nil {
		return c.deny(r.op, wire.Defective, "")
	}
	if err := host.CancelFor(c.peer(), start); err != nil {
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
