package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
		b, err := r.Seal(make([]byte, seal.MaxPlain))
		require.NoError(t, err)
		frame, err := (&wire.OpenRequest{Format: []byte(testFormat), Token: b}).Marshal(wire.Open)
		require.NoError(t, err)
		return frame
	}
	const each = 6 // answers: more than a socket holds
	most := 0
	for range 2 * in.pool.Size() / seal.MaxPlain {
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
	require.LessOrEqual(t, most, in.pool.Size()/2+2*seal.MaxPlain)
	plain, err := c.Open(reserve(t, c, seal.Audience{}), testFormat)
	require.NoError(t, err)
	plain.Wipe()
	settles(t, 0, func() int { return int(in.waiting.Load()) })
	settles(t, 0, in.pool.InUse)
}
