package krb5

import (
	"time"

	"github.com/golang-auth/go-gssapi/v3"
)

// SetNow gives the provider another clock, and lets it give out each time anew.
// Nothing else may use the provider meanwhile.
func (p *Provider) SetNow(now func() time.Time) {
	p.now = now
	p.stamped.Store(0)
}

// Clock gives the provider another clock and nothing else.
func (p *Provider) Clock(now func() time.Time) { p.now = now }

// Stamp is the time that the next authenticator would have.
func (p *Provider) Stamp() time.Time { return p.stamp() }

// LockedBytes is how much locked memory is in use.
func (p *Provider) LockedBytes() int {
	n := 0
	for _, pool := range p.arena.list() {
		n += pool.InUse()
	}
	return n
}

// Pending returns copies of the keys that an initiator holds while it waits.
func Pending(sc gssapi.SecContext) (key, subkey []byte) {
	s := sc.(*secContext).secrets
	return append([]byte(nil), s.key.Bytes()...), append([]byte(nil), s.subkey.Bytes()...)
}

// TakeAcceptorRealm makes the acceptor's name one without a realm, until restore.
func TakeAcceptorRealm(sc gssapi.SecContext) (restore func()) {
	f := &sc.(*secContext).facts
	old := f.acceptor
	bare := *old
	bare.principal.Realm = ""
	f.acceptor = &bare
	return func() { f.acceptor = old }
}
