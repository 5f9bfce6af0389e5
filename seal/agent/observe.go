package agent

import (
	"time"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// An Observer counts what a Server does; package metrics has one. Its methods
// are called from many goroutines and must return at once. The strings are few
// and fixed.
type Observer interface {
	// Answered is called once for each request, whatever the answer. The status of a
	// take-back that found the token spent is "claimed". It is no refusal: package
	// handoff asks so, with Verify or after a worker's silence, whether the worker has
	// the context.
	Answered(operation, status string, took time.Duration)

	// Refused is called for each connection that the server does not take, or that it
	// ends for a fault of the peer's. where is "accept", "connect" or "receive".
	Refused(where, status string)

	// SecondImport is called when a token's own audience opens it in time and the token
	// is spent already: there is a copy of it.
	SecondImport()
}

// counted is the status of an answer for the Observer.
func counted(op wire.Op, code wire.Code) string {
	if op == wire.TakeBack && code == wire.Spent {
		return "claimed"
	}
	return code.String()
}

// unobserved is the Observer of a server without one.
type unobserved struct{}

func (unobserved) Answered(string, string, time.Duration) {}
func (unobserved) Refused(string, string)                 {}
func (unobserved) SecondImport()                          {}

// Stats is how a server stands.
type Stats struct {
	Connections int
	Locked      int // bytes of locked memory for opened tokens and token keys
	LockedUsed  int // bytes of it in use
	Suites      []string
	Keys        []seal.Key
}

// Stats reads how the server stands. It reads every register whole. On an error,
// which wraps seal.ErrUnavailable, Keys is not complete.
func (s *Server) Stats() (Stats, error) {
	st := Stats{Connections: s.connections(), Locked: s.pool.Size(), LockedUsed: s.pool.InUse()}
	for _, h := range s.hosts {
		st.Suites = append(st.Suites, h.suite.String())
	}
	for _, h := range s.hosts {
		keys, err := h.Keys()
		if err != nil {
			return st, err
		}
		st.Keys = append(st.Keys, keys...)
	}
	return st, nil
}
