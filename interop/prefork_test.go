package interop

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal/agent"
)

// A prefork is the example of that name, and what it has logged.
type prefork struct {
	cmd  *exec.Cmd
	port string
	log  *syncBuffer
}

var (
	listening = regexp.MustCompile(`listening at .*:([0-9]+)\n`)
	serving   = regexp.MustCompile(`process ([0-9]+) of user ([0-9]+) serves`)
)

// startPrefork runs the example in the realm until the test ends.
func startPrefork(t *testing.T, args ...string) *prefork {
	t.Helper()
	path := build(t, "prefork", func(out string) *exec.Cmd {
		cmd := exec.Command("go", "build", "-o", out, "./examples/prefork")
		cmd.Dir = ".."
		return cmd
	})
	p := &prefork{cmd: exec.Command(path, append([]string{"-listen", "localhost:0"}, args...)...), log: new(syncBuffer)}
	p.cmd.Env = append(append(os.Environ(), realm.Env()...), sealerEnv(t)...)
	p.cmd.Stderr = p.log
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // its workers end by that
		_ = p.cmd.Wait()
	})
	require.Eventually(t, func() bool {
		m := listening.FindStringSubmatch(p.text())
		if m != nil {
			p.port = m[1]
		}
		return m != nil
	}, 30*time.Second, 5*time.Millisecond, "%s", p.log)
	return p
}

// text is all that was logged.
func (p *prefork) text() string {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	return p.log.b.String()
}

// clientRuns are the calls of gss-client: its options, what must stand in its
// output and how often, and how many contexts a worker has to serve.
var clientRuns = []struct {
	options  string
	want     string
	times    int
	contexts int
}{
	{"", "Signature verified.", 1, 1},
	{"-krb5", "Signature verified.", 1, 1},
	{"-spnego", "Signature verified.", 1, 1},
	{"-spnego -seq -mcount 20", "Signature verified.", 20, 1},
	{"-spnego -nomutual -ccount 3", "Signature verified.", 3, 3},
	{"-mech {1.2.840.113554.1.2.2}", "Signature verified.", 1, 1},
	{"-d", "Signature verified.", 1, 1}, // a delegated credential that nobody wants is dropped
	{"-d -seq", "context flag: GSS_C_DELEG_FLAG", 1, 1},
	{"-seq", "context flag: GSS_C_SEQUENCE_FLAG", 1, 1},
	{"-seq -noreplay", "Signature verified.", 1, 1},
	{"-noreplay", "Signature verified.", 1, 1},
	{"-nomutual", "Signature verified.", 1, 1},
	{"-nomutual -mcount 20", "Signature verified.", 20, 1},
	{"-f FILE", "Signature verified.", 1, 1},
	{"-q -ccount 3", "", 0, 3},
	{"-ccount 3", "Signature verified.", 3, 3},
	{"-ccount 2 -mcount 5 -seq", "Signature verified.", 10, 2},
	{"-na", "Response received.", 1, 0},
	{"-na -mcount 4", "Response received.", 4, 0},
	{"-nw", "Signature verified.", 1, 1},
	{"-nx", "Signature verified.", 1, 1},
	{"-nm", "Response received.", 1, 1},
	{"-nw -nm", "Response received.", 1, 1},
	{"-v1", "Signature verified.", 1, 1},
	{"-v1 -mcount 3", "Signature verified.", 3, 1},
	{"-v1 -nomutual -nx", "Signature verified.", 1, 1},
}

// TestPrefork lets Debian's gss-client talk to the example: the acceptor does
// the handshake, and workers without network and keytab answer. Once all are one
// user, with a keyring; once the workers are another one, through the agent.
func TestPrefork(t *testing.T) {
	if _, err := exec.LookPath("gss-client"); err != nil {
		t.Skip("no gss-client (Debian: krb5-gss-samples)")
	}
	file := filepath.Join(t.TempDir(), "message")
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("a line of a file\n"), 5000), 0o600))
	t.Run("keyring", func(t *testing.T) {
		testPrefork(t, startPrefork(t), file, os.Getuid())
	})
	t.Run("agent", func(t *testing.T) {
		user := os.Getuid()
		if user == 0 {
			user = 54321
		}
		p := startPrefork(t, "-agent", startAgent(t, user), "-user", strconv.Itoa(user))
		testPrefork(t, p, file, user)
	})
}

func testPrefork(t *testing.T, p *prefork, file string, user int) {
	for _, run := range clientRuns {
		t.Run(run.options, func(t *testing.T) {
			before := len(serving.FindAllString(p.text(), -1))
			args, message := []string{"-port", p.port}, "hello"
			for _, a := range strings.Fields(run.options) {
				if a == "FILE" {
					message = file // -f: the message is the name of a file
					continue
				}
				args = append(args, strings.NewReplacer("{", "{ ", ".", " ", "}", " }").Replace(a))
			}
			out := client(t, "gss-client", append(args, "localhost", "e18@localhost", message)...)()
			require.Equal(t, run.times, strings.Count(out, run.want)-extra(run.want, out), "%s\n%s", out, p.log)
			var served [][]string // the log may come behind the client's end
			require.Eventually(t, func() bool {
				served = serving.FindAllStringSubmatch(p.text(), -1)[before:]
				return len(served) >= run.contexts
			}, 30*time.Second, time.Millisecond, "%s", p.log)
			require.Len(t, served, run.contexts, "%s", p.log)
			for _, s := range served {
				require.NotEqual(t, strconv.Itoa(p.cmd.Process.Pid), s[1])
				require.Equal(t, strconv.Itoa(user), s[2])
			}
		})
	}
	served := serving.FindAllStringSubmatch(p.text(), -1)
	require.NotEmpty(t, served)
	pid := served[0][1]
	devices, err := os.ReadFile("/proc/" + pid + "/net/dev")
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(devices), ":"), "a worker has no device but lo: %s", devices)
	require.Equal(t, strconv.Itoa(user), uidOf(t, pid))
}

// extra is how often an empty text is found anyway.
func extra(want, in string) int {
	if want == "" {
		return strings.Count(in, want)
	}
	return 0
}

// uidOf is the effective user of a process, as the kernel has it.
func uidOf(t *testing.T, pid string) string {
	f, err := os.Open("/proc/" + pid + "/status")
	require.NoError(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "Uid:"); ok {
			return strings.Fields(rest)[1]
		}
	}
	require.Fail(t, "no Uid in /proc/"+pid+"/status")
	return ""
}

// startAgent serves an agent that lets this user reserve for another one, and
// returns its socket, which both can reach.
func startAgent(t *testing.T, user int) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-interop-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	policy, err := agent.ParsePolicy(strings.NewReader(fmt.Sprintf("allow user %d to user %d\n", os.Getuid(), user)))
	require.NoError(t, err)
	server, err := agent.NewServer(&agent.Options{Policy: policy})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Close() })
	var l *net.UnixListener
	l, err = agent.Listen(dir + "/agent.sock")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return dir + "/agent.sock"
}
