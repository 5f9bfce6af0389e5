// Command bench compares sealctx with its peers, as ratios of medians measured
// in turn in one run: MIT's C library for GSS-API, crypto/tls for sealing.
// It prints each ratio beside its aim. It needs MIT's loop, and runs inside the
// private realm that the loop needs; `make bench` sees to both.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

func main() {
	rounds := flag.Int("rounds", 10, "how often each side is measured, in turn")
	mit := flag.String("mit", "interop/bin/mitbench", "the `program` that times MIT's library")
	flag.Parse()
	if err := run(*rounds, *mit); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(rounds int, mit string) error {
	dir, err := os.MkdirTemp("", "sealctx-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sources, err := build(dir, mit)
	if err != nil {
		return err
	}
	samples := map[string][]float64{}
	allocs := map[string]int{}
	for i := range rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", i+1, rounds)
		for _, s := range sources {
			ns, n, err := s.measure()
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			samples[s.name] = append(samples[s.name], ns)
			allocs[s.name] = n
		}
	}
	return report(samples, allocs)
}

// A source is one thing measured: a program that prints nanoseconds, or a
// benchmark of a compiled test.
type source struct {
	name string
	argv []string
	go_  bool
}

// build compiles the benchmarks, once for each build.
func build(dir, mit string) ([]source, error) {
	var sources []source
	for _, p := range peers {
		sources = append(sources, source{name: p.name, argv: append([]string{mit}, p.args...)})
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
			sources = append(sources, source{
				name: m.name + ", " + b.name,
				argv: []string{out, "-test.run=^$", "-test.bench=" + m.bench, "-test.benchtime=300ms", "-test.benchmem"},
				go_:  true,
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

var benchLine = regexp.MustCompile(`^Benchmark\S+\s+\d+\s+([\d.]+) ns/op.*?(\d+) allocs/op`)

// measure runs the source once.
func (s source) measure() (ns float64, allocs int, err error) {
	cmd := exec.Command(s.argv[0], s.argv[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, err
	}
	if !s.go_ {
		ns, err = strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		return ns, 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		if m := benchLine.FindStringSubmatch(lines.Text()); m != nil {
			ns, err = strconv.ParseFloat(m[1], 64)
			if err == nil {
				allocs, err = strconv.Atoi(m[2])
			}
			return ns, allocs, err
		}
	}
	return 0, 0, errors.New("printed no benchmark")
}

func report(samples map[string][]float64, allocs map[string]int) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "median\tns\tallocations")
	for _, name := range sortedKeys(samples) {
		fmt.Fprintf(w, "%s\t%.0f\t%d\n", name, median(samples[name]), allocs[name])
	}
	fmt.Fprintln(w, "\nratio\tmeasured\taim\t")
	for _, a := range aims {
		top, bottom := samples[a.of], samples[a.to]
		if len(top) == 0 || len(bottom) == 0 {
			return fmt.Errorf("no samples of %q or %q", a.of, a.to)
		}
		r := median(top) / median(bottom)
		verdict := "reached"
		if r > a.at {
			verdict = "missed"
		}
		fmt.Fprintf(w, "%s / %s\t%.2f\t%.2f\t%s\n", a.of, a.to, r, a.at, verdict)
	}
	return w.Flush()
}

func sortedKeys(m map[string][]float64) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
