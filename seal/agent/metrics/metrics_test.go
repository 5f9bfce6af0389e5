package metrics

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
)

// What an agent did and how it stands is what its metrics say.
func TestMetrics(t *testing.T) {
	m := New()
	s, err := agent.NewServer(&agent.Options{Observer: m, Suites: []string{"AES-256-GCM"}})
	require.NoError(t, err)
	m.Watch(s)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(m))
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := agent.Listen(path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	c, err := agent.Dial(path)
	require.NoError(t, err)

	var tokens [][]byte
	for range 3 {
		r, err := c.Reserve(seal.Request{Format: "test"})
		require.NoError(t, err)
		b, err := r.Seal(nil)
		require.NoError(t, err)
		tokens = append(tokens, b)
	}
	secret, err := c.Open(tokens[0], "test")
	require.NoError(t, err)
	secret.Wipe()
	for range 2 {
		_, err = c.Open(tokens[0], "test")
		require.ErrorIs(t, err, seal.ErrSpent)
	}
	_, err = c.Account() // so that the count of the one before is in
	require.NoError(t, err)

	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP sealctx_agent_connections Open connections.
# TYPE sealctx_agent_connections gauge
sealctx_agent_connections 1
# HELP sealctx_agent_epochs Epochs alive: host keys in locked memory.
# TYPE sealctx_agent_epochs gauge
sealctx_agent_epochs{suite="AES-256-GCM"} 1
# HELP sealctx_agent_keyring_in_trouble 1 if the keyring cannot be read; see the agent's log.
# TYPE sealctx_agent_keyring_in_trouble gauge
sealctx_agent_keyring_in_trouble 0
# HELP sealctx_agent_locked_used_bytes Locked memory in use by requests under way.
# TYPE sealctx_agent_locked_used_bytes gauge
sealctx_agent_locked_used_bytes 0
# HELP sealctx_agent_second_imports_total Opens of authentic, timely tokens, by their audience, that were spent already: look into each.
# TYPE sealctx_agent_second_imports_total counter
sealctx_agent_second_imports_total 2
# HELP sealctx_agent_tokens_outstanding Tokens that can still be opened.
# TYPE sealctx_agent_tokens_outstanding gauge
sealctx_agent_tokens_outstanding{suite="AES-256-GCM"} 2
# HELP sealctx_agent_tokens_outstanding_limit Tokens that may be outstanding in the epoch that seals.
# TYPE sealctx_agent_tokens_outstanding_limit gauge
sealctx_agent_tokens_outstanding_limit{suite="AES-256-GCM"} 16384
`), "sealctx_agent_connections", "sealctx_agent_epochs", "sealctx_agent_keyring_in_trouble", "sealctx_agent_locked_used_bytes",
		"sealctx_agent_second_imports_total", "sealctx_agent_tokens_outstanding", "sealctx_agent_tokens_outstanding_limit"))
	require.EqualValues(t, 3, testutil.ToFloat64(m.requests.WithLabelValues("reserve", "ok")))
	require.EqualValues(t, 1, testutil.ToFloat64(m.requests.WithLabelValues("open", "ok")))
	require.EqualValues(t, 2, testutil.ToFloat64(m.requests.WithLabelValues("open", "spent")))
	m.Refused("connect", "quota")
	require.EqualValues(t, 1, testutil.ToFloat64(m.refusals.WithLabelValues("connect", "quota")))
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)

	require.NoError(t, c.Close())
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, l.Close())
	require.NoError(t, s.Close())
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP sealctx_agent_keyring_in_trouble 1 if the keyring cannot be read; see the agent's log.
# TYPE sealctx_agent_keyring_in_trouble gauge
sealctx_agent_keyring_in_trouble 1
`), "sealctx_agent_keyring_in_trouble"))
}
