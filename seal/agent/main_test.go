package agent

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
	"github.com/sealctx/sealctx/seal/agent/sandbox"
)

// childVar names what a re-executed test binary is: other processes of the tests
// are this very program.
const childVar = "AGENT_TEST_CHILD"

func TestMain(m *testing.M) {
	if role := os.Getenv(childVar); role != "" {
		if err := roles[role](os.Getenv("AGENT_TEST_PATH")); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	apart.RefuseOverflowUser()
	memscan.Main(m, victims)
}

var roles = map[string]func(path string) error{
	"agent":     roleAgent,
	"opener":    roleOpener,
	"exporter":  roleExporter,
	"inherited": roleInherited,
	"setuid":    roleSetuid,
	"activated": roleActivated,
	"echo":      roleEcho,
	"admin":     roleAdmin,
	"rotated":   roleRotated,
	"flood":     roleFlood,
	"victim":    roleVictim,
}

// roleAgent is an agent as the command runs it, in its sandbox, until SIGTERM.
func roleAgent(path string) error {
	if err := memsafe.Harden(); err != nil {
		return err
	}
	policy, err := ParsePolicy(strings.NewReader(os.Getenv("AGENT_TEST_POLICY")))
	if err != nil {
		return err
	}
	l, err := Listen(path)
	if err != nil {
		return err
	}
	return runAgent(l, policy)
}

func runAgent(l *net.UnixListener, policy *Policy) error {
	notify, err := NewNotifier()
	if err != nil {
		return err
	}
	outstanding, _ := strconv.Atoi(os.Getenv("AGENT_TEST_OUTSTANDING")) // zero: the default
	s, err := NewServer(&Options{Policy: policy, Capacity: outstanding})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if _, err := sandbox.Enter(sandbox.Options{Require: true}); err != nil {
		return err
	}
	if err := notify.Ready(); err != nil {
		return err
	}
	fmt.Println("ready")
	return errors.Join(s.Serve(ctx, l), notify.Stopping(), s.Close())
}

// roleOpener opens the tokens that it is given, one a line, and prints what
// comes of each.
func roleOpener(path string) error {
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<18)
	for lines.Scan() {
		b, err := hex.DecodeString(lines.Text())
		if err != nil {
			return err
		}
		fmt.Println(openOnce(path, b))
	}
	return lines.Err()
}

func openOnce(path string, b []byte) string {
	c, err := Dial(path)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	secret, err := c.Open(b, testFormat)
	if err != nil {
		return err.Error()
	}
	defer secret.Wipe()
	return "opened " + string(secret.Bytes())
}

// roleInherited sends the request on its standard input over a connection that
// it was given as descriptor 3, and prints the answer's status.
func roleInherited(string) error {
	f := os.NewFile(3, "connection")
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	return sendFrame(c)
}

// roleSetuid connects, then changes its user, then sends.
func roleSetuid(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	if err := syscall.Setuid(otherUID); err != nil {
		return err
	}
	return sendFrame(c)
}

func sendFrame(c net.Conn) error {
	frame, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if _, err := c.Write(frame); err != nil {
		return err
	}
	head := make([]byte, wire.HeaderSize)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	h, err := wire.ParseHeader(head)
	fmt.Println(h.Status)
	return err
}

// roleActivated is an agent that a service manager started.
func roleActivated(string) error {
	if err := os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid())); err != nil {
		return err
	}
	l, err := Inherited()
	if err != nil || l == nil {
		return fmt.Errorf("inherited %v: %w", l, err)
	}
	if again, err := Inherited(); again != nil || err != nil || os.Getenv("LISTEN_FDS") != "" {
		return fmt.Errorf("inherited twice: %v %w", again, err)
	}
	return runAgent(l, nil)
}

const (
	otherUID = 61234
	thirdUID = 61235
	someGID  = 61300
)

// A process is a child of the test.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// spawn starts a child in a role, and waits for its first line where it says
// when it is ready.
func spawn(t testing.TB, role, path string, change ...func(*exec.Cmd)) *process {
	t.Helper()
	p := &process{Cmd: exec.Command("/proc/self/exe")}
	p.Env = append(os.Environ(), childVar+"="+role, "AGENT_TEST_PATH="+path)
	p.Stderr = os.Stderr
	for _, f := range change {
		f(p.Cmd)
	}
	var err error
	if p.Stdin == nil {
		p.in, err = p.StdinPipe()
		require.NoError(t, err)
	}
	out, err := p.StdoutPipe()
	require.NoError(t, err)
	p.out = bufio.NewScanner(out)
	require.NoError(t, p.Start())
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.Process.Kill()
	_ = p.Wait()
}

// freeze stops a child, and waits until all of it has stopped.
func (p *process) freeze(t testing.TB) {
	t.Helper()
	require.NoError(t, p.Process.Signal(syscall.SIGSTOP))
	require.NoError(t, unix.Waitid(unix.P_PID, p.Process.Pid, nil, unix.WSTOPPED, nil))
}

// line reads the child's next line.
func (p *process) line(t testing.TB) string {
	t.Helper()
	require.True(t, p.out.Scan(), "the child ended: %v", p.out.Err())
	return p.out.Text()
}

// open has an opener open a token.
func (p *process) open(t testing.TB, b []byte) string {
	t.Helper()
	_, err := fmt.Fprintf(p.in, "%x\n", b)
	require.NoError(t, err)
	return p.line(t)
}

func opener(t testing.TB, path string, change ...func(*exec.Cmd)) *process {
	t.Helper()
	p := spawn(t, "opener", path, change...)
	require.Equal(t, "ready", p.line(t))
	return p
}

// as runs a child as another user.
func as(uid uint32, groups ...uint32) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: groups}}
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be several users")
	}
}

func processOf(t testing.TB, p *process) seal.Party {
	t.Helper()
	a, err := seal.Process(p.Process.Pid)
	require.NoError(t, err)
	return a
}
