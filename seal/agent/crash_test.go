package agent

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// agentProcess starts an agent of its own process, in its sandbox.
func agentProcess(t testing.TB, path string) *process {
	t.Helper()
	p := spawn(t, "agent", path)
	require.Equal(t, "ready", p.line(t))
	return p
}

// A tally counts how far each of many attempts came.
type tally struct {
	mu    sync.Mutex
	steps map[string]int
}

func (y *tally) count(step string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.steps == nil {
		y.steps = map[string]int{}
	}
	y.steps[step]++
}

func (y *tally) String() string {
	s := ""
	for _, step := range slices.Sorted(maps.Keys(y.steps)) {
		s += fmt.Sprintf("  %-24s %6d\n", step, y.steps[step])
	}
	return s
}

// outcome names what came of a request.
func outcome(err error) string {
	for name, is := range map[string]error{
		"uncertain": ErrUncertain, "spent": seal.ErrSpent, "defective": seal.ErrDefective, "quota": ErrQuota,
		"expired": seal.ErrExpired,
	} {
		if errors.Is(err, is) {
			return name
		}
	}
	if errors.Is(err, ErrAway) {
		return "away"
	}
	return fmt.Sprint(err)
}

const clientTimeout = 250 * time.Millisecond

// hand reserves and seals one token, and has two openers and a taker-back ask for
// it at once. It returns how many got it.
func hand(a, b seal.Sealer, y *tally) (owners int64) {
	r, err := a.Reserve(testRequest)
	if err != nil {
		y.count("reserve " + outcome(err))
		return 0
	}
	token, err := r.Seal([]byte("plain"))
	if err != nil {
		y.count("seal " + outcome(err))
		return 0
	}
	var won atomic.Int64
	var wg sync.WaitGroup
	for _, open := range []func([]byte, ...string) (*memsafe.Secret, error){a.Open, b.Open, a.TakeBack} {
		wg.Go(func() {
			secret, err := open(token, testFormat)
			if err != nil {
				y.count("open " + outcome(err))
				return
			}
			secret.Wipe()
			won.Add(1)
			y.count("open won")
		})
	}
	wg.Wait()
	return won.Load()
}

// An agent that is killed or stopped under load, at any moment: no token gets two
// owners, no client waits past its deadline, none needs to be told to connect
// again, and what was outstanding is worthless.
func TestAgentKilled(t *testing.T) {
	path := filepath.Join(publicDir(t), "agent.sock")
	agent := agentProcess(t, path)
	clients := make([]*Client, 4)
	for i := range clients {
		c, err := (&Dialer{Timeout: clientTimeout}).Dial(path)
		require.NoError(t, err)
		defer c.Close()
		clients[i] = c
	}
	fds := descriptors(t)
	var y tally
	rounds := 60 // package handoff has the thousand, with exporter and importers
	if testing.Short() {
		rounds = 12
	}
	for round := range rounds {
		before := reserve(t, clients[0], seal.Party{})
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 6 {
			a, b := clients[i%len(clients)], clients[(i+1)%len(clients)]
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					start := time.Now()
					if owners := hand(a, b, &y); owners > 1 {
						t.Errorf("round %d: %d owners", round, owners)
					}
					if took := time.Since(start); took > 2*clientTimeout+time.Second {
						t.Errorf("round %d: a client hung for %v", round, took)
					}
				}
			})
		}
		time.Sleep(time.Duration(rand.Int64N(int64(10 * time.Millisecond))))
		if round%3 == 2 { // stopped for a while, longer or shorter than clients wait
			agent.freeze(t)
			time.Sleep(time.Duration(rand.Int64N(int64(2 * clientTimeout))))
			require.NoError(t, agent.Process.Signal(syscall.SIGCONT))
		}
		agent.kill()
		close(stop)
		wg.Wait()
		agent = agentProcess(t, path)
		_, err := clients[0].Open(before, testFormat)
		require.ErrorIs(t, err, seal.ErrDefective, "a token outlived its agent")
		if t.Failed() {
			break
		}
	}
	t.Logf("how far they came:\n%s", &y)
	require.Positive(t, y.steps["open won"], "no token was ever opened")
	require.Positive(t, y.steps["open spent"])
	require.LessOrEqual(t, descriptors(t), fds+2*len(clients)*clientConnections)
	for _, c := range clients {
		require.NoError(t, c.Close())
	}
	settles(t, fds, func() int { return descriptors(t) })
}

// careless is a sealer that gives a token to whoever asks, as one would that sent
// an open again or kept no register.
type careless struct{ *Client }

func (c careless) Open(b []byte, formats ...string) (*memsafe.Secret, error) {
	secret, err := c.Client.Open(b, formats...)
	if errors.Is(err, seal.ErrSpent) {
		return c.pool.Alloc(5)
	}
	return secret, err
}

// The count above sees a second owner.
func TestTwoOwnersAreSeen(t *testing.T) {
	in := serveHere(t, nil)
	one, two := in.dial(t), in.dial(t)
	var y tally
	require.EqualValues(t, 1, hand(one, two, &y))
	require.Greater(t, hand(careless{one}, careless{two}, &y), int64(1))
}

// An open that was sent is not sent again, whatever becomes of the agent. A
// stopped agent that goes on carries out what it had been sent, once.
func TestOpenIsNotRetried(t *testing.T) {
	path := filepath.Join(publicDir(t), "agent.sock")
	agent := agentProcess(t, path)
	c, err := (&Dialer{Timeout: 100 * time.Millisecond}).Dial(path)
	require.NoError(t, err)
	defer c.Close()
	b := reserve(t, c, seal.Party{})
	agent.freeze(t)
	start := time.Now()
	_, err = c.Open(b, testFormat)
	require.ErrorIs(t, err, ErrUncertain)
	require.ErrorIs(t, err, ErrAway)
	require.ErrorIs(t, err, seal.ErrUnavailable)
	_, err = c.Reserve(testRequest)
	require.ErrorIs(t, err, ErrAway)
	require.NotErrorIs(t, err, ErrUncertain)
	require.Less(t, time.Since(start), time.Second)
	require.NoError(t, agent.Process.Signal(syscall.SIGCONT))
	time.Sleep(50 * time.Millisecond)
	_, err = c.Open(b, testFormat)
	require.True(t, errors.Is(err, seal.ErrSpent) || err == nil, "%v", err)
	_, err = c.Open(b, testFormat)
	require.ErrorIs(t, err, seal.ErrSpent)
}
