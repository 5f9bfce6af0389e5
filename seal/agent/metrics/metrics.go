// Package metrics shows what an agent does as Prometheus metrics, whose names
// begin with sealctx_agent_:
//
//	m := metrics.New()
//	server, err := agent.NewServer(&agent.Options{Observer: m})
//	m.Watch(server)
//	err = registry.Register(m)
//
// It is a package of its own so that clients of the agent do not carry a metrics
// library. It serves nothing; the caller does, over a Unix socket or loopback.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
)

const namespace = "sealctx_agent"

// Metrics is an agent.Observer and a prometheus.Collector. Its labels have few
// values, all known beforehand: no user, process or service, of which there may
// be many. Safe for concurrent use.
type Metrics struct {
	requests *prometheus.CounterVec   // by operation and status
	seconds  *prometheus.HistogramVec // by operation
	refusals *prometheus.CounterVec   // by where and status
	alarms   prometheus.Counter
	server   *agent.Server
}

// New returns metrics of no server yet.
func New() *Metrics {
	return &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "requests_total",
			Help: "Requests answered, by operation and status."}, []string{"operation", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: "request_seconds",
			Help:    "From a request's first byte to its answer's last.",
			Buckets: prometheus.ExponentialBuckets(8e-6, 4, 10)}, []string{"operation"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "connections_refused_total",
			Help: "Connections that the agent refused or ended, by where and status."}, []string{"where", "status"}),
		alarms: prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "second_imports_total",
			Help: "Opens of authentic, timely tokens, by their audience, that were spent already: look into each."}),
	}
}

// Watch adds the state of a server to the metrics. Call it once, before the metrics are
// registered.
func (m *Metrics) Watch(s *agent.Server) { m.server = s }

// Answered implements agent.Observer.
func (m *Metrics) Answered(operation, status string, took time.Duration) {
	m.requests.WithLabelValues(operation, status).Inc()
	m.seconds.WithLabelValues(operation).Observe(took.Seconds())
}

// Refused implements agent.Observer.
func (m *Metrics) Refused(where, status string) { m.refusals.WithLabelValues(where, status).Inc() }

// SecondImport implements agent.Observer.
func (m *Metrics) SecondImport() { m.alarms.Inc() }

var (
	connections = gauge("connections", "Open connections.")
	locked      = gauge("locked_bytes", "Locked memory for opened tokens and token keys; host keys come on top.")
	lockedUsed  = gauge("locked_used_bytes", "Locked memory in use by requests under way.")
	troubled    = gauge("keyring_in_trouble", "1 if the keyring cannot be read; see the agent's log.")
	epochs      = gauge("epochs", "Epochs alive: host keys in locked memory.", "suite")
	outstanding = gauge("tokens_outstanding", "Tokens that can still be opened.", "suite")
	limit       = gauge("tokens_outstanding_limit", "Tokens that may be outstanding in the epoch that seals.", "suite")
	age         = gauge("epoch_age_seconds", "Age of the epoch that seals.", "suite")
)

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.requests.Describe(ch)
	m.seconds.Describe(ch)
	m.refusals.Describe(ch)
	m.alarms.Describe(ch)
	for _, d := range []*prometheus.Desc{connections, locked, lockedUsed, troubled, epochs, outstanding, limit, age} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It reads the registers whole.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.requests.Collect(ch)
	m.seconds.Collect(ch)
	m.refusals.Collect(ch)
	m.alarms.Collect(ch)
	if m.server == nil {
		return
	}
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	st, err := m.server.Stats()
	send(connections, float64(st.Connections))
	send(locked, float64(st.Locked))
	send(lockedUsed, float64(st.LockedUsed))
	if err != nil {
		send(troubled, 1)
		return
	}
	send(troubled, 0)
	for _, suite := range st.Suites {
		collectSuite(send, suite, st.Keys)
	}
}

func collectSuite(send func(*prometheus.Desc, float64, ...string), suite string, all []seal.Key) {
	alive, tokens := 0, 0
	for _, e := range all {
		if e.Suite != suite {
			continue
		}
		alive++
		tokens += e.Outstanding
		if e.Seals {
			send(limit, float64(e.Capacity), suite)
			send(age, e.Age.Seconds(), suite)
		}
	}
	send(epochs, float64(alive), suite)
	send(outstanding, float64(tokens), suite)
}
