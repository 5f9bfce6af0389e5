package agent

import (
	"context"
	"encoding/hex"
	"log/slog"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/seal"
)

// housekeep rotates and retires epochs in time and forgets tokens that expired. A host
// does so by itself only when a reservation is made.
func (s *Server) housekeep(ctx context.Context) {
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	for {
		s.tidy()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) tidy() {
	seen := map[[16]byte]suite.Suite{}
	for _, h := range s.hosts {
		err := h.Refresh()
		var keys []seal.Key
		if err == nil {
			keys, err = h.Keys()
		}
		if err != nil {
			s.log.Error(eventTrouble, "suite", h.suite.String(), "reason", err)
			return
		}
		for _, k := range keys {
			seen[k.ID] = h.suite
		}
	}
	s.noteEpochs(seen)
	s.noteDropped()
	if now, err := s.now(); err == nil {
		s.users.sweep(now)
	}
}

// noteEpochs logs which epochs came and went since the last time.
func (s *Server) noteEpochs(seen map[[16]byte]suite.Suite) {
	s.mu.Lock()
	before := s.epochs
	s.epochs = seen
	s.mu.Unlock()
	for id, suite := range seen {
		if before[id] == 0 {
			s.log.Info(eventEpoch, "epoch", hex.EncodeToString(id[:]), "suite", suite.String())
		}
	}
	for id, suite := range before {
		if seen[id] == 0 {
			s.log.Info(eventEpochOver, "epoch", hex.EncodeToString(id[:]), "suite", suite.String())
		}
	}
}

// noteDropped logs, for each user, how many lines were dropped that no later line has told
// of. There may be no later line.
func (s *Server) noteDropped() {
	for _, acct := range append(s.users.all(), s.nameless) {
		who := slog.Int64("peer_uid", int64(acct.uid))
		if acct == s.nameless {
			who = slog.String("peer_uid", "unknown")
		}
		if n := acct.log.forgotten(); n > 0 {
			s.log.Warn(eventDropped, who, "lines", n)
		}
		if n := acct.alarms.forgotten(); n > 0 {
			s.log.Error(eventAlarms, "exporter", acct.uid, "second_imports", n)
		}
	}
}

// now is the time since boot, on the clock of tokens.
func (s *Server) now() (time.Duration, error) { return s.clock.Now() }
