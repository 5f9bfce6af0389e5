package agent

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
)

// A token whose keys are gone when it is sealed does not leave the process: neither
// after a retirement nor after a restart of the agent, nor while there is no agent.
func TestSealAfterKeysAreGone(t *testing.T) {
	path := publicDir(t) + "/agent.sock"
	agent := agentProcess(t, path)
	c, err := (&Dialer{Timeout: 2 * time.Second}).Dial(path)
	require.NoError(t, err)
	defer c.Close()
	retire := func() {
		st, err := c.Account()
		require.NoError(t, err)
		for _, e := range st.Keys {
			require.NoError(t, c.Retire(e.ID))
		}
	}
	kill := func() { agent.kill() }
	start := func() { agent = agentProcess(t, path) }
	for _, tt := range []struct {
		name   string
		before func() // the reservation is sealed
		after  func()
		text   string
	}{
		{"retired", retire, func() {}, "its key was retired before it was sealed"},
		{"restarted", func() { kill(); start() }, func() {}, "or the agent was restarted"},
		{"gone", kill, start, "agent does not answer"},
	} {
		r, err := c.Reserve(testRequest)
		require.NoError(t, err)
		tt.before()
		b, err := r.Seal([]byte("the only copy of the context"))
		require.ErrorIs(t, err, seal.ErrUnavailable, tt.name)
		require.ErrorContains(t, err, tt.text)
		require.NotErrorIs(t, err, seal.ErrDefective)
		require.Nil(t, b)
		_, err = r.Seal(nil)
		require.ErrorIs(t, err, seal.ErrRequest)
		tt.after()
		b = reserve(t, c, seal.Party{}) // the control: a living agent's token leaves
		secret, err := c.Open(b, testFormat)
		require.NoError(t, err)
		secret.Wipe()
	}

	// A reservation that was held for long is as good as a new one.
	r, err := c.Reserve(testRequest)
	require.NoError(t, err)
	time.Sleep(2 * recentGrant)
	b, err := r.Seal([]byte("late"))
	require.NoError(t, err)
	secret, err := c.Open(b, testFormat)
	require.NoError(t, err)
	secret.Wipe()
}

// A user whose quota does not let it show a token of this size can still seal one.
func TestSealBeyondOwnQuota(t *testing.T) {
	in := serveHere(t, withPolicy(t, "quota everyone token 700"))
	c := in.dial(t)
	r, err := c.Reserve(testRequest)
	require.NoError(t, err)
	time.Sleep(2 * recentGrant)
	b, err := r.Seal(make([]byte, 4000))
	require.NoError(t, err)
	_, err = c.Open(b, testFormat)
	require.ErrorIs(t, err, ErrQuota)
}

// inspections is an Observer that counts the questions.
type inspections struct {
	unobserved
	n atomic.Int64
}

func (i *inspections) Answered(operation, _ string, _ time.Duration) {
	if operation == "inspect" {
		i.n.Add(1)
	}
}

// What is sealed at once costs no question; what is held does.
func TestSealAtOnceAsksNothing(t *testing.T) {
	var asked inspections
	in := serveHere(t, &Options{Observer: &asked, Capacity: 4096})
	c := in.dial(t)
	const tokens = 500
	for range tokens {
		reserve(t, c, seal.Party{})
	}
	require.Less(t, asked.n.Load(), int64(tokens), "not one of them was sealed within %v", recentGrant)
	t.Logf("%d of %d asked", asked.n.Load(), tokens)
	before := asked.n.Load()
	r, err := c.Reserve(testRequest)
	require.NoError(t, err)
	time.Sleep(2 * recentGrant)
	_, err = r.Seal(nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return asked.n.Load() == before+1 }, time.Minute, time.Millisecond)
}
