// Command bench compares sealctx with its peers, measured in turn in one run:
// MIT's C library for GSS-API, crypto/tls for sealing, Apache and gokrb5 for HTTP. It prints the median of
// the rounds' ratios beside each aim. It needs MIT's loop, and runs inside the
// private realm that the loop needs; `make bench` sees to both.
package main

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

func main() {
	rounds := flag.Int("rounds", 10, "how often each side is measured, in turn")
	mit := flag.String("mit", "interop/bin/mitbench", "the `program` that times MIT's library")
	web := flag.String("web", "interop/bin/webbench", "the `program` that times HTTP requests")
	gss := flag.String("gss", "interop/bin/gssbench", "the `program` that times the library for C programs")
	flag.Parse()
	if err := run(*rounds, *mit, *web, *gss); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(rounds int, mit, web, gss string) error {
	dir, err := os.MkdirTemp("", "sealctx-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sources, err := build(dir, mit, web, gss)
	if err != nil {
		return err
	}
	samples := map[string][]float64{}
	for i := range rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", i+1, rounds)
		for _, s := range sources {
			values, err := s.measure()
			if err != nil {
				return fmt.Errorf("%s: %w", s.argv, err)
			}
			for name, v := range values {
				samples[name] = append(samples[name], v)
			}
		}
	}
	return report(samples)
}

// A source is one program run: MIT's loop, which prints nanoseconds, or a compiled
// benchmark, which prints values with their units.
type source struct {
	argv  []string
	name  string            // of what MIT's loop measures
	units map[string]string // names of what a benchmark measures
}

// build compiles the benchmarks, once for each build.
func build(dir, mit, web, gss string) ([]source, error) {
	var sources []source
	for _, p := range peers {
		sources = append(sources, source{argv: append([]string{mit}, p.args...), name: p.name})
	}
	for _, p := range servers {
		sources = append(sources, source{argv: append([]string{web}, p.args...), name: p.name})
	}
	for _, p := range interposed {
		sources = append(sources, source{argv: append([]string{gss, filepath.Dir(gss)}, p.args...), name: p.name})
	}
	for i, b := range builds {
		measured := ours
		if i == 0 {
			measured = slices.Concat(ours, between)
		}
		for _, m := range measured {
			out := binary(dir, b.name, m.pkg)
			if err := compile(out, m.pkg, b.env); err != nil {
				return nil, fmt.Errorf("building the %s benchmarks of %s: %w", b.name, m.pkg, err)
			}
			units := map[string]string{}
			for unit, name := range m.units {
				units[unit] = name + ", " + b.name
			}
			sources = append(sources, source{
				argv:  []string{out, "-test.run=^$", "-test.bench=" + m.bench, "-test.benchtime=" + m.time, "-test.benchmem"},
				units: units,
			})
		}
	}
	return sources, nil
}

// compile builds the tests of a package, unless that was done.
func compile(out, pkg string, env []string) error {
	if _, err := os.Stat(out); err == nil {
		return nil
	}
	cmd := exec.Command("go", "test", "-c", "-o", out, "./"+pkg)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

func binary(dir, build, pkg string) string {
	return filepath.Join(dir, build+"-"+strings.ReplaceAll(pkg, "/", "-")+".test")
}

// measure runs the source once.
func (s source) measure() (map[string]float64, error) {
	cmd := exec.Command(s.argv[0], s.argv[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	if s.units == nil {
		v, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		return map[string]float64{s.name: v}, err
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Benchmark") {
			return s.read(strings.Fields(line))
		}
	}
	return nil, errors.New("printed no benchmark")
}

// read takes a benchmark's line apart: its name, a count, then values, each before
// its unit.
func (s source) read(fields []string) (map[string]float64, error) {
	values := map[string]float64{}
	for i := 3; i < len(fields); i += 2 {
		name, ok := s.units[fields[i]]
		if !ok {
			continue
		}
		var err error
		if values[name], err = strconv.ParseFloat(fields[i-1], 64); err != nil {
			return nil, err
		}
	}
	if len(values) < len(s.units) {
		return nil, fmt.Errorf("not all of %v among %v", s.units, fields)
	}
	return values, nil
}

func report(samples map[string][]float64) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "median\tns\tallocations")
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		if strings.HasPrefix(name, allocsOf) {
			continue
		}
		fmt.Fprintf(w, "%s\t%.0f\t", name, median(samples[name]))
		if n, ok := samples[allocsOf+name]; ok {
			fmt.Fprintf(w, "%.0f", median(n))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "\nratio\tmeasured\taim\t")
	for _, a := range aims {
		top, bottom := samples[a.of], samples[a.to]
		if len(top) == 0 || len(top) != len(bottom) {
			return fmt.Errorf("no samples of %q or %q", a.of, a.to)
		}
		ratios := make([]float64, len(top))
		for i := range top {
			ratios[i] = top[i] / bottom[i] // of one round
		}
		r := median(ratios)
		verdict := "reached"
		if r > a.at {
			verdict = "missed"
		}
		fmt.Fprintf(w, "%s / %s\t%.2f\t%.2f\t%s\n", a.of, a.to, r, a.at, verdict)
	}
	return w.Flush()
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
