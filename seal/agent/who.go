package agent

import (
	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// A conn is the one that asks a host: the peer at its other end.
var _ ask.Who = (*conn)(nil)

func (c *conn) User() uint32             { return c.id.UID }
func (c *conn) Groups() []uint32         { return c.id.Groups }
func (c *conn) Process() ([]byte, error) { return c.id.Process() }

// Services are those that the policy of now gives the peer.
func (c *conn) Services() []string {
	if policy := c.s.policy.Load(); c.policy != policy || c.services == nil {
		c.policy, c.services = policy, policy.servicesOf(c.id.UID, c.id.Groups)
	}
	return c.services
}

// MayInspect is for administrators.
func (c *conn) MayInspect() bool { return c.admin() }

// MayReserve was decided when the audience was read, see conn.audience: only then
// the user of a process is known.
func (c *conn) MayReserve(uint8, string) error { return nil }

// MayImport asks the policy.
func (c *conn) MayImport(t token.Header) error {
	policy := c.s.policy.Load()
	if !policy.limitsImports() {
		return nil
	}
	groups, err := c.exporterGroups(&t)
	if err != nil {
		return err
	}
	return policy.mayImport(c.id.UID, c.id.Groups, t.Exporter, groups)
}

// Exporter is the process that reserved a token, as it was when it connected.
func (c *conn) Exporter(t token.Header) (ask.Somebody, error) {
	groups, err := c.exporterGroups(&t)
	return &exporter{t.Exporter, groups, c.s.policy.Load()}, err
}

// exporterGroups returns the groups that the exporter of an authentic token had when
// it reserved the token. A token that is in time and has no place in its exporter's
// account is spent.
func (c *conn) exporterGroups(t *token.Header) ([]uint32, error) {
	acct := c.s.users.find(t.Exporter)
	if acct == nil {
		return nil, seal.ErrSpent
	}
	groups, outstanding := acct.groupsOf(keyOf(t))
	if !outstanding {
		return nil, seal.ErrSpent
	}
	return groups, nil
}

// An exporter is a process that may have ended.
type exporter struct {
	uid    uint32
	groups []uint32
	policy *Policy
}

func (e *exporter) User() uint32             { return e.uid }
func (e *exporter) Groups() []uint32         { return e.groups }
func (e *exporter) Services() []string       { return e.policy.servicesOf(e.uid, e.groups) }
func (e *exporter) Process() ([]byte, error) { return nil, ask.ErrAudience }

// host returns the host of a suite as the peer sees it, or nil.
func (c *conn) host(one suite.Suite) *seal.Host {
	for i, h := range c.s.hosts {
		if h.suite == one {
			if c.hosts == nil {
				c.hosts = make([]*seal.Host, len(c.s.hosts))
			}
			if c.hosts[i] == nil {
				c.hosts[i] = h.As(c, c.log)
			}
			return c.hosts[i]
		}
	}
	return nil
}

// offered returns the host of the suite that the agent prefers among those that a
// client offers, or nil.
func (c *conn) offered(suites []byte) *seal.Host {
	for _, h := range c.s.hosts {
		for _, o := range suites {
			if h.suite == suite.Suite(o) {
				return c.host(h.suite)
			}
		}
	}
	return nil
}

// hostOf returns the host that a token is for, and the token taken apart. Bytes that
// are no token, or of a suite that is not here, go to the first host, which refuses
// them.
func (c *conn) hostOf(b []byte) (*seal.Host, *token.Token) {
	t, err := token.Parse(b)
	if err != nil {
		return c.host(c.s.hosts[0].suite), &token.Token{}
	}
	if h := c.host(t.Suite); h != nil {
		return h, &t
	}
	return c.host(c.s.hosts[0].suite), &t
}
