package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// answerTimeout bounds the wait for one answer; the programs themselves give up
// earlier when a peer is silent.
const answerTimeout = 3 * time.Minute

// proc is a running cpeer or node. Both obey one command a line and answer each
// with one line.
type proc struct {
	t       *testing.T
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan string
	stderr  *syncBuffer
	socket  string // of a node
}

// syncBuffer is a buffer that a process writes while a test reads it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String is the beginning of what was written: a crash of Go takes pages.
func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.b.Bytes()[:min(s.b.Len(), 600)])
}

// start runs a program in the realm until the test ends. env is added to its
// environment.
func start(t *testing.T, name, path string, env []string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, name: name, cmd: exec.Command(path, args...), answers: make(chan string, 1), stderr: new(syncBuffer)}
	p.cmd.Env = append(append(os.Environ(), realm.Env()...), env...)
	p.cmd.Stderr = p.stderr
	in, err := p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	p.in = in
	read := make(chan struct{})
	go func() {
		defer close(read)
		p.read(out)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it has nothing to finish
		<-read
		_ = p.cmd.Wait()
	})
	return p
}

// read passes answers on until the process is gone.
func (p *proc) read(out io.Reader) {
	defer close(p.answers)
	lines := bufio.NewScanner(out)
	lines.Buffer(make([]byte, 4096), 1<<20)
	for lines.Scan() {
		p.answers <- lines.Text()
	}
}

// pid is the process's id.
func (p *proc) pid() int { return p.cmd.Process.Pid }

// send gives a command and answers a function that waits for the result, so
// that two processes can work at the same time. One command at a time.
func (p *proc) send(words ...any) func() (string, error) {
	line := strings.TrimSuffix(fmt.Sprintln(words...), "\n")
	_, err := fmt.Fprintln(p.in, line)
	return func() (string, error) {
		if err != nil {
			return "", fmt.Errorf("%s: %w: %s", p.name, err, p.stderr)
		}
		select {
		case answer, ok := <-p.answers:
			if !ok {
				return "", fmt.Errorf("%s died: %s", p.name, p.stderr)
			}
			if rest, ok := strings.CutPrefix(answer, "ok"); ok {
				return strings.TrimSpace(rest), nil
			}
			return "", fmt.Errorf("%s: %.40s: %s", p.name, line, answer)
		case <-time.After(answerTimeout):
			return "", fmt.Errorf("%s: %.40s: no answer: %s", p.name, line, p.stderr)
		}
	}
}

// try gives a command and waits.
func (p *proc) try(words ...any) (string, error) { return p.send(words...)() }

// do gives a command that has to succeed.
func (p *proc) do(words ...any) string {
	p.t.Helper()
	answer, err := p.try(words...)
	require.NoError(p.t, err)
	return answer
}

// cpeer starts a C peer.
func cpeer(t *testing.T, m maker) *proc {
	t.Helper()
	return start(t, "cpeer-"+string(m), buildCPeer(t, m), nil)
}

// nodes starts Go nodes over one library that share a sealer's directory; each
// has a socket at which it receives contexts.
func nodes(t *testing.T, m maker, count int, args ...string) []*proc {
	t.Helper()
	path, env := buildNode(t, m, raceFlags...), sealerEnv(t)
	if m == golang {
		env = append(env, "KRB5CCNAME=FILE:"+tickets)
	}
	all := make([]*proc, count)
	for i := range all {
		all[i] = node(t, path, fmt.Sprintf("%s-%c", m, 'A'+i), env, args...)
	}
	return all
}

// node starts one Go node.
func node(t *testing.T, path, name string, env []string, args ...string) *proc {
	t.Helper()
	dir, err := os.MkdirTemp(buildDir, "node-") // short: a socket's path has at most 107 bytes
	require.NoError(t, err)
	socket := filepath.Join(dir, "s")
	p := start(t, name, path, env, append([]string{"-socket", socket}, args...)...)
	p.socket = socket
	require.Eventually(t, func() bool {
		_, err := os.Stat(socket)
		return err == nil
	}, 30*time.Second, 5*time.Millisecond, "%s does not start: %s", name, p.stderr)
	return p
}

// sealerEnv names a directory for a host's keyring: a fresh one on the tmpfs
// that the keyring wants.
func sealerEnv(t *testing.T) []string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-interop-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return []string{"SEALCTX_DIR=" + dir}
}

// allFlags asks for everything that the window needs.
const allFlags = "mutual,replay,sequence,conf,integ"

// establish connects an initiator to an acceptor, for the service e18@localhost
// or the like.
func establish(t *testing.T, initiator, acceptor *proc, service, flags string) {
	t.Helper()
	port := acceptor.do("listen")
	accepted := acceptor.send("accept")
	initiated := initiator.send("connect", port, service, flags)
	_, err := accepted()
	require.NoError(t, err)
	_, err = initiated()
	require.NoError(t, err)
}

// hand passes a context from one node to the next, and answers the token and
// the number of bytes that were under way from the peer.
func hand(t *testing.T, from, to *proc) (token string, underWay int) {
	t.Helper()
	received := to.send("receive")
	given := from.do("give", to.socket)
	_, err := received()
	require.NoError(t, err)
	_, err = fmt.Sscan(given, &token, &underWay)
	require.NoError(t, err)
	return token, underWay
}
