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

// The peers in C: arguments of mitbench.
var peers = []struct {
	name string
	args []string
}{
	{"MIT export+import", []string{"export", "20000"}},
}

// Our benchmarks.
var ours = []struct{ name, pkg, bench string }{
	{"seal cycle AES", "seal", "^BenchmarkCycle$/^AES-256-GCM$"},
	{"seal cycle ChaCha", "seal", "^BenchmarkCycle$/^ChaCha20-Poly1305$"},
	{"TLS ticket", "seal", "^BenchmarkTicket$"},
}

// The aims: of at most at times to.
var aims = []struct {
	of, to string
	at     float64
}{
	{"seal cycle AES, plain", "MIT export+import", 0.45},
	{"seal cycle AES, erased", "MIT export+import", 0.65},
	{"seal cycle AES, plain", "TLS ticket, plain", 1.0},
	{"seal cycle ChaCha, plain", "TLS ticket, plain", 1.0},
}
