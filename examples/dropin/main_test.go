package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

const runVariable = "DROPIN_RUN"

// TestMain runs the example itself if the test has started this process.
func TestMain(m *testing.M) {
	if os.Getenv(runVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestDropIn(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-dropin-")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), runVariable+"=1", "SEALCTX_DIR="+dir, "KRB5RCACHEDIR="+t.TempDir()+"/replay")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, `imported the context of alice@EXAMPLE.TEST <nil>
a second time: seal: token already imported
the exporter: secctx: context was exported
`, string(out))
}
