package agent

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

var selfUID = os.Geteuid()

func withPolicy(t testing.TB, format string, args ...any) *Options {
	t.Helper()
	p, err := ParsePolicy(strings.NewReader(fmt.Sprintf(format, args...)))
	require.NoError(t, err)
	return &Options{Policy: p}
}

// A user has so many tokens outstanding, over all its connections; one that is
// opened, taken back, cancelled, expired or retired makes room.
func TestQuotaOutstanding(t *testing.T) {
	in := serveHere(t, withPolicy(t, "quota user %d outstanding 3", selfUID))
	a, b := in.dial(t), in.dial(t)
	full := func() {
		t.Helper()
		_, err := a.Reserve(testRequest)
		require.ErrorIs(t, err, ErrQuota)
		require.ErrorIs(t, err, seal.ErrUnavailable)
		st, err := b.Account()
		require.NoError(t, err)
		require.Equal(t, 3, st.Outstanding)
		require.Equal(t, 3, st.Limit)
	}
	tokens := [][]byte{reserve(t, a, seal.Party{}), reserve(t, b, seal.Party{}), reserve(t, a, seal.Party{})}
	full()

	s, err := b.Open(tokens[0], testFormat)
	require.NoError(t, err)
	s.Wipe()
	r, err := a.Reserve(testRequest)
	require.NoError(t, err)
	full()
	require.NoError(t, r.Cancel())
	short := testRequest
	short.Lifetime = 500 * time.Millisecond
	_, err = b.Reserve(short)
	require.NoError(t, err)
	full()
	time.Sleep(short.Lifetime)
	full() // for as long as the slot is taken
	time.Sleep(slotLinger)
	reserve(t, b, seal.Party{})
	full()
	s, err = a.TakeBack(tokens[1], testFormat)
	require.NoError(t, err)
	s.Wipe()
	reserve(t, a, seal.Party{})
	full()
	head, err := seal.Inspect(tokens[2])
	require.NoError(t, err)
	require.NoError(t, a.Retire(head.Epoch))
	for range 3 {
		reserve(t, a, seal.Party{})
	}
	full()
}

// Requests under way count from their first byte, so that half a request is one.
func TestQuotaRequests(t *testing.T) {
	in := serveHere(t, withPolicy(t, "quota user %d requests 2", selfUID))
	frame := statFrame(t)
	for range 2 {
		c := in.raw(t)
		_, err := c.Write(frame[:5])
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
	}
	acct := func() int {
		a := in.users.find(uint32(selfUID))
		if a == nil {
			return 0
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.requests
	}
	require.Eventually(t, func() bool { return acct() == 2 }, time.Second, time.Millisecond)
	third := in.raw(t)
	third.expect(wire.Quota, frame)
	third.expectEnd()
	_, err := in.dial(t).Account()
	require.ErrorIs(t, err, ErrQuota)
}

func TestQuotaConnections(t *testing.T) {
	in := serveHere(t, withPolicy(t, "quota user %d connections 2", selfUID))
	first, second := in.raw(t), in.raw(t)
	first.expect(wire.OK, statFrame(t))
	second.expect(wire.OK, statFrame(t))
	third := in.raw(t)
	h, _, err := third.answer()
	require.NoError(t, err)
	require.Equal(t, wire.Quota, h.Status)
	third.expectEnd()
	require.NoError(t, first.Close())
	require.Eventually(t, func() bool {
		c := in.raw(t)
		defer c.Close()
		_, _ = c.Write(statFrame(t))
		h, _, err := c.answer()
		return err == nil && h.Status == wire.OK
	}, time.Second, 5*time.Millisecond)
}

// Where there are few descriptors a user gets no more than half of the connections,
// whatever its quota: the rest is for the others.
func TestConnectionsAreShared(t *testing.T) {
	s, err := NewServer(nil)
	require.NoError(t, err)
	s.bound(bounds{connections: 8, closing: 2, closingUser: 1})
	in := serveAs(t, s)
	for range 8 / 2 {
		in.raw(t).expect(wire.OK, statFrame(t))
	}
	h, _, err := in.raw(t).answer()
	require.NoError(t, err)
	require.Equal(t, wire.Quota, h.Status)
}

// A token that is too long for this user is refused by its length, before it is
// read, and is not spent.
func TestQuotaToken(t *testing.T) {
	in := serveHere(t, withPolicy(t, "quota user %d token 2000", selfUID))
	c := in.dial(t)
	small := reserve(t, c, seal.Party{})
	r, err := c.Reserve(testRequest)
	require.NoError(t, err)
	large, err := r.Seal(make([]byte, 4000))
	require.NoError(t, err)
	for range 3 {
		_, err = c.Open(large, testFormat)
		require.ErrorIs(t, err, ErrQuota)
		_, err = c.Status(large)
		require.ErrorIs(t, err, ErrQuota)
	}
	s, err := c.Open(small, testFormat)
	require.NoError(t, err)
	s.Wipe()
	in.SetPolicy(withPolicy(t, "quota everyone token 0").Policy) // which concerns no other request
	reserve(t, c, seal.User(uint32(selfUID)))
	in.SetPolicy(nil)
	s, err = c.Open(large, testFormat)
	require.NoError(t, err)
	require.Len(t, s.Bytes(), 4000)
	s.Wipe()
}

// No request but those with a token is long.
func TestLongRequest(t *testing.T) {
	in := serveHere(t, nil)
	long, err := (&wire.ReserveRequest{Suites: []byte{1}, Format: make([]byte, 5000)}).Marshal()
	require.NoError(t, err)
	c := in.raw(t)
	c.expect(wire.Quota, long)
	c.expectEnd()
}

// Users that are gone and have nothing outstanding are forgotten.
func TestSweep(t *testing.T) {
	a := accounts{bounds: bounds{connections: 8, closing: 2, closingUser: 1}}
	one, ok := a.connect(1, 1)
	require.True(t, ok)
	_, ok = a.connect(1, 1)
	require.False(t, ok)
	two, _ := a.connect(2, 10)
	require.True(t, one.reserve(1, 0))
	one.reserved(slotKey{index: 1}, 5*time.Second, nil)
	require.False(t, one.reserve(1, time.Second))
	one.disconnect()
	two.disconnect()
	a.sweep(time.Second)
	require.Len(t, a.all(), 1)
	require.Same(t, one, a.find(1))
	a.sweep(5 * time.Second)
	require.Len(t, a.all(), 1, "its slot is taken a little longer")
	a.sweep(5*time.Second + slotLinger)
	require.Empty(t, a.all())
}

// The quota counts slots: one whose token has expired is taken for a moment more.
func TestQuotaOfShortLives(t *testing.T) {
	in := serveHere(t, withPolicy(t, "quota everyone outstanding 10"))
	c := in.dial(t)
	req := testRequest
	req.Lifetime = time.Nanosecond
	for range 10 {
		_, err := c.Reserve(req)
		require.NoError(t, err)
	}
	_, err := c.Reserve(req)
	require.ErrorIs(t, err, ErrQuota)
}
