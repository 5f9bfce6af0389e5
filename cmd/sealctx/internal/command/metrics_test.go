package command

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/seal/agent/metrics"
)

// A counter counts the connections that a server has open.
type counter struct{ change chan int }

func (c counter) hook(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		c.change <- 1
	case http.StateClosed:
		c.change <- -1
	}
}

// settles waits for a change by want in all, and looks whether it stays so.
func (c counter) settles(t *testing.T, want int) {
	t.Helper()
	sum, wait := 0, time.Minute
	for {
		if sum == want {
			wait = 100 * time.Millisecond
		}
		select {
		case n := <-c.change:
			sum += n
		case <-time.After(wait):
			require.Equal(t, want, sum)
			return
		}
	}
}

// Idle connections, which any user can make, take so many descriptors and no more,
// and whoever waits has its turn. Without the limit they take what they like.
func TestFewConnections(t *testing.T) {
	const clients = 3 * scrapeConns
	for name, test := range map[string]struct {
		wrap func(net.Listener) net.Listener
		open int
	}{
		"limited": {func(l net.Listener) net.Listener { return atMost(scrapeConns, l) }, scrapeConns},
		"control": {func(l net.Listener) net.Listener { return l }, clients},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			count := counter{make(chan int, 4*clients)}
			server := &http.Server{Handler: http.NotFoundHandler(), ConnState: count.hook}
			ended := make(chan error, 1)
			go func() { ended <- server.Serve(test.wrap(l)) }()
			var conns []net.Conn
			for range clients {
				c, err := net.Dial("tcp", l.Addr().String())
				require.NoError(t, err)
				defer c.Close()
				conns = append(conns, c)
			}
			count.settles(t, test.open)
			for _, c := range conns[:clients-1] {
				require.NoError(t, c.Close())
			}
			last := conns[clients-1]
			_, err = io.WriteString(last, "GET / HTTP/1.0\r\n\r\n")
			require.NoError(t, err)
			require.NoError(t, last.SetDeadline(time.Now().Add(time.Minute)))
			answer, err := io.ReadAll(last)
			require.NoError(t, err)
			require.Contains(t, string(answer), "404")
			count.settles(t, -test.open)
			require.NoError(t, server.Close())
			require.ErrorIs(t, <-ended, http.ErrServerClosed)
		})
	}
}

// A listener all of whose slots are taken can be closed, twice too.
func TestFewConnectionsEnds(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := atMost(1, inner)
	c, err := net.Dial("tcp", inner.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	accepted, err := l.Accept()
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { _, err := l.Accept(); ended <- err }()
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-ended, net.ErrClosed)
	require.NoError(t, accepted.Close())
	require.ErrorIs(t, accepted.Close(), net.ErrClosed)
	require.Empty(t, l.slots)
}

// The log says where metrics are, also where the kernel chose the port.
func TestMetricsAddress(t *testing.T) {
	server, err := agent.NewServer(&agent.Options{Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer server.Close()
	var log bytes.Buffer
	cmd := agentCmd{Metrics: "127.0.0.1:0"}
	web, err := cmd.startMetrics(metrics.New(), server, slog.New(slog.NewJSONHandler(&log, nil)))
	require.NoError(t, err)
	defer web.stop()
	var line struct{ Msg, Address string }
	require.NoError(t, json.Unmarshal(log.Bytes(), &line))
	require.Equal(t, "metrics served", line.Msg)
	answer, err := http.Get("http://" + line.Address + "/metrics")
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode)

	cmd.Metrics = place(line.Address)
	_, err = cmd.startMetrics(metrics.New(), server, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "metrics: listen tcp "+line.Address)
}
