package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// Peers that open the largest tokens and do not read the answers hold locked
// memory of the agent, but half of it at most: the others go on.
func TestDeafPeers(t *testing.T) {
	s, err := NewServer(nil)
	require.NoError(t, err)
	s.times.frame = 2 * time.Second
	in := serveAs(t, s)
	c := in.dial(t)
	open := func() []byte {
		r, err := c.Reserve(testRequest)
		require.NoError(t, err, "the others have no memory left")
		b, err := r.Seal(make([]byte, token.MaxPlain))
		require.NoError(t, err)
		frame, err := (&wire.OpenRequest{Format: []byte(testFormat), Token: b}).Marshal(wire.Open)
		require.NoError(t, err)
		return frame
	}
	const each = 6 // answers: more than a socket holds
	most := 0
	for range 2 * in.pool.Size() / token.MaxPlain {
		deaf := in.raw(t)
		for range each {
			if _, err := deaf.Write(open()); err != nil {
				break // cut off
			}
			time.Sleep(time.Millisecond)
		}
		most = max(most, in.pool.InUse())
	}
	require.Greater(t, most, in.pool.Size()/4, "no answer waited: nothing was shown")
	require.LessOrEqual(t, most, in.pool.Size()/2+2*token.MaxPlain)
	plain, err := c.Open(reserve(t, c, seal.Party{}), testFormat)
	require.NoError(t, err)
	plain.Wipe()
	settles(t, 0, func() int { return int(in.waiting.Load()) })
	settles(t, 0, in.pool.InUse)
}

// An answer that waits counts with all the room that its secret takes in the pool, and
// not with its length: answers of one byte do not take the pool from others. Root.
func TestDeafPeersOfOneByte(t *testing.T) {
	needRoot(t)
	const size, answers = 64 << 10, 140
	s, err := newServer(withPolicy(t, "allow user 0 to user %d\nquota user %d connections 1000", otherUID, otherUID), size)
	require.NoError(t, err)
	s.times.frame = time.Minute
	in := serveAs(t, s)
	c := in.dial(t)
	fits := in.as(t, otherUID).fill(1 << 20)
	cut := 0
	for range answers {
		req := testRequest
		req.Audience = seal.User(otherUID)
		r, err := c.Reserve(req)
		require.NoError(t, err)
		b, err := r.Seal([]byte("x"))
		require.NoError(t, err)
		deaf := in.as(t, otherUID)
		require.Equal(t, fits, deaf.fill(fits))
		acct, before := s.users.find(otherUID), s.waiting.Load()
		_, _, err = deaf.WriteMsgUnix(openFrame(t, b), deaf.cred, nil)
		require.NoError(t, err)
		// Either it waits, or the agent has ended its connection.
		require.Eventually(t, func() bool {
			ended := !deaf.waits()
			if ended {
				cut++
			}
			return ended || s.waiting.Load() > before && acct.waiting.Load() > before
		}, time.Minute, time.Millisecond)
		require.GreaterOrEqual(t, int(s.waiting.Load()), in.pool.InUse(), "more is held than is counted")
	}
	require.Positive(t, cut)
	require.Less(t, int64(answers), s.part(waitingUserPart), "the control: as many bytes of answers are no reason to end one")
	require.Greater(t, answers*int(s.waiting.Load())/(answers-cut), size, "the control: there is no room for all")
	require.LessOrEqual(t, s.waiting.Load(), s.part(waitingUserPart))
	third := victim(t, in.path, 3, time.Minute)
	require.Contains(t, third.says(t), "3 served")
}

// fill asks for the status without reading the answers, at most so many times, until an
// answer finds no room. It returns how many did.
func (c *rawConn) fill(most int) (n int) {
	frame := statFrame(c.t)
	for ; n < most; n++ {
		before := c.unread()
		_, _, err := c.WriteMsgUnix(frame, c.cred, nil)
		require.NoError(c.t, err)
		for end := time.Now().Add(time.Second); c.unread() == before; time.Sleep(10 * time.Microsecond) {
			if time.Now().After(end) {
				return n
			}
		}
	}
	return n
}

// unread is how many bytes have come.
func (c *rawConn) unread() (n int) {
	raw, err := c.SyscallConn()
	require.NoError(c.t, err)
	require.NoError(c.t, raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }))
	require.NoError(c.t, err)
	return n
}

// waits reports whether the other end is there.
func (c *rawConn) waits() bool {
	raw, err := c.SyscallConn()
	require.NoError(c.t, err)
	ready := 0
	require.NoError(c.t, raw.Control(func(fd uintptr) {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		for err = unix.EINTR; err == unix.EINTR; {
			_, err = unix.Poll(polled, 0)
		}
		ready = int(polled[0].Revents)
	}))
	require.NoError(c.t, err)
	return ready&(unix.POLLHUP|unix.POLLRDHUP) == 0
}
