package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// A user can be refused as fast as it asks, and all users share the log. So the log
// receives a limited number of the warnings and errors that one user causes: logBurst at
// once and logPerSecond after that. Then it says how many more there were. Metrics count
// all of them. What a user is granted is logged without a limit, for the audit.
const (
	logBurst     = 50
	logPerSecond = 10
)

// droppedBefore is the attribute of a line that says how many lines before it were dropped.
const droppedBefore = "dropped_before"

// A logBucket is how many lines one user may still put into the log.
type logBucket struct {
	mu      sync.Mutex
	room    float64
	since   time.Time
	dropped int
}

// take reports whether one more line may go in, and how many were dropped before it.
func (b *logBucket) take(now time.Time) (ok bool, dropped int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.since.IsZero() {
		b.room = logBurst
	} else {
		b.room = min(logBurst, b.room+now.Sub(b.since).Seconds()*logPerSecond)
	}
	b.since = now
	if b.room < 1 {
		b.dropped++
		return false, 0
	}
	b.room--
	dropped, b.dropped = b.dropped, 0
	return true, dropped
}

// idle reports whether the bucket is full again and has nothing to tell.
func (b *logBucket) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropped == 0 && (b.since.IsZero() || b.room+time.Since(b.since).Seconds()*logPerSecond >= logBurst)
}

// forgotten returns how many lines were dropped that no other line has told of. The
// caller tells.
func (b *logBucket) forgotten() (dropped int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	dropped, b.dropped = b.dropped, 0
	return dropped
}

// limited is a handler that asks a bucket.
type limited struct {
	slog.Handler
	bucket *logBucket
}

func (l limited) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		ok, dropped := l.bucket.take(r.Time)
		if !ok {
			return nil
		}
		if dropped > 0 {
			r.AddAttrs(slog.Int(droppedBefore, dropped))
		}
	}
	return l.Handler.Handle(ctx, r)
}

func (l limited) WithAttrs(attrs []slog.Attr) slog.Handler {
	return limited{l.Handler.WithAttrs(attrs), l.bucket}
}

func (l limited) WithGroup(name string) slog.Handler {
	return limited{l.Handler.WithGroup(name), l.bucket}
}
