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
	const more = 10
	for i := range logQueueLines + 1 + more { // one is with the writer, or soon
		fmt.Fprintln(q, i)
		if i == 0 {
			require.Eventually(t, func() bool { return len(q.lines) == 0 }, time.Minute, time.Millisecond)
		}
	}
	close(out.open)
	q.close()
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	require.Len(t, lines, logQueueLines+2)
	require.Equal(t, "0", string(lines[0]))
	require.Contains(t, string(lines[1]), fmt.Sprintf(`"dropped":%d`, more))
	for i, line := range lines[2:] {
		require.Equal(t, fmt.Sprint(i+1), string(line))
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
