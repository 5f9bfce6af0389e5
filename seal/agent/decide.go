package agent

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
)

// mayReserve reports whether a process may reserve for a target: a user, which
// stands for its processes too, a group or a service.
func (p *Policy) mayReserve(uid uint32, groups []uint32, target who) bool {
	if target.kind == wordUser && target.id == uid {
		return true
	}
	return p != nil && slices.ContainsFunc(p.allow, func(r rule) bool {
		return r.from.is(uid, groups) && r.to.same(target)
	})
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

// isWho reports whether a process with this user and these groups is somebody
// that a line names.
func (p *Policy) isWho(uid uint32, groups []uint32, w who) bool {
	if w.kind == wordService {
		return slices.ContainsFunc(p.services[w.name], func(w who) bool { return w.is(uid, groups) })
	}
	return w.is(uid, groups)
}

// limitsImports reports whether a line says who must have exported something.
func (p *Policy) limitsImports() bool { return p != nil && len(p.imports) > 0 }

// mayImport returns an error for the first line that does not let the one process
// open what the other reserved.
func (p *Policy) mayImport(uid uint32, groups []uint32, exporter uint32, exporterGroups []uint32) error {
	for i := range p.imports {
		l := &p.imports[i]
		if !p.isWho(uid, groups, l.who) ||
			slices.ContainsFunc(l.from, func(w who) bool { return p.isWho(exporter, exporterGroups, w) }) {
			continue
		}
		return fmt.Errorf("%w: user %s exported it, and line %d of the policy is %q; with %q at its end it would allow this",
			seal.ErrUnauthorized, p.userText(exporter), l.line, l, "user "+p.userName(exporter))
	}
	return nil
}

// refusal says that a process may not reserve for a target, and which line would
// allow it.
func (p *Policy) refusal(uid uint32, target who) string {
	missing := fmt.Sprintf("the line %q would allow it", "allow user "+p.userName(uid)+" to "+target.String())
	if target.kind == wordService && (p == nil || p.services[target.name] == nil) {
		missing = fmt.Sprintf("no line says who service %s is; after one that does, %s", target.name, missing)
	}
	return fmt.Sprintf("the policy does not let user %s reserve for %v; %s", p.userText(uid), target, missing)
}

// noMore says that a user has as much as its quota allows, and which line would
// allow more.
func (p *Policy) noMore(what string, uid uint32, word string, limit int) string {
	return fmt.Sprintf("%s: %d; the line %q with a greater N would allow more", what, limit, "quota user "+p.userName(uid)+" "+word+" N")
}

// targets are the kinds of party that a line can name, with the words for them. A
// process is named by its user.
var targets = map[uint8]func(p *Policy, value []byte) who{
	token.KindUser: func(p *Policy, v []byte) who {
		id := binary.BigEndian.Uint32(v)
		return who{kind: wordUser, id: id, name: p.userName(id)}
	},
	token.KindGroup: func(p *Policy, v []byte) who {
		id := binary.BigEndian.Uint32(v)
		return who{kind: wordGroup, id: id, name: p.groupName(id)}
	},
	token.KindService: func(_ *Policy, v []byte) who { return who{kind: wordService, name: string(v)} },
}

// userName is how a line names a user: by its name, if the policy's files have it.
func (p *Policy) userName(uid uint32) string {
	if p != nil && p.names != nil {
		for _, name := range slices.Sorted(maps.Keys(p.names.users)) {
			if p.names.users[name].uid == uid {
				return name
			}
		}
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// userText is a user's number, and its name if the policy's files have it.
func (p *Policy) userText(uid uint32) string {
	if p == nil || p.names == nil {
		return withName(uid, nil)
	}
	return p.names.userText(uid)
}

func (p *Policy) groupName(gid uint32) string {
	if p != nil && p.names != nil {
		for _, name := range slices.Sorted(maps.Keys(p.names.groups)) {
			if p.names.groups[name].gid == gid {
				return name
			}
		}
	}
	return strconv.FormatUint(uint64(gid), 10)
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
	if p.limitsImports() {
		for i := range p.imports {
			if l := &p.imports[i]; p.isWho(uid, groups, l.who) {
				fmt.Fprintf(&b, "opens only what was exported by\n  %s (line %d)\n", join(l.from, " or "), l.line)
			}
		}
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

// String is the line, as the policy has it.
func (l *importLine) String() string {
	return fmt.Sprintf("import %v from %s", l.who, join(l.from, " "))
}

func join(all []who, between string) string {
	names := make([]string, len(all))
	for i, w := range all {
		names[i] = w.String()
	}
	return strings.Join(names, between)
}

func (r *rule) explain() string {
	if r.to.kind == wordUser {
		return fmt.Sprintf("%v and its processes (line %d)", r.to, r.line)
	}
	return fmt.Sprintf("%v (line %d)", r.to, r.line)
}
