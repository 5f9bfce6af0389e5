package agent

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// A client gives its context up for the audience that it asked for, and for no other that
// an agent answers with: not for another kind with the same number, another number, or
// another name.
func TestReservationForAnother(t *testing.T) {
	self := uint32(os.Geteuid())
	mail, err := seal.Service("mail")
	require.NoError(t, err)
	web, err := seal.Service("web")
	require.NoError(t, err)
	here, err := seal.Process(os.Getpid())
	require.NoError(t, err)
	parent, err := seal.Process(os.Getppid())
	require.NoError(t, err)
	for _, tt := range []struct{ asked, answered seal.Party }{
		{seal.Party{}, seal.User(self + 1)},
		{seal.Party{}, seal.Group(self)},
		{seal.User(4711), seal.User(4712)},
		{seal.User(4711), seal.Group(4711)},
		{seal.Group(4711), seal.User(4711)},
		{seal.Group(4711), seal.Group(4712)},
		{mail, web},
		{mail, seal.User(self)},
		{here, seal.User(self)},
		{here, mail},
		{parent, seal.Group(self)},
	} {
		t.Run(fmt.Sprintf("%v for %v", tt.answered, tt.asked), func(t *testing.T) {
			reserveAs := func(to seal.Party) error {
				c := scripted(t, reservations(t, to))
				req := testRequest
				req.Audience = tt.asked
				_, err := c.Reserve(req)
				if err != nil {
					require.Zero(t, c.pool.InUse(), "a key is left")
				}
				return err
			}
			require.ErrorIs(t, reserveAs(tt.answered), ErrProtocol)
			good := tt.asked
			if good == (seal.Party{}) {
				good = seal.User(self)
			}
			require.NoError(t, reserveAs(good), "the control")
		})
	}
}

// reservations answers each reserve request with a reservation for an audience, and cancels
// with OK.
func reservations(t *testing.T, to seal.Party) func(wire.Op) []byte {
	t.Helper()
	bin, err := to.MarshalBinary()
	require.NoError(t, err)
	clock, err := boottime.New()
	require.NoError(t, err)
	now, err := clock.Now()
	require.NoError(t, err)
	head := token.Header{
		Suite: suite.AES256GCM, Issued: now, Expires: now + time.Minute, Word: 2, Exporter: uint32(os.Geteuid()),
		Mechanism: testRequest.Mechanism, Format: []byte(testFormat),
		Audience: token.Audience{Kind: bin[0], Value: bin[1:]},
	}
	start, err := head.Append(nil)
	require.NoError(t, err)
	start = append(start, make([]byte, token.CommitmentSize)...)
	return func(op wire.Op) []byte {
		if op != wire.Reserve {
			return wire.Frame(wire.Header{Op: op, Reply: true}, nil)
		}
		return append(append(wire.KeyPrefix(token.KeySize, len(start)), make([]byte, token.KeySize)...), wire.KeySuffix(start)...)
	}
}

// Reservations that are being made count at the quota: as many requests at once as there
// are connections do not get more than it allows.
func TestPendingReservationsCount(t *testing.T) {
	a := accounts{bounds: bounds{connections: 8, closing: 2, closingUser: 1}}
	acct := a.of(1)
	require.True(t, acct.reserve(2, 0))
	require.True(t, acct.reserve(2, 0))
	require.False(t, acct.reserve(2, 0), "two are being made")
	acct.reserved(slotKey{index: 1}, time.Hour, nil)
	require.False(t, acct.reserve(2, 0), "one is made and one is being made")
	acct.unreserved()
	require.True(t, acct.reserve(2, 0), "the control: one did not come about")
}

// A policy that is put in force counts for connections that are open, at their next
// request: its services, whom it lets reserve, and its quotas.
func TestPolicyOfLivingConnection(t *testing.T) {
	needRoot(t)
	with := withPolicy(t, "allow user 0 to service mail\nallow user 0 to user 4711\nservice mail is user %d", otherUID)
	in := serveHere(t, with)
	mail, err := seal.Service("mail")
	require.NoError(t, err)
	exporter := in.dial(t)
	worker := in.as(t, otherUID)
	openAs := func(code wire.Code) {
		t.Helper()
		worker.expect(code, openFrame(t, reserve(t, exporter, mail)))
	}
	reserveFor := func(to seal.Party) error {
		req := testRequest
		req.Audience = to
		_, err := exporter.Reserve(req)
		return err
	}
	openAs(wire.OK) // which it remembers
	require.NoError(t, reserveFor(seal.User(4711)))

	in.SetPolicy(withPolicy(t, "allow user 0 to service mail\nservice mail is user %d", thirdUID).Policy)
	openAs(wire.Unauthorized)
	require.ErrorIs(t, reserveFor(seal.User(4711)), ErrRefused)
	in.SetPolicy(with.Policy)
	openAs(wire.OK)
	in.SetPolicy(withPolicy(t, "quota user 0 outstanding 0").Policy)
	require.ErrorIs(t, reserveFor(seal.Party{}), ErrQuota)
	in.SetPolicy(withPolicy(t, "quota user %d requests 0", otherUID).Policy)
	worker.expect(wire.Quota, statFrame(t))
}

// A group's number is no user's, and a user's no group's, wherever a policy has one.
func TestGroupIsNoUser(t *testing.T) {
	p := withPolicy(t, "allow user 10 to user 20\nallow group 11 to group 21\nservice s is user 30\nservice g is group 31\nquota user 40 outstanding 7").Policy
	for _, tt := range []struct {
		uid    uint32
		groups []uint32
		target who
		may    bool
	}{
		{10, nil, who{kind: wordUser, id: 20}, true},
		{1, []uint32{10}, who{kind: wordUser, id: 20}, false},
		{10, nil, who{kind: wordGroup, id: 20}, false},
		{1, []uint32{11}, who{kind: wordGroup, id: 21}, true},
		{11, nil, who{kind: wordGroup, id: 21}, false},
		{1, []uint32{11}, who{kind: wordUser, id: 21}, false},
		{5, nil, who{kind: wordUser, id: 5}, true},   // for itself
		{5, nil, who{kind: wordGroup, id: 5}, false}, // which is not that group
		{1, []uint32{5}, who{kind: wordGroup, id: 5}, false},
		{1, []uint32{5}, who{kind: wordUser, id: 5}, false},
	} {
		require.Equal(t, tt.may, p.mayReserve(tt.uid, tt.groups, tt.target), "%+v", tt)
	}
	require.Equal(t, []string{"s"}, p.servicesOf(30, nil))
	require.Empty(t, p.servicesOf(1, []uint32{30}))
	require.Equal(t, []string{"g"}, p.servicesOf(1, []uint32{31}))
	require.Empty(t, p.servicesOf(31, nil))
	require.Equal(t, 7, p.quota(40).Outstanding)
	require.NotEqual(t, 7, p.quota(41).Outstanding)
}
