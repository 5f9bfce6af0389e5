package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sealctx/sealctx/seal/agent/internal/peer"
)

// mayReserveUser reports whether a peer may reserve for a user and for the
// processes of that user.
func (p *Policy) mayReserveUser(uid uint32, groups []uint32, target uint32) bool {
	return uid == target || p.allows(uid, groups, func(r *rule) bool { return r.to.kind == wordUser && r.to.id == target })
}

func (p *Policy) mayReserveGroup(uid uint32, groups []uint32, target uint32) bool {
	return p.allows(uid, groups, func(r *rule) bool { return r.to.kind == wordGroup && r.to.id == target })
}

func (p *Policy) mayReserveService(uid uint32, groups []uint32, name string) bool {
	return p.allows(uid, groups, func(r *rule) bool { return r.service == name && name != "" })
}

func (p *Policy) allows(uid uint32, groups []uint32, target func(*rule) bool) bool {
	if p == nil {
		return false
	}
	for i := range p.allow {
		if r := &p.allow[i]; r.from.is(uid, groups) && target(r) {
			return true
		}
	}
	return false
}

// servicesOf returns the services that a peer is, sorted.
func (p *Policy) servicesOf(uid uint32, groups []uint32) []string {
	if p == nil {
		return nil
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(p.services)) {
		if slices.ContainsFunc(p.services[name], func(w who) bool { return w.is(uid, groups) }) {
			names = append(names, name)
		}
	}
	return names
}

// quota returns what a user may have.
func (p *Policy) quota(uid uint32) Quota {
	if p == nil {
		return DefaultQuota()
	}
	if q, ok := p.quotas[uid]; ok {
		return q
	}
	return p.standard
}

// Explain says in words what the policy gives to a user, by name or number: for
// whom it may reserve, whose tokens it may open, its quota. The groups are those
// of /etc/group; a process may run with others, and those count. It returns an
// error for a name that is not in /etc/passwd.
func (p *Policy) Explain(user string) (string, error) {
	known, err := p.lookups()
	if err != nil {
		return "", err
	}
	uid, err := known.user(user)
	if err != nil {
		return "", err
	}
	ns, err := peer.NewNamespace()
	if err != nil {
		return "", err
	}
	groups := known.groupsOf(uid)
	var b strings.Builder
	fmt.Fprintf(&b, "user %s\n", known.userText(uid))
	if ns.Unmapped(uid) {
		fmt.Fprintf(&b, "  stands for all users without a number here: an agent refuses every connection of it\n")
		return b.String(), nil
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "  is in group %s\n", known.groupText(g))
	}
	fmt.Fprintf(&b, "may reserve tokens for\n  itself and its processes\n")
	if p != nil {
		for i := range p.allow {
			if r := &p.allow[i]; r.from.is(uid, groups) {
				fmt.Fprintf(&b, "  %s\n", r.explain())
			}
		}
	}
	fmt.Fprintf(&b, "may open tokens for\n  user %s\n", known.userText(uid))
	for _, g := range groups {
		fmt.Fprintf(&b, "  group %s\n", known.groupText(g))
	}
	for _, name := range p.servicesOf(uid, groups) {
		fmt.Fprintf(&b, "  service %s\n", name)
	}
	q := p.quota(uid)
	fmt.Fprintf(&b, "may have at a time\n  %d tokens outstanding\n  %d requests under way\n  %d connections\n  tokens of %d bytes\n",
		q.Outstanding, q.Requests, q.Connections, q.TokenSize)
	return b.String(), nil
}

func (p *Policy) lookups() (*names, error) {
	if p == nil || p.names == nil {
		return readNames()
	}
	return p.names, nil
}

func (r *rule) explain() string {
	switch {
	case r.service != "":
		return fmt.Sprintf("service %s (line %d)", r.service, r.line)
	case r.to.kind == wordUser:
		return fmt.Sprintf("%v and its processes (line %d)", r.to, r.line)
	}
	return fmt.Sprintf("%v (line %d)", r.to, r.line)
}
