package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
)

// ErrPolicy: a policy has a line that cannot be understood. The error that wraps
// it names each such line.
var ErrPolicy = errors.New("agent: bad policy")

// A Policy says who may reserve tokens for whom, what the named services are,
// and how much each user may have. It does not change once parsed; safe for
// concurrent use. The nil Policy is the empty one: every user for itself, with
// the default quota.
type Policy struct {
	allow    []rule
	imports  []importLine
	services map[string][]who
	quotas   map[uint32]Quota // by user
	standard Quota            // of all others
	names    *names
	path     string // of the file, if ReadPolicy read it
	lines    int    // that say something
}

// A Quota is what one user may have at a time, whatever its number of
// connections and processes.
type Quota struct {
	Outstanding int // tokens reserved and neither opened, cancelled nor expired
	Requests    int // requests under way, from the first byte of one to the last of its answer
	Connections int // open connections
	TokenSize   int // bytes of a token that it sends to be opened or taken back
}

// DefaultQuota is the quota of a user unless the policy says otherwise: 1024
// tokens and as many connections, 256 requests, tokens of any size.
func DefaultQuota() Quota {
	return Quota{Outstanding: 1024, Requests: 256, Connections: 1024, TokenSize: token.MaxToken}
}

// who is a user, a group, a service, or everyone.
type who struct {
	kind string // "user", "group", "service" or "everyone"
	id   uint32 // of a user or a group
	name string // as the policy has it
}

// same reports whether two are one and the same: users and groups by number.
func (w who) same(other who) bool {
	return w.kind == other.kind && w.id == other.id && (w.kind != wordService || w.name == other.name)
}

// is reports whether a process is the user, is in the group, or is anyone. Which
// processes are a service, only a policy says: see isWho.
func (w who) is(uid uint32, groups []uint32) bool {
	switch w.kind {
	case wordUser:
		return w.id == uid
	case wordGroup:
		return slices.Contains(groups, w.id)
	}
	return w.kind == wordEveryone
}

func (w who) String() string {
	if w.kind == wordEveryone {
		return w.kind
	}
	return w.kind + " " + w.name
}

// A rule is one allow line.
type rule struct {
	line int
	from who
	to   who // a service too, and not everyone
}

// An importLine says whose tokens a process may import.
type importLine struct {
	line int
	who  who   // a service too
	from []who // users, groups and services
}

// The words of a policy.
const (
	wordImport      = "import"
	wordFrom        = "from"
	wordAllow       = "allow"
	wordTo          = "to"
	wordService     = "service"
	wordIs          = "is"
	wordQuota       = "quota"
	wordUser        = "user"
	wordGroup       = "group"
	wordEveryone    = "everyone"
	wordOutstanding = "outstanding"
	wordRequests    = "requests"
	wordConnections = "connections"
	wordToken       = "token"
)

// ParsePolicy reads a policy: lines of words, with comments from '#' on.
//
//	allow WHO to TARGET            WHO may reserve tokens for TARGET
//	service NAME is WHO [WHO ...]  who may open a token for the service
//	import WHO from WHO [WHO ...]  the first opens only what one of the others reserved
//	quota WHO LIMIT N [LIMIT N ...]
//
// WHO is "user NAME", "group NAME" or "everyone", with a number for a name where
// one likes; in a quota line it is a user or "everyone", for all users that no
// other line names. TARGET is a user, a group or "service NAME"; to be allowed a
// user is to be allowed each of its processes too. LIMIT is "outstanding",
// "requests", "connections" or "token" (bytes), see Quota. What no line allows
// is refused, but every user may reserve for itself and for its own processes.
// In an import line WHO can also be "service NAME", and behind "from" not
// "everyone". Every import line for the user, a group or a service of a process
// counts for whatever it opens; taking back is not importing.
//
// Names are looked up, now, in /etc/passwd and /etc/group, and nowhere else:
// users of other directories are given by number. The error wraps ErrPolicy and
// names each line that has an unknown word, name or service, a number out of
// range, or a thing said twice; an error of reading comes back as it is.
func ParsePolicy(r io.Reader) (*Policy, error) {
	known, err := readNames()
	if err != nil {
		return nil, err
	}
	return parsePolicy(r, known)
}

func parsePolicy(r io.Reader, known *names) (*Policy, error) {
	p := &policyParser{
		policy: &Policy{services: map[string][]who{}, quotas: map[uint32]Quota{}, standard: DefaultQuota(), names: known},
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxPolicyLine)
	for lines.Scan() {
		p.line++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if p.words = strings.Fields(text); len(p.words) == 0 {
			continue
		}
		p.policy.lines++
		if err := p.parseLine(); err != nil {
			p.fault(p.line, err)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		p.fault(p.line+1, fmt.Errorf("it is longer than %d bytes", maxPolicyLine))
	case err != nil:
		return nil, fmt.Errorf("agent: reading the policy: %w", err)
	}
	p.finish()
	if len(p.faults) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrPolicy, errors.Join(p.faults...))
	}
	return p.policy, nil
}

type policyParser struct {
	policy *Policy
	line   int
	words  []string // what is left of the line
	faults []error
	quotas []quotaLine
}

// A quotaLine is applied once the standard quota is known.
type quotaLine struct {
	line   int
	who    who
	limits []limit
}

type limit struct {
	word string
	n    int
}

func (p *policyParser) fault(line int, err error) {
	p.faults = append(p.faults, fmt.Errorf("line %d: %w", line, err))
}

func (p *policyParser) parseLine() error {
	var err error
	switch word := p.next(); word {
	case wordAllow:
		err = p.parseAllow()
	case wordService:
		err = p.parseService()
	case wordImport:
		err = p.parseImport()
	case wordQuota:
		err = p.parseQuota()
	default:
		return fmt.Errorf("unknown word %q; a line begins with allow, service, import or quota", word)
	}
	if err == nil && len(p.words) > 0 {
		err = fmt.Errorf("%q is too much", p.words[0])
	}
	return err
}

