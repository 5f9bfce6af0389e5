package command

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// streamOf is a file's device and inode, as JOURNAL_STREAM has them.
func streamOf(t *testing.T, f *os.File) string {
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(f.Fd()), &st))
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// Lines get the priority of their level in the journal, in text and JSON, and nowhere
// else: not where the variable names another stream, and not in a buffer.
func TestJournal(t *testing.T) {
	const forged = "a name\nlevel=ERROR <0>"
	for _, json := range []bool{false, true} {
		for name, test := range map[string]struct {
			stream func(f, other *os.File) string
			want   []string
		}{
			"journal":        {func(f, _ *os.File) string { return streamOf(t, f) }, []string{"<6>", "<6>", "<4>", "<3>"}},
			"another stream": {func(_, other *os.File) string { return streamOf(t, other) }, []string{"", "", "", ""}},
			"no journal":     {func(_, _ *os.File) string { return "" }, []string{"", "", "", ""}},
			"malformed":      {func(f, _ *os.File) string { return streamOf(t, f) + " " }, []string{"", "", "", ""}},
		} {
			t.Run(fmt.Sprintf("%s, JSON %v", name, json), func(t *testing.T) {
				f, err := os.CreateTemp(t.TempDir(), "")
				require.NoError(t, err)
				defer f.Close()
				other, err := os.CreateTemp(t.TempDir(), "")
				require.NoError(t, err)
				defer other.Close()
				t.Setenv("JOURNAL_STREAM", test.stream(f, other))
				a := agentCmd{JSON: json}
				out := logTo(f)
				queue := newLogQueue(out, a.handler(out))
				log := slog.New(a.handler(queue))
				log.Info("first", "name", forged)
				queue.flushed(t, f, 1)
				log.Info("second")
				queue.flushed(t, f, 2)
				log.Warn("third", "name", forged)
				queue.flushed(t, f, 3)
				log.Error("fourth")
				queue.close()
				text, err := os.ReadFile(f.Name())
				require.NoError(t, err)
				lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
				require.Len(t, lines, len(test.want), "%s", text)
				for i, line := range lines {
					begin := "time="
					if json {
						begin = `{"time":`
					}
					require.True(t, strings.HasPrefix(line, test.want[i]+begin), line)
				}
			})
		}
	}
	require.False(t, isJournal(&bytes.Buffer{}))
}

// flushed waits until a file has so many lines: levels overtake each other in a queue.
func (q *logQueue) flushed(t *testing.T, f *os.File, lines int) {
	t.Helper()
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(f.Name())
		return err == nil && bytes.Count(text, []byte("\n")) == lines
	}, time.Minute, 10*time.Millisecond)
}

// An error that ends a command is an error for the journal too, in each of its lines.
func TestJournalOfStatus(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer f.Close()
	for _, stream := range []string{streamOf(t, f), ""} {
		t.Setenv("JOURNAL_STREAM", stream)
		require.NoError(t, f.Truncate(0))
		_, err := f.Seek(0, 0)
		require.NoError(t, err)
		require.Equal(t, exitFailed, status(f, errors.Join(errors.New("one"), errors.New("two"))))
		require.Equal(t, exitUsage, Main([]string{"nonsense"}, nil, f, f))
		text, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		want := "sealctx: one\ntwo\nsealctx: "
		if stream != "" {
			want = "<3>sealctx: one\n<3>two\n<3>sealctx: "
		}
		require.True(t, strings.HasPrefix(string(text), want), "%s", text)
	}
}
