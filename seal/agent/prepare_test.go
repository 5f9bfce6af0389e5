package agent

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// ask sends a frame and returns the answer's body, whose status must be code.
func (c *rawConn) ask(code wire.Code, frame []byte, err error) []byte {
	c.t.Helper()
	require.NoError(c.t, err)
	_, _, err = c.WriteMsgUnix(frame, c.cred, nil)
	require.NoError(c.t, err)
	h, body, err := c.answer()
	require.NoError(c.t, err)
	require.Equal(c.t, code, h.Status, "%s", body)
	return body
}

func (c *rawConn) prepare(code wire.Code, r wire.PrepareRequest) [][]byte {
	c.t.Helper()
	frame, err := r.Marshal()
	body := c.ask(code, frame, err)
	if code != wire.OK {
		return nil
	}
	starts, err := wire.ParsePrepared(body)
	require.NoError(c.t, err)
	require.Len(c.t, starts, r.Count)
	return starts
}

func (c *rawConn) seal(code wire.Code, start, plain []byte) []byte {
	c.t.Helper()
	prefix, err := wire.SealPrefix(start, len(plain))
	body := c.ask(code, append(prefix, plain...), err)
	if code != wire.OK {
		return nil
	}
	sealed, err := wire.ParseSealed(body)
	require.NoError(c.t, err)
	require.True(c.t, bytes.HasPrefix(sealed, start))
	return sealed
}

func (c *rawConn) openAny(code wire.Code, token []byte, formats ...string) []byte {
	c.t.Helper()
	r := wire.OpenAnyRequest{Token: token}
	for _, f := range formats {
		r.Formats = append(r.Formats, []byte(f))
	}
	frame, err := r.Marshal()
	return c.ask(code, frame, err)
}

var prepareOne = wire.PrepareRequest{Count: 1, Format: []byte(testFormat)}

// The agent seals for a client that has no cipher: what it seals opens once, for any of
// the formats that the opener reads, whatever its size.
func TestSealedByAgent(t *testing.T) {
	in := serveHere(t, nil)
	c := in.raw(t)
	client, err := Dial(in.path)
	require.NoError(t, err)
	defer client.Close()
	for _, n := range []int{0, 1, 511, 512, 4096, 49151} {
		plain := bytes.Repeat([]byte{0xa5}, n)
		sealed := c.seal(wire.OK, c.prepare(wire.OK, prepareOne)[0], plain)
		secret, err := client.Open(sealed, testFormat)
		require.NoError(t, err, "%d bytes", n)
		require.True(t, bytes.Equal(plain, secret.Bytes()))
		secret.Wipe()
		c.openAny(wire.Spent, sealed, testFormat)

		sealed = c.seal(wire.OK, c.prepare(wire.OK, prepareOne)[0], plain)
		c.openAny(wire.OtherFormat, sealed, "other/1", "other/2")
		body := c.openAny(wire.OK, sealed, "other/1", testFormat, "other/2")
		require.True(t, bytes.Equal(plain, body[4:]))
		c.openAny(wire.Spent, sealed, testFormat)
	}
}

// A reservation belongs to the connection that made it: no other connection has a
// token sealed under it, and none is sealed twice.
func TestPreparedBelongsToConnection(t *testing.T) {
	in := serveHere(t, nil)
	c, other := in.raw(t), in.raw(t)
	starts := c.prepare(wire.OK, wire.PrepareRequest{Count: 3, Format: []byte(testFormat)})
	other.seal(wire.BadRequest, starts[0], []byte("plain"))
	c.seal(wire.OK, starts[1], []byte("plain")) // the control: this one may
	c.seal(wire.BadRequest, starts[1], []byte("plain"))
	altered := bytes.Clone(starts[2])
	altered[30] ^= 1
	c.seal(wire.BadRequest, altered, []byte("plain"))
	c.seal(wire.OK, starts[2], []byte("plain"))
}

// What was reserved and not sealed is given back with its connection, and counts until then.
func TestPreparedEndsWithConnection(t *testing.T) {
	in := serveHere(t, withPolicy(t, "quota everyone outstanding 20"))
	c := in.raw(t)
	c.prepare(wire.OK, wire.PrepareRequest{Count: wire.MaxPrepared, Format: []byte(testFormat)})
	c.prepare(wire.Quota, prepareOne) // of the connection
	other := in.raw(t)
	other.prepare(wire.OK, wire.PrepareRequest{Count: 4, Format: []byte(testFormat)})
	other.prepare(wire.Quota, prepareOne) // of the user
	// A refused request keeps nothing of what it had begun to reserve.
	third := in.raw(t)
	third.prepare(wire.Quota, wire.PrepareRequest{Count: 2, Format: []byte(testFormat)})
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool {
		frame, err := wire.MarshalStat()
		st, parseErr := wire.ParseStatus(other.ask(wire.OK, frame, err))
		require.NoError(t, parseErr)
		return st.Outstanding == 4
	}, time.Minute, 10*time.Millisecond)
	third.prepare(wire.OK, wire.PrepareRequest{Count: 16, Format: []byte(testFormat)})
}

