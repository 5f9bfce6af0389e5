// Package soak has a test that uses everything at once and for as long as one
// likes: an agent, embedded hosts, handovers to workers, keys that rotate each
// second. At the end every process must hold what it held after warming up: no
// more memory, locked memory, secrets, descriptors or goroutines; no token may
// have been lost, and none opened twice. A few seconds unless -soak says more:
//
//	go test ./internal/soak -soak 5m -timeout 10m
package soak
