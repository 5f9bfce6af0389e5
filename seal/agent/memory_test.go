package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// The victims whose memory is searched: an agent, and a client of one.
var victims = map[string]func(*memscan.Victim){
	"agent":        func(v *memscan.Victim) { agentVictim(v, false) },
	"leaky agent":  func(v *memscan.Victim) { agentVictim(v, true) },
	"client":       func(v *memscan.Victim) { clientVictim(v, false) },
	"leaky client": func(v *memscan.Victim) { clientVictim(v, true) },
}

const (
	victimVar = "AGENT_TEST_VICTIM" // the directory of the agent's socket
	victimOps = 20
)

// leaked is what a leaky victim keeps.
var leaked [][]byte

// agentVictim serves while it stands at its checkpoint. The leaky one opens one
// token itself, as a client, and keeps a copy.
func agentVictim(v *memscan.Victim, leaky bool) {
	dir := os.Getenv(victimVar)
	s, err := NewServer(nil)
	if err != nil {
		v.Fatal(err)
	}
	l, err := Listen(filepath.Join(dir, "agent.sock"))
	if err != nil {
		v.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	v.Checkpoint("serving")
	if leaky {
		b, err := os.ReadFile(filepath.Join(dir, "token"))
		if err != nil {
			v.Fatal(err)
		}
		c, err := Dial(filepath.Join(dir, "agent.sock"))
		if err != nil {
			v.Fatal(err)
		}
		secret, err := c.Open(b, testFormat)
		if err != nil {
			v.Fatal(err)
		}
		leaked = append(leaked, bytes.Clone(secret.Bytes()))
		secret.Wipe()
	}
	// An answer is with its client before the agent has wiped its own copy.
	for until := time.Now().Add(5 * time.Second); s.pool.InUse() > 0 && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	v.Value("in use", uint64(s.pool.InUse()))
	v.Checkpoint("served")
	cancel()
	if err := <-done; err != nil {
		v.Fatal(err)
	}
}

// clientVictim reserves, seals and opens, and tells what it had in hand.
func clientVictim(v *memscan.Victim, leaky bool) {
	c, err := Dial(filepath.Join(os.Getenv(victimVar), "agent.sock"))
	if err != nil {
		v.Fatal(err)
	}
	frame, _, err := reserveRequest(testRequest, []byte{1, 2})
	if err != nil {
		v.Fatal(err)
	}
	for i := range victimOps {
		plain, err := c.pool.Alloc(benchPlain)
		if err != nil {
			v.Fatal(err)
		}
		rand.Read(plain.Bytes())
		g, err := c.reserve(frame, -1, c.deadline())
		if err != nil {
			v.Fatal(err)
		}
		v.Needle(fmt.Sprint("plain", i), plain.Bytes())
		v.Needle(fmt.Sprint("key", i), g.Key.Bytes())
		if leaky {
			leaked = append(leaked, bytes.Clone(g.Key.Bytes()), bytes.Clone(plain.Bytes()))
		}
		r := new(seal.Reservation)
		if err := r.Adopt(g); err != nil {
			v.Fatal(err)
		}
		b, err := r.Seal(plain.Bytes())
		if err != nil {
			v.Fatal(err)
		}
		plain.Wipe()
		secret, err := c.Open(b, testFormat)
		if err != nil {
			v.Fatal(err)
		}
		secret.Wipe()
	}
	v.Value("in use", uint64(c.pool.InUse()))
	v.Checkpoint("served")
}

// still keeps a plain build from saving registers on its stacks for preemption;
// what that leaves is measured in package seal.
func still(dir string) *memscan.Options {
	return &memscan.Options{Env: []string{victimVar + "=" + dir, "GODEBUG=asyncpreemptoff=1"}}
}

// clean fails if a scan has found something. In a plain build registers of idle
// threads do not count.
func clean(t *testing.T, r *memscan.Report) {
	t.Helper()
	hits := r.Hits
	if !memsafe.Erasing {
		hits = r.InMemory()
	}
	require.Empty(t, hits, "%v", r)
}

// An agent that has opened and reserved keeps none of the plain tokens and none
// of their keys, once each is answered. The same test finds what a leaky one
// keeps.
func TestAgentLeavesNothing(t *testing.T) {
	for _, name := range []string{"agent", "leaky agent"} {
		t.Run(name, func(t *testing.T) {
			dir := publicDir(t)
			tg := memscan.Start(t, name, still(dir))
			tg.At("serving")
			c, err := Dial(filepath.Join(dir, "agent.sock"))
			require.NoError(t, err)
			defer c.Close()
			var set memscan.Set
			frame, _, err := reserveRequest(testRequest, []byte{1, 2})
			require.NoError(t, err)
			for i := range victimOps + 1 {
				plain := make([]byte, benchPlain)
				rand.Read(plain)
				g, err := c.reserve(frame, -1, c.deadline())
				require.NoError(t, err)
				set.Bytes("plain", plain)
				set.Bytes("key", g.Key.Bytes())
				set.AES("key", g.Key.Bytes())
				r := new(seal.Reservation)
				require.NoError(t, r.Adopt(g))
				b, err := r.Seal(plain)
				require.NoError(t, err)
				if i == victimOps {
					require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), b, 0o600))
					break
				}
				open := c.Open
				if i%2 == 0 {
					open = c.TakeBack
				}
				secret, err := open(b, testFormat)
				require.NoError(t, err)
				require.True(t, bytes.Equal(plain, secret.Bytes()))
				secret.Wipe()
				_, err = c.Open(b, testFormat)
				require.ErrorIs(t, err, seal.ErrSpent) // which decrypts it too
			}
			require.NoError(t, set.Err())
			tg.Resume()
			tg.At("served")
			tg.Collect(2)
			report := tg.Scan(&set)
			require.Greater(t, report.Coverage(), memscan.MinCoverage)
			if name == "leaky agent" {
				require.NotEmpty(t, report.Of("plain"), "the scanner must see what is kept")
				return
			}
			clean(t, report)
			require.Zero(t, tg.Value("in use"))
			tg.Resume()
			tg.Wait()
		})
	}
}

// Nor does a client.
func TestClientLeavesNothing(t *testing.T) {
	for _, name := range []string{"client", "leaky client"} {
		t.Run(name, func(t *testing.T) {
			in := serveHere(t, nil)
			tg := memscan.Start(t, name, still(filepath.Dir(in.path)))
			tg.At("served")
			tg.Collect(2)
			var set memscan.Set
			for i := range victimOps {
				set.Bytes("plain", tg.Secret(fmt.Sprint("plain", i)))
				set.Bytes("key", tg.Secret(fmt.Sprint("key", i)))
				set.AES("key", tg.Secret(fmt.Sprint("key", i)))
			}
			require.NoError(t, set.Err())
			report := tg.Scan(&set)
			require.Greater(t, report.Coverage(), memscan.MinCoverage)
			if name == "leaky client" {
				require.NotEmpty(t, report.Of("plain"))
				require.NotEmpty(t, report.Of("key"))
				return
			}
			clean(t, report)
			require.Zero(t, tg.Value("in use"))
			tg.Resume()
			tg.Wait()
		})
	}
}
