package main

// What is measured, and what it is measured against.

// The two builds: as `go build` makes it, and with erased execution.
var builds = []struct {
	name string
	env  []string
}{
	{"plain", nil},
	{"erased", []string{"GOEXPERIMENT=runtimesecret"}},
}

// A peer is a program's arguments, and the name of what it measures.
type peer struct {
	name string
	args []string
}

// The peers in C: arguments of mitbench.
var peers = []peer{
	{"MIT export+import", []string{"export", "20000"}},
	{"MIT 1 KiB", []string{"wrap", "1024", "20000"}},
	{"MIT 64 KiB", []string{"wrap", "65536", "500"}},
}

// HTTP requests, each authenticated by itself: arguments of webbench. CPU is that of
// the handler, time that of a server with 8 clients beside it.
var servers = []peer{
	{"CPU of a request", []string{"cpu", "ours", "3000"}},
	{"CPU of a request, MIT's library", []string{"cpu", "mit", "3000"}},
	{"CPU of a request, gokrb5's handler", []string{"cpu", "gokrb5", "3000"}},
	{"time of a request", []string{"rate", "ours", "4000"}},
	{"time of a request, Apache", []string{"rate", "apache", "4000"}},
}

// Export and import of MIT's library with libsealctx-gss in front of it: arguments of
// gssbench.
var interposed = []peer{
	{"export+import of a C program", []string{"library", "3000"}},
	{"exchanges of a C program", []string{"bare", "3000"}},
}

// Our benchmarks, each measured in both builds.
var ours = []benchmark{
	one("seal cycle AES", "seal", "^BenchmarkCycle$/^AES-256-GCM$"),
	one("TLS ticket", "seal", "^BenchmarkTicket$"),
	one("seal cycle ChaCha", "seal", "^BenchmarkCycle$/^ChaCha20-Poly1305$"),
	one("open, 1,000 out", "seal", "^BenchmarkOpen$/^outstanding=1000$"),
	one("open, 10,000,000 out", "seal", "^BenchmarkOpen$/^outstanding=10000000$"),
	one("krb5 export+import", "secctx/krb5", "^BenchmarkExportImport$/^enctype=18$"),
	one("krb5 1 KiB", "secctx/krb5", "^BenchmarkWrapUnwrap$/^size=1024$/^enctype=18$"),
	one("krb5 64 KiB", "secctx/krb5", "^BenchmarkWrapUnwrap$/^size=65536$/^enctype=18$"),
	one("half-open cookie", "secctx/spnego", "^BenchmarkHalf$"),
	one("krb5 sealed export+import", "internal/bench", "^BenchmarkSealedExportImport$"),
}

// What is between processes is measured in the plain build alone: the builds
// differ by less than the scheduler.
var between = []benchmark{
	one("bare reserve", "seal/agent", "^BenchmarkAgent$/^reserve$/^bare$"),
	one("agent reserve", "seal/agent", "^BenchmarkAgent$/^reserve$/^agent$"),
	one("bare open", "seal/agent", "^BenchmarkAgent$/^open$/^bare$"),
	one("agent open", "seal/agent", "^BenchmarkAgent$/^open$/^agent$"),
	{"handoff", "^BenchmarkHandoffs$", "2s", map[string]string{
		"plain-ns":           "handoff of plain tokens",
		"bare-ns":            "handoff of plain tokens, without the pool",
		"embedded-ns":        "handoff embedded",
		"agent-ns":           "handoff by agent",
		"agent-verifying-ns": "handoff by agent, verifying",
	}},
}

// A benchmark is its package, what go test calls it, how long it runs, and the
// names of what it measures, by their units.
type benchmark struct {
	pkg, bench, time string
	units            map[string]string
}

// one is a benchmark that measures one thing.
func one(name, pkg, bench string) benchmark {
	return benchmark{pkg, bench, "300ms", map[string]string{"ns/op": name, "allocs/op": allocsOf + name}}
}

// allocsOf before a name is how many allocations that made.
const allocsOf = "allocations of "

// The aims: of at most at times to.
var aims = []struct {
	of, to string
	at     float64
}{
	{"export+import of a C program", "exchanges of a C program", 1.3},
	{"seal cycle AES, plain", "MIT export+import", 0.45},
	{"seal cycle AES, erased", "MIT export+import", 0.65},
	{"seal cycle AES, plain", "TLS ticket, plain", 1.0},
	{"seal cycle ChaCha, plain", "TLS ticket, plain", 1.0},
	{"open, 10,000,000 out, plain", "open, 1,000 out, plain", 1.15},
	{"krb5 1 KiB, plain", "MIT 1 KiB", 0.6},
	{"krb5 64 KiB, plain", "MIT 64 KiB", 0.5},
	{"krb5 export+import, plain", "MIT export+import", 0.25},
	{"krb5 sealed export+import, plain", "MIT export+import", 0.7},
	{"half-open cookie, plain", "seal cycle AES, plain", 1.2},
	{"CPU of a request", "CPU of a request, MIT's library", 0.7},
	{"CPU of a request", "CPU of a request, gokrb5's handler", 0.5}, // which sends no token back
	{"time of a request", "time of a request, Apache", 1.0},
	{"agent reserve, plain", "bare reserve, plain", 1.5},
	{"agent open, plain", "bare open, plain", 1.5},
	{"handoff embedded, plain", "handoff of plain tokens, plain", 1 / 0.8}, // times; in rates 0.8
	{"handoff by agent, plain", "handoff of plain tokens, plain", 1 / 0.45},
}
