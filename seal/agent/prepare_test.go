package agent

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/token"
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
