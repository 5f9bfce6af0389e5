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
	logQueueAlarms = logQueueLines / 4 // of which these are for warnings and worse
	logFlush       = 2 * time.Second   // for what waits at the end
)

// A logQueue takes lines of a log without waiting for whoever reads it: a reader
// that stands still must not hold up the agent. Lines for which there is no room
// are dropped, and a line says how many. Warnings and worse have room of their
// own and come out first: what any user can have logged as fast as it asks, that
// a token was reserved, must not hide that one was stolen.
type logQueue struct {
	lines   chan []byte
	alarms  chan []byte
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
		lines: make(chan []byte, lines), alarms: make(chan []byte, alarms),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go q.run(out, slog.New(handler))
	return q
}

// Write never fails. It takes one line of a handler of slog's.
func (q *logQueue) Write(line []byte) (int, error) {
	kept := bytes.Clone(line)
	if isAlarm(line) && put(q.alarms, kept) || put(q.lines, kept) {
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
var alarm = regexp.MustCompile(`^(time=\S+ level=|\{"time":"[^"]*","level":")(WARN|ERROR)`)

func isAlarm(line []byte) bool { return alarm.Match(line) }

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
		case line := <-q.alarms:
			write(line)
			continue
		default:
		}
		select {
		case line := <-q.alarms:
			write(line)
		case line := <-q.lines:
			write(line)
		case <-q.stop:
			for _, rest := range []chan []byte{q.alarms, q.lines} {
				for len(rest) > 0 { // nobody else takes any
					write(<-rest)
				}
			}
			return
		}
	}
}
