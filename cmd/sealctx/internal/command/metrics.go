package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sealctx/sealctx/internal/listen"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/seal/agent/metrics"
)

const (
	// scrapeTimeout bounds each part of a scrape, and how long a scraper may keep
	// its connection without one: it is on this host.
	scrapeTimeout = 10 * time.Second

	// scrapeConns may be open at a time. Any user may connect to a port; the
	// descriptors that are kept besides those of clients are 64.
	scrapeConns = 16
)

// A web serves metrics and the agent's health; nil serves none.
type web struct {
	server *http.Server
	health *health
	done   chan struct{}
}

// serve says that the agent serves, until ctx is done or stop is called.
func (w *web) serve(ctx context.Context) (stop func()) {
	if w == nil {
		return func() {}
	}
	w.health.ctx.Store(&ctx)
	return func() { w.health.ctx.Store(nil) }
}

// startMetrics serves the agent's metrics, if an address was given for them, and
// logs where.
func (a *agentCmd) startMetrics(m *metrics.Metrics, s *agent.Server, log *slog.Logger) (*web, error) {
	if a.Metrics == "" {
		return nil, nil
	}
	m.Watch(s)
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{m, collectors.NewGoCollector()} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	l, err := listenMetrics(string(a.Metrics))
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	log.Info("metrics served", "address", l.Addr().String())
	l = atMost(scrapeConns, l)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, EnableOpenMetrics: true}))
	h := &health{stats: s.Stats}
	mux.Handle("GET /healthz", h)
	w := &web{
		health: h,
		server: &http.Server{
			Handler: mux, ReadTimeout: scrapeTimeout, WriteTimeout: scrapeTimeout, IdleTimeout: scrapeTimeout,
			MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
		done: make(chan struct{}),
	}
	go func() {
		defer close(w.done)
		if err := w.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are no longer served", "reason", err)
		}
	}()
	return w, nil
}

func (w *web) stop() {
	if w != nil {
		_ = w.server.Close() // a scrape that is cut off is not worth waiting for
		<-w.done
	}
}

// listenMetrics listens at unix:PATH or at a port of loopback. The network must not learn
// how much this host is used.
func listenMetrics(addr string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("%q is not an absolute path", path)
		}
		l, err := listen.Unix(path) // what was left behind could not be removed in the sandbox
		if err != nil {
			return nil, err // and no listener: an interface with a nil pointer is one
		}
		return l, nil
	}
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	if !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address; use 127.0.0.1:PORT, [::1]:PORT or unix:PATH", addr)
	}
	return net.Listen("tcp", tcp.String())
}

// A fewListener accepts while fewer than so many of its connections are open. The
// others wait in the kernel, where they take no descriptor of this process.
type fewListener struct {
	net.Listener
	slots  chan struct{} // one in it for each connection, and for an Accept
	closed chan struct{}
	close  func() error
}

func atMost(n int, l net.Listener) *fewListener {
	f := &fewListener{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{})}
	f.close = sync.OnceValue(func() error {
		close(f.closed)
		return l.Close()
	})
	return f
}

func (l *fewListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotConn{c, sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *fewListener) Close() error { return l.close() }

// A slotConn gives its slot back when it is closed.
type slotConn struct {
	net.Conn
	free func()
}

func (c *slotConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
