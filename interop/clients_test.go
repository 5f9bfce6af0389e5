package interop

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// client starts a foreign initiator in the realm; the function waits for its
// end and answers what it printed.
func client(t *testing.T, name string, args ...string) func() string {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), realm.Env()...)
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // mostly gone by then
	return func() string {
		t.Helper()
		select {
		case err := <-done:
			require.NoError(t, err, "%s", out.Bytes())
		case <-time.After(answerTimeout):
			require.Fail(t, "no end of "+name)
		}
		return out.String()
	}
}

// TestPython lets python3-gssapi talk to a context that changes hands.
func TestPython(t *testing.T) {
	if exec.Command("/usr/bin/python3", "-c", "import gssapi").Run() != nil {
		t.Skip("no python3-gssapi (Debian: python3-gssapi)")
	}
	const each = 50
	for _, library := range makers {
		t.Run(string(library), func(t *testing.T) {
			n := nodes(t, library, 2)
			port := n[0].do("listen")
			accepted := n[0].send("accept")
			done := client(t, "/usr/bin/python3", absolute("pyinit/initiator.py"), port, "e18@localhost", "150")
			_, err := accepted()
			require.NoError(t, err)
			for i, holder := range []*proc{n[0], n[1], n[0]} {
				holder.do("serve", i*each, each)
				if i < 2 {
					hand(t, holder, n[1-i])
				}
			}
			require.Contains(t, done(), "150 messages each way")
		})
	}
}

// TestGSSClient lets Debian's gss-client talk to a context that changes hands
// between its messages. The client checks a signature over each of them.
func TestGSSClient(t *testing.T) {
	if _, err := exec.LookPath("gss-client"); err != nil {
		t.Skip("no gss-client (Debian: krb5-gss-samples)")
	}
	for _, library := range makers {
		t.Run(string(library), func(t *testing.T) {
			n := nodes(t, library, 2)
			port := n[0].do("listen")
			accepted := n[0].send("sampleaccept")
			done := client(t, "gss-client", "-port", port, "-krb5", "-mcount", "3", "localhost", "e18@localhost", "hello")
			_, err := accepted()
			require.NoError(t, err)
			for i, holder := range []*proc{n[0], n[1], n[0]} {
				require.Equal(t, "hello", holder.do("sampleanswer"))
				if i < 2 {
					hand(t, holder, n[1-i])
				}
			}
			require.Equal(t, 3, strings.Count(done(), "Signature verified."))
		})
	}
}

// TestMITBench shows that the comparison program works; its times are for the
// benchmarks.
func TestMITBench(t *testing.T) {
	mit.need(t)
	path := build(t, "mitbench", func(out string) *exec.Cmd {
		return exec.Command("sh", "-c", "exec cc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -o "+out+
			" mitbench/mitbench.c $(pkg-config --cflags --libs mit-krb5-gssapi)")
	})
	for _, args := range [][]string{{"export", "100"}, {"wrap", "1024", "100"}, {"wrap", "65536", "10"}} {
		require.Regexp(t, `^[0-9]+\.[0-9]\n$`, client(t, path, args...)())
	}
	require.Regexp(t, `^1[0-9]{3}\n$`, client(t, path, "size")(), "a token of about 1,165 bytes")
}