// next takes the next word of the line, or "" at its end.
func (p *policyParser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	word := p.words[0]
	p.words = p.words[1:]
	return word
}

func (p *policyParser) expect(word string) error {
	if got := p.next(); got != word {
		return fmt.Errorf("%q where %q should be", got, word)
	}
	return nil
}

// who reads "user NAME", "group NAME" or "everyone".
func (p *policyParser) who() (w who, err error) {
	switch w.kind = p.next(); w.kind {
	case wordEveryone:
		return w, nil
	case wordUser:
		w.name = p.next()
		w.id, err = p.policy.names.user(w.name)
	case wordGroup:
		w.name = p.next()
		w.id, err = p.policy.names.group(w.name)
	default:
		err = fmt.Errorf("%q where user, group or everyone should be", w.kind)
	}
	return w, err
}

func (p *policyParser) parseAllow() error {
	r := rule{line: p.line}
	var err error
	if r.from, err = p.who(); err != nil {
		return err
	}
	if err := p.expect(wordTo); err != nil {
		return err
	}
	if r.to, err = p.whoOrService(); err != nil {
		return err
	}
	if r.to.kind == wordEveryone {
		return errors.New("a token is for a user, a group, a service or a process, not for everyone")
	}
	p.policy.allow = append(p.policy.allow, r)
	return nil
}

func (p *policyParser) parseService() error {
	name := p.next()
	if _, err := seal.Service(name); err != nil {
		return err
	}
	if p.policy.services[name] != nil {
		return fmt.Errorf("service %s is there already", name)
	}
	if err := p.expect(wordIs); err != nil {
		return err
	}
	for {
		w, err := p.who()
		if err != nil {
			return err
		}
		p.policy.services[name] = append(p.policy.services[name], w)
		if len(p.words) == 0 {
			return nil
		}
	}
}

func (p *policyParser) parseImport() error {
	l := importLine{line: p.line}
	var err error
	if l.who, err = p.whoOrService(); err != nil {
		return err
	}
	if err := p.expect(wordFrom); err != nil {
		return err
	}
	for {
		w, err := p.whoOrService()
		if err != nil {
			return err
		}
		if w.kind == wordEveryone {
			return errors.New("what everyone exported is what no line forbids")
		}
		l.from = append(l.from, w)
		if len(p.words) == 0 {
			p.policy.imports = append(p.policy.imports, l)
			return nil
		}
	}
}

// whoOrService is who, or reads "service NAME".
func (p *policyParser) whoOrService() (who, error) {
	if len(p.words) > 0 && p.words[0] == wordService {
		p.next()
		return who{kind: wordService, name: p.next()}, nil
	}
	return p.who()
}

func (p *policyParser) parseQuota() error {
	q := quotaLine{line: p.line}
	var err error
	if q.who, err = p.who(); err != nil {
		return err
	}
	if q.who.kind == wordGroup {
		return errors.New("quotas are by user, not by group")
	}
	for {
		l := limit{word: p.next()}
		most, ok := limitRange[l.word]
		if !ok {
			return fmt.Errorf("%q where outstanding, requests, connections or token should be", l.word)
		}
		number := p.next()
		if l.n, err = strconv.Atoi(number); err != nil || l.n < 0 || l.n > most {
			return fmt.Errorf("%s %q is not a number from 0 to %d", l.word, number, most)
		}
		for _, other := range q.limits {
			if other.word == l.word {
				return fmt.Errorf("%s is said twice", l.word)
			}
		}
		q.limits = append(q.limits, l)
		if len(p.words) == 0 {
			p.quotas = append(p.quotas, q)
			return nil
		}
	}
}

// limitRange bounds what a line can say: more than a machine can give is a slip.
var limitRange = map[string]int{
	wordOutstanding: maxOutstanding,
	wordRequests:    1 << 20,
	wordConnections: 1 << 20,
	wordToken:       token.MaxToken,
}

func (q *Quota) set(l limit) {
	switch l.word {
	case wordOutstanding:
		q.Outstanding = l.n
	case wordRequests:
		q.Requests = l.n
	case wordConnections:
		q.Connections = l.n
	case wordToken:
		q.TokenSize = l.n
	}
}

// known checks that a line says who a service is.
func (p *policyParser) known(line int, w who) {
	if w.kind == wordService && p.policy.services[w.name] == nil {
		p.fault(line, fmt.Errorf("no line says who service %q is", w.name))
	}
}

// finish checks what only the whole policy shows. The quota of everyone is what
// the others start from, wherever its line stands.
func (p *policyParser) finish() {
	for _, r := range p.policy.allow {
		p.known(r.line, r.to)
	}
	for _, l := range p.policy.imports {
		for _, w := range append([]who{l.who}, l.from...) {
			p.known(l.line, w)
		}
	}
	everyone := false
	for _, q := range p.quotas {
		if q.who.kind != wordEveryone {
			continue
		}
		if everyone {
			p.fault(q.line, errors.New("the quota of everyone is there already"))
		}
		everyone = true
		for _, l := range q.limits {
			p.policy.standard.set(l)
		}
	}
	for _, q := range p.quotas {
		if q.who.kind != wordUser {
			continue
		}
		if _, twice := p.policy.quotas[q.who.id]; twice {
			p.fault(q.line, fmt.Errorf("the quota of %v is there already", q.who))
		}
		quota := p.policy.standard
		for _, l := range q.limits {
			quota.set(l)
		}
		p.policy.quotas[q.who.id] = quota
	}
}
