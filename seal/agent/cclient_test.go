package agent

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
)

// build compiles the client.
func buildC(t *testing.T) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("needs a C compiler")
	}
	binary := filepath.Join(t.TempDir(), "client")
	out, err := exec.Command(cc, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", binary, filepath.Join("cclient", "client.c")).CombinedOutput()
	require.NoError(t, err, string(out))
	return binary
}

// The client in C seals what the one in Go opens and the other way round, once;
// both are told the same of what is wrong.
func TestClientInC(t *testing.T) {
	binary, path := buildC(t), serveHere(t, nil).path
	run := func(in []byte, args ...string) (out []byte, status int, text string) {
		cmd := exec.Command(binary, append([]string{path}, args...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &stdout, &stderr
		_ = cmd.Run() // the status says how it went
		return stdout.Bytes(), cmd.ProcessState.ExitCode(), stderr.String()
	}
	c, err := Dial(path)
	require.NoError(t, err)
	defer c.Close()

	for _, n := range []int{0, 1, 63, 511, 512, 767, 768, 1165, 5000, token.MaxPlain} {
		plain := make([]byte, n)
		rand.Read(plain)
		token, status, text := run(plain, "seal", testFormat)
		require.Zero(t, status, text)
		secret, err := c.Open(token, testFormat)
		require.NoError(t, err, "%d bytes", n)
		require.True(t, bytes.Equal(plain, secret.Bytes()))
		secret.Wipe()

		r, err := c.Reserve(seal.Request{Format: testFormat})
		require.NoError(t, err)
		token, err = r.Seal(plain)
		require.NoError(t, err)
		_, status, text = run(token, "open", "test/2/any")
		require.Equal(t, 4, status, text)
		out, status, text := run(token, "open", testFormat)
		require.Zero(t, status, text)
		require.True(t, bytes.Equal(plain, out))
		_, status, text = run(token, "open", testFormat)
		require.Equal(t, 5, status)
		require.Contains(t, text, "status 5, GSS major status 0x080000")
	}

	token, status, text := run([]byte("back"), "seal", testFormat)
	require.Zero(t, status, text)
	altered := bytes.Clone(token)
	altered[len(altered)-1] ^= 1
	_, status, text = run(altered, "open", testFormat)
	require.Equal(t, 1, status)
	require.Contains(t, text, "0x090000: \n")
	out, status, text := run(nil, "status")
	require.Zero(t, status, text)
	require.Equal(t, "outstanding 1 of 1024\n", string(out))
	out, status, _ = run(token, "takeback", testFormat)
	require.Zero(t, status)
	require.Equal(t, "back", string(out))

	_, status, text = run(nil, "seal", "a b")
	require.Equal(t, 7, status, text)
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o777))
	_, status, text = run(nil, "status")
	require.Equal(t, 100, status)
	require.Contains(t, text, "not to be trusted")
}
