package command

import (
	"bytes"
	"io"
	"log/slog"
	"regexp"
	"sync/atomic"
	"time"
)

const (
	logQueueLines  = 4096              // that may wait for the reader of the log
	logQueueAlarms = logQueueLines / 4 // of which these are for warnings; errors have as many more
	logFlush       = 2 * time.Second   // for what waits at the end
)

// A logQueue takes lines of a log without waiting for the reader of the log: a reader
// that stands still must not hold up the agent. Lines for which there is no room are
// dropped, and a line says how many. Errors have room of their own and come out first,
// and so have warnings, which come out next: neither what users are granted nor what
// they are refused, as fast as they ask, hides that a token was stolen.
type logQueue struct {
	lines   chan []byte
	alarms  chan []byte
	errors  chan []byte
	dropped atomic.Int64
	stop    chan struct{}
	done    chan struct{}
}

// newLogQueue starts to write to out; handler makes what is said of the queue
// itself, and is one for out.
func newLogQueue(out io.Writer, handler slog.Handler) *logQueue {
	return startLogQueue(out, handler, logQueueLines-logQueueAlarms, logQueueAlarms)
}

func startLogQueue(out io.Writer, handler slog.Handler, lines, alarms int) *logQueue {
	q := &logQueue{
		lines: make(chan []byte, lines), alarms: make(chan []byte, alarms), errors: make(chan []byte, alarms),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go q.run(out, slog.New(handler))
	return q
}

// Write never fails. It takes one line of a handler of slog's.
func (q *logQueue) Write(line []byte) (int, error) {
	kept, level := bytes.Clone(line), levelOf(line)
	if level == "ERROR" && put(q.errors, kept) || level != "" && put(q.alarms, kept) || put(q.lines, kept) {
		return len(line), nil
	}
	q.dropped.Add(1)
	return len(line), nil
}

func put(to chan<- []byte, line []byte) bool {
	select {
	case to <- line:
		return true
	default:
		return false
	}
}

// alarm is how a line begins whose level is WARN or above, as text and as JSON.
// The level stands before all that a user has a say in.
var alarm = regexp.MustCompile(`^(?:time=\S+ level=|\{"time":"[^"]*","level":")(WARN|ERROR)`)

// levelOf returns "WARN" or "ERROR", or "" for a line of a lower level.
func levelOf(line []byte) string {
	if m := alarm.FindSubmatch(line); m != nil {
		return string(m[1])
	}
	return ""
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
		_, _ = out.Write(line) // an error could be reported only here
		if n := q.dropped.Swap(0); n > 0 {
			self.Warn("the log could not be written as fast as it came", "dropped", n)
		}
	}
	for {
		select {
		case line := <-q.errors:
			write(line)
			continue
		default:
		}
		select {
		case line := <-q.errors:
			write(line)
			continue
		case line := <-q.alarms:
			write(line)
			continue
		default:
		}
		select {
		case line := <-q.errors:
			write(line)
		case line := <-q.alarms:
			write(line)
		case line := <-q.lines:
			write(line)
		case <-q.stop:
			for _, rest := range []chan []byte{q.errors, q.alarms, q.lines} {
				for len(rest) > 0 { // this goroutine alone takes any
					write(<-rest)
				}
			}
			return
		}
	}
}