// A token that could not be sealed keeps no place.
func TestSealTooLate(t *testing.T) {
	in := serveHere(t, nil)
	c := in.raw(t)
	start := c.prepare(wire.OK, wire.PrepareRequest{Count: 1, Lifetime: time.Nanosecond, Format: []byte(testFormat)})[0]
	c.seal(wire.Expired, start, []byte("plain"))
	c.seal(wire.BadRequest, start, []byte("plain"))

	start = c.prepare(wire.OK, prepareOne)[0]
	head, _, err := token.ParseHeader(start)
	require.NoError(t, err)
	require.NoError(t, in.dial(t).Retire(head.Epoch))
	c.seal(wire.Unavailable, start, []byte("plain"))
}

// The keys of prepared tokens are locked memory of their user, of which one user gets half.
func TestPreparedKeysCount(t *testing.T) {
	const size = 4096 // a page, of which half is 32 keys of 64 bytes
	s, err := newServer(nil, size)
	require.NoError(t, err)
	in := serveAs(t, s)
	all := wire.PrepareRequest{Count: wire.MaxPrepared, Format: []byte(testFormat)}
	first, second, third := in.raw(t), in.raw(t), in.raw(t)
	starts := first.prepare(wire.OK, all)
	second.prepare(wire.OK, all)
	require.Equal(t, size/2, in.pool.InUse(), "the control")
	third.prepare(wire.Quota, prepareOne)
	_, err = in.dial(t).Reserve(testRequest)
	require.ErrorIs(t, err, ErrQuota)
	require.ErrorContains(t, err, "locked memory")
	first.seal(wire.OK, starts[0], []byte("plain"))
	third.prepare(wire.OK, prepareOne)
	require.NoError(t, second.Close())
	require.Eventually(t, func() bool { return in.pool.InUse() == size/4 }, time.Minute, time.Millisecond)
	acct := in.users.find(uint32(selfUID))
	require.Eventually(t, func() bool { return acct.locked.Load() == size/4 }, time.Minute, time.Millisecond)
}

// A connection that goes on does not keep the keys of prepared tokens whose time is over.
func TestPreparedExpire(t *testing.T) {
	s, err := NewServer(nil)
	require.NoError(t, err)
	s.times.prepared = 0
	in := serveAs(t, s)
	c := in.raw(t)
	c.prepare(wire.OK, prepareOne) // the control
	c.prepare(wire.OK, wire.PrepareRequest{Count: 3, Lifetime: time.Nanosecond, Format: []byte(testFormat)})
	c.expect(wire.OK, statFrame(t))
	settles(t, memsafe.Room(token.KeySize), in.pool.InUse)
	require.Equal(t, memsafe.Room(token.KeySize), in.pool.InUse())
}

// A user's secrets take its share of the locked memory, or one takes more.
func TestLockedShare(t *testing.T) {
	var a account
	require.True(t, a.hold(60, 100))
	require.True(t, a.hold(40, 100))
	require.False(t, a.hold(1, 100))
	a.unhold(60)
	require.True(t, a.hold(60, 100), "what was given back can be had again")
	a.unhold(100)
	require.True(t, a.hold(1000, 100), "a small pool has room for few")
	require.False(t, a.hold(1, 100))
	a.unhold(1000)
	require.Zero(t, a.locked.Load())
}

// A token that its exporter's quota does not let anybody open is not sealed, and its
// slot comes back. One byte less is.
func TestSealBeyondQuota(t *testing.T) {
	in := serveHere(t, withPolicy(t, "quota everyone token 2000 outstanding 1"))
	c := in.raw(t)
	for _, plain := range []int{1800, 1600} {
		start := c.prepare(wire.OK, prepareOne)[0]
		c.seal(wire.Quota, start, make([]byte, plain)) // a body of 2,048 bytes
	}
	sealed := c.seal(wire.OK, c.prepare(wire.OK, prepareOne)[0], make([]byte, 1500))
	require.LessOrEqual(t, len(sealed), 2000)
	c.openAny(wire.OK, sealed, testFormat)
}

// The keys of all users' prepared reservations together leave room for other requests.
func TestPreparedRoom(t *testing.T) {
	const size = 4096
	s, err := newServer(nil, size)
	require.NoError(t, err)
	in := serveAs(t, s)
	in.prepared.Store(in.part(preparedPart) - 64) // of other users
	c := in.raw(t)
	start := c.prepare(wire.OK, prepareOne)[0]
	c.prepare(wire.Quota, prepareOne)
	reserve(t, in.dial(t), seal.Party{}) // other requests go on
	c.seal(wire.OK, start, []byte("plain"))
	c.prepare(wire.OK, prepareOne)
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { return in.prepared.Load() == in.part(preparedPart)-64 }, time.Minute, time.Millisecond)
}
