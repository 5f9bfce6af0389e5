package command

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/seal/agent/metrics"
)

// The check says what keeps an agent from sealing, and nothing else: neither an old epoch
// that is full, nor a suite whose keys were all retired.
func TestHealth(t *testing.T) {
	const aes, chacha = "AES-256-GCM", "ChaCha20-Poly1305"
	running, ended := context.Background(), func() context.Context {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return ctx
	}()
	for name, test := range map[string]struct {
		ctx  context.Context
		keys []seal.Key
		err  error
		want string // "": healthy
	}{
		"good":         {running, []seal.Key{{Suite: aes, Seals: true, Outstanding: 6, Capacity: 7}, {Suite: chacha, Seals: true, Capacity: 7}}, nil, ""},
		"old one full": {running, []seal.Key{{Suite: aes, Outstanding: 7, Capacity: 7}, {Suite: aes, Seals: true, Capacity: 7}}, nil, ""},
		"all retired":  {running, nil, nil, ""},
		"full":         {running, []seal.Key{{Suite: aes, Seals: true, Capacity: 7}, {Suite: chacha, Seals: true, Outstanding: 7, Capacity: 7}}, nil, chacha + ": all tokens that can be outstanding (7) are"},
		"none seals":   {running, []seal.Key{{Suite: aes, Capacity: 7}, {Suite: chacha, Seals: true, Capacity: 7}}, nil, aes + ": no key seals"},
		"trouble":      {running, nil, errors.New("no memory"), "the keyring cannot be read; restart the agent if this stays: no memory"},
		"not yet":      {nil, nil, nil, "the agent does not serve yet"},
		"ending":       {ended, nil, nil, "the agent is ending"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &health{stats: func() (agent.Stats, error) {
				return agent.Stats{Suites: []string{aes, chacha}, Keys: test.keys}, test.err
			}}
			if test.ctx != nil {
				h.ctx.Store(&test.ctx)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
			if test.want == "" {
				require.Equal(t, http.StatusOK, w.Code)
				require.Equal(t, "ok\n", w.Body.String())
				return
			}
			require.Equal(t, http.StatusServiceUnavailable, w.Code)
			require.Contains(t, w.Body.String(), test.want)
		})
	}
}

// The check of a real server changes with it.
func TestHealthOfServer(t *testing.T) {
	server, err := agent.NewServer(&agent.Options{Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	cmd := agentCmd{Metrics: "127.0.0.1:0"}
	web, err := cmd.startMetrics(metrics.New(), server, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer web.stop()
	get := func() (int, string) {
		w := httptest.NewRecorder()
		web.server.Handler.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
		b, err := io.ReadAll(w.Body)
		require.NoError(t, err)
		return w.Code, string(b)
	}
	expect := func(status int, text string) {
		t.Helper()
		got, body := get()
		require.Equal(t, status, got, body)
		require.Contains(t, body, text)
	}
	expect(http.StatusServiceUnavailable, "does not serve yet")
	ctx, cancel := context.WithCancel(context.Background())
	stop := web.serve(ctx)
	expect(http.StatusOK, "ok")
	cancel()
	expect(http.StatusServiceUnavailable, "is ending")
	stop()
	expect(http.StatusServiceUnavailable, "no longer")
	defer web.serve(context.Background())()
	expect(http.StatusOK, "ok")
	require.NoError(t, server.Close())
	expect(http.StatusServiceUnavailable, "the keyring cannot be read")
}
