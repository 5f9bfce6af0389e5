package command

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A gate is a writer that stands still until it is opened.
type gate struct {
	open chan struct{}
	bytes.Buffer
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	return g.Buffer.Write(b)
}

// Whoever logs does not wait for the reader, what there is room for arrives in
// order, and the rest is counted.
func TestLogQueue(t *testing.T) {
	out := &gate{open: make(chan struct{})}
	q := newLogQueue(out, slog.NewJSONHandler(out, nil))
	const room, more = logQueueLines - logQueueAlarms, 10
	for i := range room + 1 + more { // one is with the writer, or soon
		fmt.Fprintln(q, i)
		if i == 0 {
			require.Eventually(t, func() bool { return len(q.lines) == 0 }, time.Minute, time.Millisecond)
		}
	}
	close(out.open)
	q.close()
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	require.Len(t, lines, room+2)
	require.Equal(t, "0", string(lines[0]))
	require.Contains(t, string(lines[1]), fmt.Sprintf(`"dropped":%d`, more))
	for i, line := range lines[2:] {
		require.Equal(t, fmt.Sprint(i+1), string(line))
	}
}

// What any user can have logged as fast as it likes drives no alarm out, whatever
// it calls itself. Without room of their own alarms are lost.
func TestLogQueueAlarms(t *testing.T) {
	for _, json := range []bool{false, true} {
		cmd := agentCmd{JSON: json}
		for _, room := range []int{logQueueAlarms, 0} {
			t.Run(fmt.Sprintf("JSON %v, room %d", json, room), func(t *testing.T) {
				out := &gate{open: make(chan struct{})}
				q := startLogQueue(out, cmd.handler(out), logQueueLines-room, room)
				log := slog.New(cmd.handler(q))
				for i := range 2 * logQueueLines {
					log.Info("token reserved", "exporter", `level=ERROR "level":"ERROR`)
					if i == 0 { // with the writer, or soon
						require.Eventually(t, func() bool { return len(q.lines) == 0 }, time.Minute, time.Millisecond)
					}
				}
				log.Error("second import of a token")
				log.Warn("token refused")
				close(out.open)
				q.close()
				alarms := 0
				if room > 0 {
					alarms = 1
				}
				for _, msg := range []string{"second import of a token", "token refused"} {
					require.Equal(t, alarms, bytes.Count(out.Bytes(), []byte(msg)), msg)
				}
				first := bytes.Split(out.Bytes(), []byte("\n"))[:3] // the writer's, the queue's own, the alarm
				require.Equal(t, room > 0, bytes.Contains(first[2], []byte("second import")))
			})
		}
	}
}

// Alarms that find their own room taken have the others'.
func TestLogQueueOnlyAlarms(t *testing.T) {
	out := &gate{open: make(chan struct{})}
	q := newLogQueue(out, slog.DiscardHandler)
	log := slog.New(slog.NewTextHandler(q, nil))
	for range logQueueLines {
		log.Warn("token refused")
	}
	close(out.open)
	q.close()
	require.Equal(t, logQueueLines, bytes.Count(out.Bytes(), []byte("token refused")))
}

// Refusals of all users together drive no alarm out. The control: some refusals are
// dropped themselves.
func TestLogQueueErrorsAmongWarnings(t *testing.T) {
	for _, json := range []bool{false, true} {
		cmd := agentCmd{JSON: json}
		out := &gate{open: make(chan struct{})}
		q := newLogQueue(out, cmd.handler(out))
		log := slog.New(cmd.handler(q))
		const alarms = 100
		for range 2 * logQueueLines {
			log.Warn("token refused", "reason", `level=ERROR "level":"ERROR`)
		}
		for range alarms {
			log.Error("second import of a token")
		}
		close(out.open)
		q.close()
		require.Equal(t, alarms, bytes.Count(out.Bytes(), []byte("second import")))
		require.Less(t, bytes.Count(out.Bytes(), []byte("token refused")), 2*logQueueLines)
	}
}

// The end does not wait for a reader that stands still.
func TestLogQueueEnds(t *testing.T) {
	out := &gate{open: make(chan struct{})}
	defer close(out.open)
	q := newLogQueue(out, slog.DiscardHandler)
	fmt.Fprintln(q, "waits")
	ended := make(chan struct{})
	go func() { q.close(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the queue waits for its reader")
	}
}
