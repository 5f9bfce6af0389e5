package agent

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/internal/unixsock"
)

// accounts counts what each user has, over all its connections and processes. Safe for
// concurrent use.
type accounts struct {
	bounds  bounds
	foreign atomic.Int64 // descriptors that came and are not closed yet

	mu     sync.Mutex
	byUser map[uint32]*account
}

// An account is one user's.
type account struct {
	uid    uint32
	log    logBucket // warnings and errors that the user causes
	alarms logBucket // second imports of tokens that the user reserved

	closer  unixsock.Closer // of descriptors that came and are not to stay
	hangups unixsock.Closer // of connections, which may have descriptors in them
	closing chan struct{}   // one in it for each refused connection that waits to be closed
	stuck   atomic.Bool     // none of them was closed for a while
	locked  atomic.Int64    // bytes of the pool that its secrets take
	waiting atomic.Int64    // of which so many are in answers that its peers do not read

	mu          sync.Mutex
	connections int
	requests    int
	pending     int // reservations being made
	outstanding map[slotKey]reserved
	groups      []*groupList // of the processes that reserved them
}

// A reserved is a token that is outstanding.
type reserved struct {
	expires time.Duration // since boot
	groups  *groupList    // of the process that reserved it; nil: not known
}

// A groupList is the groups of the processes that reserved some tokens.
type groupList struct {
	groups []uint32
	tokens int
}

// newAccount returns the account of a user, which has nothing yet.
func (a *accounts) newAccount(uid uint32) *account {
	return &account{
		uid: uid, outstanding: map[slotKey]reserved{},
		closer: unixsock.Closer{All: &a.foreign}, closing: make(chan struct{}, a.bounds.closingUser),
	}
}

// of returns the account of a user.
func (a *accounts) of(uid uint32) *account {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.get(uid)
}

// get is of with the lock held.
func (a *accounts) get(uid uint32) *account {
	acct := a.byUser[uid]
	if acct == nil {
		acct = a.newAccount(uid)
		if a.byUser == nil {
			a.byUser = map[uint32]*account{}
		}
		a.byUser[uid] = acct
	}
	return acct
}

// connect returns a user's account and counts a connection in it, unless that is one
// too many. A user gets no more than half of all connections, and fewer while
// descriptors that it has sent wait to be closed.
func (a *accounts) connect(uid uint32, limit int) (acct *account, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	acct = a.get(uid)
	acct.mu.Lock()
	defer acct.mu.Unlock()
	share := (a.bounds.connections+1)/2 - inConnections(acct.closer.Held())
	if acct.connections >= min(limit, share) {
		return acct, false
	}
	acct.connections++
	return acct, true
}

// room is how many connections there may be.
func (a *accounts) room() int {
	return a.bounds.connections - inConnections(int(a.foreign.Load()))
}

// inConnections is how many connections take as many descriptors.
func inConnections(descriptors int) int {
	return (descriptors + connectionDescriptors - 1) / connectionDescriptors
}

// find returns the account of a user, or nil.
func (a *accounts) find(uid uint32) *account {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byUser[uid]
}

// all returns every account.
func (a *accounts) all() []*account {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*account, 0, len(a.byUser))
	for _, acct := range a.byUser {
		list = append(list, acct)
	}
	return list
}

// sweep forgets tokens that have expired by now, and users that have nothing.
func (a *accounts) sweep(now time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, acct := range a.byUser {
		acct.mu.Lock()
		acct.expire(now)
		if acct.idle() {
			delete(a.byUser, uid)
		}
		acct.mu.Unlock()
	}
}

// idle reports, with the lock held, whether the account says nothing that a new one
// would not.
func (a *account) idle() bool {
	return a.connections == 0 && len(a.outstanding) == 0 && a.closer.Held() == 0 && len(a.closing) == 0 &&
		a.log.idle() && a.alarms.idle()
}

// hold counts n bytes of locked memory, unless the user has more than its share then.
// One secret it may always have, since a small pool has room for few.
func (a *account) hold(n, share int64) bool {
	if now := a.locked.Add(n); now > share && now > n {
		a.locked.Add(-n)
		return false
	}
	return true
}

func (a *account) unhold(n int64) { a.locked.Add(-n) }

func (a *account) disconnect() {
	a.mu.Lock()
	a.connections--
	a.mu.Unlock()
}

// begin counts a request under way, and reports whether it may be.
func (a *account) begin(limit int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.requests >= limit {
		return false
	}
	a.requests++
	return true
}

func (a *account) end() {
	a.mu.Lock()
	a.requests--
	a.mu.Unlock()
}

// reserve counts one more outstanding token and reports whether the limit allows it. A
// call of reserved or unreserved follows.
func (a *account) reserve(limit int, now time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.outstanding)+a.pending >= limit {
		a.expire(now)
	}
	if len(a.outstanding)+a.pending >= limit {
		return false
	}
	a.pending++
	return true
}

func (a *account) reserved(key slotKey, expires time.Duration, groups []uint32) {
	a.mu.Lock()
	a.pending--
	a.outstanding[key] = reserved{expires, a.keepGroups(groups)}
	a.mu.Unlock()
}

func (a *account) unreserved() {
	a.mu.Lock()
	a.pending--
	a.mu.Unlock()
}

// keepGroups returns a list of the account for the groups of a process that has
// reserved one more token, or nil if the account has too many lists. The processes
// of a user have the same groups, or a few kinds of them. A list can have 65,536
// groups: a user who gave each token one of its own would fill the memory.
func (a *account) keepGroups(groups []uint32) *groupList {
	for _, l := range a.groups {
		if slices.Equal(l.groups, groups) {
			l.tokens++
			return l
		}
	}
	if len(a.groups) == maxGroupLists {
		return nil
	}
	l := &groupList{slices.Clone(groups), 1}
	a.groups = append(a.groups, l)
	return l
}

// forget takes a token off the account. It is called with the lock held.
func (a *account) forget(key slotKey) {
	l := a.outstanding[key].groups
	delete(a.outstanding, key)
	if l == nil {
		return
	}
	if l.tokens--; l.tokens == 0 {
		a.groups = slices.DeleteFunc(a.groups, func(other *groupList) bool { return other == l })
	}
}

// groupsOf returns the groups of the process that reserved a token, and whether
// the token is outstanding. Of a token whose groups are not known there are none.
func (a *account) groupsOf(key slotKey) (groups []uint32, outstanding bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.outstanding[key]
	if r.groups == nil {
		return nil, ok
	}
	return r.groups.groups, ok
}

// spent forgets a token that was claimed.
func (a *account) spent(key slotKey) {
	a.mu.Lock()
	a.forget(key)
	a.mu.Unlock()
}

// retired forgets the tokens of an epoch.
func (a *account) retired(epoch [16]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key := range a.outstanding {
		if key.epoch == epoch {
			a.forget(key)
		}
	}
}

// expire is called with the lock held.
func (a *account) expire(now time.Duration) {
	for key, r := range a.outstanding {
		if r.expires+slotLinger <= now {
			a.forget(key)
		}
	}
}

func (a *account) tokens() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.outstanding)
}

// slotKey names one reservation of one epoch; a slot's word is never the same
// twice.
type slotKey struct {
	epoch [16]byte
	index uint32
	word  uint64
}

func keyOf(h *token.Header) slotKey { return slotKey{h.Epoch, h.Slot, h.Word} }
