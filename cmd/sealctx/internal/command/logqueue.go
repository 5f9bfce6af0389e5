package command

import (
	"bytes"
	"io"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	logQueueLines = 4096            // that may wait for the reader of the log
	logFlush      = 2 * time.Second // for what waits at the end
)

// A logQueue takes lines of a log without waiting for whoever reads it: a reader
// that stands still must not hold up the agent. Lines for which there is no room
// are dropped, and a line says how many.
type logQueue struct {
	lines   chan []byte
	dropped atomic.Int64
	stop    chan struct{}
	done    chan struct{}
}

// newLogQueue starts to write to out; handler makes what is said of the queue
// itself, and is one for out.
func newLogQueue(out io.Writer, handler slog.Handler) *logQueue {
	q := &logQueue{lines: make(chan []byte, logQueueLines), stop: make(chan struct{}), done: make(chan struct{})}
	go q.run(out, slog.New(handler))
	return q
}

// Write never fails.
func (q *logQueue) Write(line []byte) (int, error) {
	select {
	case q.lines <- bytes.Clone(line):
	default:
		q.dropped.Add(1)
	}
	return len(line), nil
}

// close gives what waits some time to be written. What comes after it is lost.
func (q *logQueue) close() {
	close(q.stop)
	select {
	case <-q.done:
	case <-time.After(logFlush):
	}
}

func (q *logQueue) run(out io.Writer, self *slog.Logger) {
	defer close(q.done)
	write := func(line []byte) {
		_, _ = out.Write(line) // there is nobody to be told
		if n := q.dropped.Swap(0); n > 0 {
			self.Warn("the log could not be written as fast as it came", "dropped", n)
		}
	}
	for {
		select {
		case line := <-q.lines:
			write(line)
		case <-q.stop:
			for len(q.lines) > 0 { // nobody else takes any
				write(<-q.lines)
			}
			return
		}
	}
}
