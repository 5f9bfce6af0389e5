package command

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/seal/agent"
)

// What is in the way of a socket is told apart, for each has a remedy of its own.
func TestOccupied(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listen := func(path string) error {
		l, err := (&agentCmd{Socket: place(path)}).listen()
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	}
	require.NoError(t, listen(dir+"/agent"))
	require.ErrorContains(t, listen(dir+"/agent"), "another agent listens there")
	require.NoError(t, os.WriteFile(dir+"/file", nil, 0o600))
	require.ErrorContains(t, listen(dir+"/file"), "/file is no socket; move it away")
	other, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/other", Net: "unixgram"})
	require.NoError(t, err)
	defer other.Close()
	require.ErrorContains(t, listen(dir+"/other"), "does not answer")
}

// A socket that only clients of the agent's own user would trust is warned of.
func TestWarnOfPlace(t *testing.T) {
	apart.NeedRoot(t)
	base, err := os.MkdirTemp("/dev/shm", "sealctx-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	require.NoError(t, os.Chmod(base, 0o755))
	dir := filepath.Join(base, "sub")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.Chown(dir, apart.Nobody, apart.Nobody))
	warned := func() string {
		var out bytes.Buffer
		warnOfPlace(filepath.Join(dir, "agent.sock"), slog.New(slog.NewTextHandler(&out, nil)))
		return out.String()
	}
	require.Empty(t, warned())
	require.NoError(t, os.Chown(base, apart.Nobody, apart.Nobody))
	require.Contains(t, warned(), `level=WARN msg="other users' clients refuse this socket"`)
	require.Contains(t, warned(), base+" belongs to user 65534")
}

// The flags have the limits that package agent has: its error of a value beyond them says
// the same two.
func TestLimitsOfFlags(t *testing.T) {
	for flag, o := range map[string]*agent.Options{
		"outstanding":  {Capacity: maxOutstanding + 1},
		"age":          {Age: maxAge + 1},
		"max-lifetime": {MaxLifetime: maxMaxLifetime + 1},
	} {
		_, err := agent.NewServer(o)
		require.Error(t, err)
		_, agents, found := strings.Cut(err.Error(), "not between ")
		require.True(t, found, err)
		value := "721h"
		if flag == "outstanding" {
			value = "16777217"
		}
		status, _, errs := run("agent", "--"+flag, value)
		require.Equal(t, exitUsage, status)
		_, flags, found := strings.Cut(errs, "not between ")
		require.True(t, found, errs)
		require.Equal(t, agents+"; see sealctx --help\n", flags)
	}
}
