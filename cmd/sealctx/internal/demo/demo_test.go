package demo

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
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
	require.NoError(t, Run(t.Context(), &page))
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
}

// TestDemoChecks is the control of TestDemo: the director does not print what
// did not happen.
func TestDemoChecks(t *testing.T) {
	dir := stageDir(t)
	acceptor, err := start(t.Context(), dir, "node", "acceptor", "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = acceptor.stop() })
	require.Equal(t, acceptor.cmd.Process.Pid, acceptor.pid)

	var page bytes.Buffer
	d := &director{page: pageTo(&page), token: []byte("genuine")}
	require.ErrorContains(t, d.refused("no token at all", acceptor, []byte("x"), "UNAUTHORIZED", "outstanding"), "DEFECTIVE_TOKEN and not UNAUTHORIZED")
	require.ErrorContains(t, d.refused("no token at all", acceptor, []byte("x"), "DEFECTIVE_TOKEN", "outstanding"), "the genuine token is")
	_, err = d.hand([]byte("x"), acceptor, 0, acceptor)
	require.ErrorContains(t, err, "could not import")
	require.Empty(t, page.String())
}

func stageDir(t *testing.T) string {
	t.Helper()
	dir, err := stage()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func pageTo(b *bytes.Buffer) page { return page{b} }
