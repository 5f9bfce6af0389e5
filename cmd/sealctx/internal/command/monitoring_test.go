package command

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/seal/agent/metrics"
)

// A family is a metric that the agent has, with the values of each label that were seen.
type family struct {
	kind   string
	labels map[string][]string
}

// families are the metrics of an agent that answered a request of each kind below.
func families(t *testing.T) map[string]family {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := metrics.New()
	server, err := agent.NewServer(&agent.Options{Observer: m, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	m.Watch(server)
	l, err := agent.Listen(filepath.Join(dir, "agent.sock"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	c, err := agent.Dial(filepath.Join(dir, "agent.sock"))
	require.NoError(t, err)
	r, err := c.Reserve(seal.Request{Format: "test"})
	require.NoError(t, err)
	token, err := r.Seal(nil)
	require.NoError(t, err)
	secret, err := c.Open(token, "test")
	require.NoError(t, err)
	secret.Wipe()
	_, err = c.TakeBack(token, "test")
	require.Error(t, err)
	_, err = c.Keys() // so that the count of the one before is in
	require.NoError(t, err)
	m.Refused("connect", "quota")

	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(m))
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	all := map[string]family{}
	gathered, err := registry.Gather()
	require.NoError(t, err)
	for _, g := range gathered {
		f := family{strings.ToLower(g.GetType().String()), map[string][]string{}}
		for _, one := range g.GetMetric() {
			for _, l := range one.GetLabel() {
				f.labels[l.GetName()] = append(f.labels[l.GetName()], l.GetValue())
			}
		}
		all[g.GetName()] = f
	}
	require.NoError(t, c.Close())
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, server.Close())
	return all
}

// units are the base units of OpenMetrics that these metrics have, and words for others.
var units, otherUnits = []string{"seconds", "bytes"}, []string{"milliseconds", "minutes", "hours", "kilobytes", "kib", "mib", "percent"}

// misnamed says what is wrong with a metric's name by the rules of OpenMetrics and
// Prometheus: a counter ends with _total, nothing else does; a unit is a base unit and
// stands at the end.
func misnamed(name, kind string) string {
	stem := name
	if kind == "counter" {
		var ok bool
		if stem, ok = strings.CutSuffix(name, "_total"); !ok {
			return "a counter without _total"
		}
	}
	if !regexp.MustCompile(`^sealctx_agent(_[a-z]+)+$`).MatchString(stem) {
		return "not words of lower case behind sealctx_agent_"
	}
	words := strings.Split(stem, "_")
	for i, word := range words {
		switch {
		case slices.Contains(otherUnits, word):
			return "no base unit"
		case slices.Contains(units, word) && i < len(words)-1:
			return "a unit that is not at the end"
		}
	}
	if slices.Contains([]string{"total", "count", "sum", "bucket", "created", "info", kind}, words[len(words)-1]) {
		return "an ending that means something else"
	}
	return ""
}

func TestMetricNames(t *testing.T) {
	for name, f := range families(t) {
		require.Empty(t, misnamed(name, f.kind), name)
	}
	for name, kind := range map[string]string{ // the controls
		"sealctx_agent_requests":            "counter",
		"sealctx_agent_locked_bytes_used":   "gauge",
		"sealctx_agent_tokens_total":        "gauge",
		"sealctx_agent_wait_milliseconds":   "histogram",
		"sealctx_agent_request_count":       "histogram",
		"sealctx_agent_tokens_gauge":        "gauge",
		"requests_total":                    "counter",
		"sealctx_agent_secondImports_total": "counter",
	} {
		require.NotEmpty(t, misnamed(name, kind), name)
	}
}

var (
	selector = regexp.MustCompile(`(sealctx_agent_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"`)
	grouping = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// unknown are what the expressions of a text name and the agent does not have: metrics,
// labels, and values of labels. The scraper adds the labels job and instance.
func unknown(all map[string]family, text string) (faults []string) {
	labels := map[string]bool{"instance": true, "job": true, "le": true, "alertname": true}
	for _, s := range selector.FindAllStringSubmatch(text, -1) {
		name := s[1]
		f, ok := all[name]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, cut := strings.CutSuffix(name, suffix); cut && !ok {
				f, ok = all[base]
				ok = ok && f.kind == "histogram"
			}
		}
		if !ok {
			faults = append(faults, "metric "+name)
			continue
		}
		for label := range f.labels {
			labels[label] = true
		}
		for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
			values, ok := f.labels[m[1]]
			switch {
			case m[1] == "instance" || m[1] == "job":
				continue
			case !ok:
				faults = append(faults, "label "+m[1]+" of "+name)
				continue
			}
			for value := range strings.SplitSeq(m[2], "|") {
				if !strings.HasPrefix(value, "$") && !slices.Contains(values, value) {
					faults = append(faults, "value "+value+" of "+m[1]+" of "+name)
				}
			}
		}
	}
	for _, by := range grouping.FindAllStringSubmatch(text, -1) {
		for label := range strings.SplitSeq(by[1], ",") {
			if label = strings.TrimSpace(label); !labels[label] {
				faults = append(faults, "label "+label)
			}
		}
	}
	return faults
}

// The rules and the dashboard name what the agent has, and the operator's table of metrics
// names all of it.
func TestMonitoringNames(t *testing.T) {
	all := families(t)
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		return string(b)
	}
	rules, dashboard := read("dist/prometheus/sealctx.rules.yml"), read("dist/grafana/sealctx.json")
	require.Empty(t, unknown(all, rules))
	require.Equal(t, []string{
		"metric sealctx_agent_none", "label user of sealctx_agent_epochs", "value odd of operation of sealctx_agent_requests_total",
		"metric sealctx_agent_epochs_bucket", "label user",
	}, unknown(all, `sealctx_agent_none + sealctx_agent_epochs{user="0"} + sum by (user) (sealctx_agent_requests_total{operation=~"open|odd"}) + sealctx_agent_epochs_bucket`), "the control")

	var board struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Query string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(dashboard), &board))
	var text strings.Builder
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range board.Panels {
		require.False(t, ids[p.ID], p.Title)
		ids[p.ID] = true
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			require.Contains(t, target.Expr, "sealctx_agent_", p.Title)
			text.WriteString(target.Expr + "\n")
		}
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				require.Empty(t, cells[at], "%s lies over it", p.Title)
				cells[at] = p.Title
			}
		}
	}
	var variables []string
	for _, v := range board.Templating.List {
		variables = append(variables, v.Name)
		text.WriteString(v.Query + "\n")
	}
	require.Empty(t, unknown(all, text.String()))
	for _, use := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(dashboard, -1) {
		require.Contains(t, append(variables, "__rate_interval"), use[1])
	}

	operations := read("doc/OPERATIONS.md")
	_, table, found := strings.Cut(operations, "\n## Metrics\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n## ")
	for name := range all {
		require.Contains(t, text.String(), name, "the dashboard does not show it")
		short := strings.TrimPrefix(name, "sealctx_agent_")
		require.Regexp(t, `\| (?:.*, )?`+short+`[,{ ]`, table, "OPERATIONS does not name it")
	}
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(rules, -1)
	require.GreaterOrEqual(t, len(alerts), 10)
	for _, alert := range alerts {
		require.Contains(t, table, "| "+alert[1]+" |")
	}
	for _, row := range regexp.MustCompile(`(?m)^\| (Sealctx\w+) \|`).FindAllStringSubmatch(table, -1) {
		require.Contains(t, rules, "alert: "+row[1]+"\n", "OPERATIONS has an alert that no rule gives")
	}
}
