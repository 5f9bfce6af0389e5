package command

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/apart"
)

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
