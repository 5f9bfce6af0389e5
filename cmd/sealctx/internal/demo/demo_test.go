package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The players are this test binary again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Role {
		if err := Play(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestDemo(t *testing.T) {
	var page bytes.Buffer
	require.NoError(t, Run(t.Context(), &page, 3))
	for _, line := range []string{
		"messages 1 to 100        50 sealed, 50 signed, answered by acceptor, all in sequence",
		"NO_CONTEXT, from now on",
		"one bit altered          DEFECTIVE_TOKEN",
		"shown by worker B        UNAUTHORIZED",
		"messages 101 to 200      50 sealed, 50 signed, answered by worker A, all in sequence",
		"the token again          NO_CONTEXT: seal: token already imported",
		"messages 201 to 300      50 sealed, 50 signed, answered by worker B, all in sequence",
		"NO_CONTEXT: seal: token expired",
	} {
		require.Contains(t, page.String(), line)
	}
	require.Regexp(t, `(?m)^   carol +\d+ sealed, \d+ signed, all in sequence; handed on 4 times meanwhile$`, page.String())
	require.Regexp(t, `(?m)^   erin `, page.String())
	require.Contains(t, page.String(), "8 processes")
}

// Nobody waits for a player that could not come: it has said why.
func TestPlayerThatFails(t *testing.T) {
	dir := stageDir(t)
	require.NoError(t, os.Chmod(dir, 0o755)) // no keyring goes there
	began := time.Now()
	_, err := start(t.Context(), dir, "node", "acceptor", "")
	require.ErrorContains(t, err, "acceptor did not come up: it ended (exit status 1)")
	require.NotContains(t, err.Error(), "timeout")
	require.Less(t, time.Since(began), 5*time.Second)
}

// The signals that end the director, or all processes of a terminal, are not for
// players, which would say so, or end before it can.
func TestPlayersKeepOn(t *testing.T) {
	p, err := start(t.Context(), stageDir(t), "initiator", "alice", "")
	require.NoError(t, err)
	t.Cleanup(p.stop)
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGTERM} {
		require.NoError(t, unix.Kill(p.pid, sig))
	}
	select {
	case <-p.ended:
		t.Fatal("a player ended by itself")
	case <-time.After(100 * time.Millisecond):
	}
	require.NoError(t, unix.Kill(p.pid, unix.SIGKILL)) // the control
	<-p.ended
}

// TestDemoChecks is the control of TestDemo: the director does not print what
// did not happen.
func TestDemoChecks(t *testing.T) {
	dir := stageDir(t)
	acceptor, err := start(t.Context(), dir, "node", "acceptor", "")
	require.NoError(t, err)
	t.Cleanup(acceptor.stop)
	require.Equal(t, acceptor.cmd.Process.Pid, acceptor.pid)

	var page bytes.Buffer
	d := &director{page: pageTo(&page), token: []byte("genuine")}
	require.ErrorContains(t, d.refused("no token at all", acceptor, []byte("x"), "UNAUTHORIZED", "outstanding"), "DEFECTIVE_TOKEN and not UNAUTHORIZED")
	require.ErrorContains(t, d.refused("no token at all", acceptor, []byte("x"), "DEFECTIVE_TOKEN", "outstanding"), "the genuine token is")
	_, err = d.hand([]byte("x"), acceptor, 0, acceptor)
	require.ErrorContains(t, err, "could not import")
	require.Empty(t, page.String())
}

func TestCrowdLimit(t *testing.T) {
	for _, n := range []int{-1, MaxCrowd + 1} {
		require.ErrorContains(t, Run(t.Context(), new(bytes.Buffer), n), "can play")
	}
}

// TestExchanged compares the count with counting.
func TestExchanged(t *testing.T) {
	for first := 1; first < 6; first++ {
		sealed, signed := 0, 0
		for last := first; last < 12; last++ {
			if last%2 == 0 {
				signed++
			} else {
				sealed++
			}
			require.Equal(t, Exchanged{first, last, sealed, signed}, exchanged(first, last))
		}
	}
}

func stageDir(t *testing.T) string {
	t.Helper()
	dir, err := stage()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func pageTo(b *bytes.Buffer) page { return newPage(b, func(error) {}) }

// TestDemoStops ends the play once the cast is up, as ctrl-C does and as
// "| head" does: Run says why, and leaves no process and no file.
func TestDemoStops(t *testing.T) {
	interrupted, unread := errors.New("interrupted"), errors.New("nobody reads")
	for name, c := range map[string]struct {
		cancel, write, want error
	}{
		"interrupted":  {cancel: interrupted, want: interrupted},
		"nobody reads": {write: unread, want: unread},
	} {
		t.Run(name, func(t *testing.T) {
			dir := stageDir(t)
			t.Setenv("XDG_RUNTIME_DIR", dir)
			ctx, cancel := context.WithCancelCause(t.Context())
			var pids []int
			page := writer(func(text string) error {
				if m := processLine.FindStringSubmatch(text); m != nil {
					pid, err := strconv.Atoi(m[1])
					require.NoError(t, err)
					pids = append(pids, pid)
				}
				if len(pids) < 5 {
					return nil
				}
				// The control: there is something to be left behind. Again it may
				// come when all is on its way out.
				if ctx.Err() == nil {
					require.NoError(t, unix.Kill(pids[0], 0))
					require.NotEmpty(t, files(t, dir))
				}
				if c.cancel != nil {
					cancel(c.cancel)
				}
				return c.write
			})
			require.ErrorIs(t, Run(ctx, page, 0), c.want)
			require.Len(t, pids, 5)
			for _, pid := range pids {
				require.ErrorIs(t, unix.Kill(pid, 0), unix.ESRCH)
			}
			require.Empty(t, files(t, dir))
		})
	}
}

var processLine = regexp.MustCompile(`process (\d+) .*(ticket|keytab)`)

type writer func(text string) error

func (w writer) Write(b []byte) (int, error) { return len(b), w(string(b)) }

func files(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	return list
}
