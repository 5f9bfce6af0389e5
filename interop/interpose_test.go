package interop

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/memscan"
)

// An interposed is a C program that runs with libsealctx-gss.so in front of its
// library, beside an agent of its own.
type interposed struct {
	library maker
	program string
	lib     string // libsealctx-gss.so; empty: the control, without it
	options string // of SEALCTX_GSS
	agent   *exec.Cmd
	log     *syncBuffer
	socket  string
}

// buildInterpose compiles the library; flags go to make.
func buildInterpose(t *testing.T, name string, flags ...string) string {
	t.Helper()
	return build(t, name, func(out string) *exec.Cmd {
		return exec.Command("make", append([]string{"-s", "-C", "../interpose", "LIBRARY=" + out}, flags...)...)
	})
}

func buildCExport(t *testing.T, m maker) string {
	m.need(t)
	return build(t, "cexport-"+string(m), func(out string) *exec.Cmd {
		flags := "-std=gnu11 -O2 -Wall -Wextra -Werror -Wno-unused-result -Wno-deprecated-declarations"
		if m == heimdal {
			flags += " -DHEIMDAL"
		}
		return exec.Command("sh", "-c", "exec cc "+flags+" -o "+out+" cexport/main.c $(pkg-config --cflags --libs "+m.module()+") -lpthread")
	})
}

func buildCommand(t *testing.T) string {
	return build(t, "sealctx", func(out string) *exec.Cmd {
		cmd := exec.Command("go", "build", "-o", out, "./cmd/sealctx")
		cmd.Dir = ".."
		return cmd
	})
}

// interpose starts an agent for a program over the library. policy may be empty.
func interpose(t *testing.T, m maker, policy string) *interposed {
	t.Helper()
	dir, err := os.MkdirTemp(buildDir, "agent-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(buildDir, 0o755))
	require.NoError(t, os.Chmod(dir, 0o755))
	in := &interposed{library: m, program: buildCExport(t, m), lib: buildInterpose(t, "libsealctx-gss.so"), socket: filepath.Join(dir, "agent.sock")}
	in.options = "socket=" + in.socket
	if policy != "" {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "policy"), []byte(policy), 0o644))
		policy = filepath.Join(dir, "policy")
	}
	in.startAgent(t, policy)
	return in
}

func (in *interposed) startAgent(t *testing.T, policy string) {
	t.Helper()
	args := []string{"agent", "--socket", in.socket}
	if policy != "" {
		args = append(args, "--policy", policy)
	}
	in.log = new(syncBuffer)
	in.agent = exec.Command(buildCommand(t), args...)
	in.agent.Stderr = in.log
	require.NoError(t, in.agent.Start())
	agent := in.agent
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	require.Eventually(t, func() bool { return strings.Contains(in.logged(), "agent ready") }, time.Minute, 5*time.Millisecond)
}

func (in *interposed) logged() string {
	in.log.mu.Lock()
	defer in.log.mu.Unlock()
	return in.log.b.String()
}

// opened is how many tokens the agent has opened. A program that ran without the
// library would raise it by nothing.
func (in *interposed) opened() int { return strings.Count(in.logged(), "token opened") }

// requireOpened waits for the agent's log, which is written after its answers.
func (in *interposed) requireOpened(t *testing.T, want int, args ...any) {
	t.Helper()
	for end := time.Now().Add(time.Minute); in.opened() < want && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	require.Equal(t, want, in.opened(), args...)
}

func (in *interposed) without() *interposed {
	control := *in
	control.lib = ""
	return &control
}

func (in *interposed) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(append(os.Environ(), realm.Env()...), "SEALCTX_GSS="+in.options, "PYTHONDONTWRITEBYTECODE=1")
	if in.lib != "" {
		cmd.Env = append(cmd.Env, "LD_PRELOAD="+in.lib)
	}
	return cmd
}

// run runs a scenario of cexport and returns what it printed.
func (in *interposed) run(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	cmd := in.command(in.program, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	require.NoError(t, cmd.Start())
	watchdog := time.AfterFunc(answerTimeout, func() { _ = cmd.Process.Signal(syscall.SIGABRT) })
	defer watchdog.Stop()
	err := cmd.Wait()
	require.NoError(t, err, "%v: %s %s", args, &out, &errs)
	require.Empty(t, errs.String())
	return out.String()
}

// Each scenario of the C program, and how many tokens the agent opens in it.
func TestInterposeScenarios(t *testing.T) {
	plainUser := os.Geteuid() != 0
	for _, library := range libraries {
		t.Run(string(library), func(t *testing.T) {
			in := interpose(t, library, "quota everyone outstanding 4096 connections 2048\n")
			root := t.TempDir()
			for _, c := range []struct {
				args  []string
				opens int
				want  string
			}{
				{[]string{"roundtrip", "20"}, 20, "ok"},
				{[]string{"threads", "64", "5"}, 320, "ok"},
				{[]string{"forks", "64", "5"}, 322, "ok"},
				{[]string{"vfork"}, 3, "ok 0"},
				{[]string{"longjmp"}, 50, "ok"},
				{[]string{"descriptors"}, 11, "ok\n0"},
				{[]string{"noseccomp"}, 0, "no agent answers"},
				{[]string{"chroot", root}, 1, "no agent answers"},
			} {
				if plainUser && c.args[0] == "chroot" {
					continue
				}
				before := in.opened()
				require.Contains(t, in.run(t, nil, c.args...), c.want)
				in.requireOpened(t, before+c.opens, "%v", c.args)
			}
			// A cancelled thread takes no context with it, however often it came round.
			before := in.opened()
			require.Equal(t, "ok\n", in.run(t, nil, "cancel", "50"))
			require.Eventually(t, func() bool { return in.opened() > before }, time.Minute, 5*time.Millisecond)
			// The control: the same program works without the library, and the agent sees nothing.
			before = in.opened()
			require.Contains(t, in.without().run(t, nil, "roundtrip", "20"), "ok")
			require.Equal(t, before, in.opened())
		})
	}
}

// A plugin of MIT's library, as gssproxy's, exports as a part of an export that is sealed
// as a whole: its own calls pass. The same module without the plugin's mark is sealed.
func TestInterposePlugin(t *testing.T) {
	in := interpose(t, mit, "")
	module := func(name, flag string) string {
		return build(t, name, func(out string) *exec.Cmd {
			return exec.Command("sh", "-c", "exec cc -shared -fPIC -O0 "+flag+" -o "+out+" cexport/through.c $(pkg-config --cflags --libs "+mit.module()+")")
		})
	}
	plugin := []byte(in.run(t, nil, "through", module("plugin.so", "-DPLUGIN")))
	require.Equal(t, []byte{0, 0, 0, 9}, plugin[:4])
	sealed := []byte(in.run(t, nil, "through", module("module.so", "")))
	require.Equal(t, "SLCX", string(sealed[:4]))
	require.Contains(t, in.run(t, sealed, "import"), "00000000 ")
}

// A token imports once. Altered, expired and plain ones are refused with a text, and
// spend nothing. Without the library the same token imports twice.
func TestInterposeTokens(t *testing.T) {
	for _, library := range libraries {
		t.Run(string(library), func(t *testing.T) {
			in := interpose(t, library, "")
			twice := strings.Split(in.run(t, nil, "twice"), "\n")
			require.Equal(t, "00000000 ", twice[0])
			require.Contains(t, twice[1], "00080000 sealctx: the token was imported before")
			control := strings.Split(in.without().run(t, nil, "twice"), "\n")
			require.Equal(t, []string{"00000000 ", "00000000 ", ""}, control)

			token := []byte(in.run(t, nil, "export"))
			require.True(t, bytes.HasPrefix(token, []byte("SLCX")))
			for _, at := range []int{0, 4, 5, 33, len(token) / 2, len(token) - 1} {
				altered := bytes.Clone(token)
				altered[at] ^= 1
				require.Contains(t, in.run(t, altered, "import"), "00090000 sealctx: ", "byte %d", at)
			}
			for n := range 40 {
				require.Contains(t, in.run(t, token[:len(token)*n/40+1], "import"), "00090000 sealctx: ")
			}
			huge := append(bytes.Clone(token), make([]byte, 100_000)...)
			require.Contains(t, in.run(t, huge, "import"), "00090000 sealctx: ")
			require.Contains(t, in.run(t, token, "import"), "00000000 ")

			plain := []byte(in.without().run(t, nil, "export"))
			require.Contains(t, in.run(t, plain, "import"), "00090000 sealctx: the token is not sealed")
			migrating := *in
			migrating.options += " accept-plain"
			require.Contains(t, migrating.run(t, plain, "import"), "00000000 ")

			other := mit
			if library == mit {
				other = heimdal
			}
			foreign := *in
			foreign.library, foreign.program = other, buildCExport(t, other)
			token = []byte(in.run(t, nil, "export"))
			require.Contains(t, foreign.run(t, token, "import"), "00090000 sealctx: the token was exported by another GSS-API library")
			require.Contains(t, in.run(t, token, "import"), "00000000 ")

			short := *in
			short.options += " lifetime=1"
			token = []byte(short.run(t, nil, "export"))
			time.Sleep(1100 * time.Millisecond)
			require.Contains(t, in.run(t, token, "import"), "00080000 sealctx: the token has expired")
		})
	}
}

// An export that cannot be sealed fails with a text and leaves a working context,
// whatever is the matter with the agent. cexport checks the context.
func TestInterposeAgentTrouble(t *testing.T) {
	for _, library := range libraries {
		t.Run(string(library), func(t *testing.T) {
			in := interpose(t, library, fmt.Sprintf("quota user %d outstanding 2\n", os.Geteuid()))
			in.run(t, nil, "export")
			in.run(t, nil, "export")
			require.Contains(t, in.run(t, nil, "refused"), "sealctx: a quota of this user is used up")

			audience := *in
			audience.options += " audience=service:mail"
			require.Contains(t, audience.run(t, nil, "refused"), "sealctx: the agent's policy does not allow it: ")

			// An agent that stands still costs a burst of calls one long wait.
			require.NoError(t, in.agent.Process.Signal(syscall.SIGSTOP))
			start := time.Now()
			require.Equal(t, "ok\n", in.run(t, nil, "burst", "40"))
			require.Less(t, time.Since(start), 40*5*time.Second/2)
			require.NoError(t, in.agent.Process.Signal(syscall.SIGCONT))

			require.NoError(t, in.agent.Process.Kill())
			_ = in.agent.Wait()
			require.Contains(t, in.run(t, nil, "refused"), "sealctx: no agent answers")

			// The next agent serves; a token of the one before is worth nothing.
			in.startAgent(t, "")
			token := []byte(in.run(t, nil, "export"))
			require.NoError(t, in.agent.Process.Kill())
			_ = in.agent.Wait()
			in.startAgent(t, "")
			require.Contains(t, in.run(t, token, "import"), "00090000 sealctx: the token is no sealed token")
			require.Equal(t, "ok\n", in.run(t, nil, "roundtrip", "3"))

			// A directory that others can write, or a foreign listener, is not believed.
			dir := filepath.Dir(in.socket)
			require.NoError(t, os.Chmod(dir, 0o777))
			require.Contains(t, in.run(t, nil, "refused"), "sealctx: the agent's socket is not to be trusted")
			require.NoError(t, os.Chmod(dir, 0o755))
			link := filepath.Join(buildDir, "link-"+string(library))
			require.NoError(t, os.Symlink(dir, link))
			linked := *in
			linked.options = "socket=" + filepath.Join(link, "agent.sock")
			require.Contains(t, linked.run(t, nil, "refused"), "sealctx: the agent's socket is not to be trusted")
			if os.Geteuid() == 0 {
				elsewhere := *in
				elsewhere.options = "socket=" + listenAs(t, dir, 12345)
				require.Contains(t, elsewhere.run(t, nil, "refused"), "sealctx: the agent's socket is not to be trusted")
			}
			require.Equal(t, "ok\n", in.run(t, nil, "roundtrip", "3"))
		})
	}
}

// listenAs makes a socket at which another user listens, and returns its path.
func listenAs(t *testing.T, dir string, uid int) string {
	t.Helper()
	path := filepath.Join(dir, "foreign")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	listened := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			listened <- errno
			return
		}
		listened <- unix.Listen(fd, 8)
	}()
	require.NoError(t, <-listened)
	return path
}

// An agent that answers anything else than the protocol makes an export fail and
// leaves the context. The client is built with the sanitizers.
func TestInterposeHostileAgent(t *testing.T) {
	client := build(t, "hostile", func(out string) *exec.Cmd {
		return exec.Command("cc", "-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra", "-Werror",
			"-DPATIENCE=SECOND/50", "-I../interpose", "-o", out, "cexport/hostile.c", "../interpose/agent.c", "../interpose/config.c")
	})
	dir, err := os.MkdirTemp(buildDir, "hostile-")
	require.NoError(t, err)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	go hostileAgent(l)
	cmd := exec.Command(client, "2000")
	cmd.Env = append(os.Environ(), "SEALCTX_GSS=socket="+path)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	// The control: some answers were taken for good, and some were not.
	var good, bad int
	_, err = fmt.Sscanf(string(out), "good %d bad %d", &good, &bad)
	require.NoError(t, err, "%s", out)
	require.Positive(t, good)
	require.Greater(t, bad, 1000)
}

// What is left of a session key in a C program after export and release, as another
// process reads its memory. Without the library it is found: the control.
func TestInterposeMemory(t *testing.T) {
	for _, library := range libraries {
		t.Run(string(library), func(t *testing.T) {
			in := interpose(t, library, "")
			with, without := in.leave(t), in.without().leave(t)
			t.Logf("session key in %d places after export and release, %d without the library", with, without)
			require.Positive(t, without, "the control found nothing")
			if library == mit {
				require.Zero(t, with)
			} else {
				require.Less(t, with, without)
			}
		})
	}
}

// leave counts the places of the session key after an export.
func (in *interposed) leave(t *testing.T) int {
	t.Helper()
	cmd := in.command(in.program, "leave")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	line := func() string {
		var b [1]byte
		var s strings.Builder
		for {
			_, err := stdout.Read(b[:])
			require.NoError(t, err, "%s", s.String())
			if b[0] == '\n' {
				return s.String()
			}
			s.WriteByte(b[0])
		}
	}
	key, err := hex.DecodeString(strings.Fields(line())[0])
	require.NoError(t, err)
	require.Equal(t, "live", line())
	set := new(memscan.Set)
	set.Bytes(sessionKey, key[:32])
	require.NoError(t, set.Err())
	scan := func() int {
		report, err := memscan.Scan(cmd.Process.Pid, set)
		require.NoError(t, err)
		n := 0
		for _, h := range report.Hits {
			if h.Kind != memscan.Registers {
				n++
			}
		}
		return n
	}
	require.Positive(t, scan(), "the live context's key was not found: the scan shows nothing")
	fmt.Fprintln(stdin)
	require.Equal(t, "exported", line())
	return scan()
}

// gss-server of Debian exports and imports each context that it accepts. It is run as
// it is, with krb5 and SPNEGO.
func TestInterposeGSSServer(t *testing.T) {
	server, err := exec.LookPath("gss-server")
	if err != nil {
		t.Skip("no gss-server (Debian: krb5-gss-samples)")
	}
	in := interpose(t, mit, "")
	for _, args := range [][]string{nil, {"-spnego"}} {
		port := freePort(t)
		const calls = 5
		cmd := in.command(server, "-port", port, "-export", "e18@localhost")
		require.NoError(t, cmd.Start())
		before := in.opened()
		for range calls {
			var out string
			require.Eventually(t, func() bool {
				client := exec.Command("gss-client", append(append([]string{"-port", port}, args...), "localhost", "e18@localhost", "hello")...)
				client.Env = append(os.Environ(), realm.Env()...)
				b, err := client.CombinedOutput()
				out = string(b)
				return err == nil && strings.Contains(out, "Signature verified.")
			}, time.Minute, 100*time.Millisecond, "%s", out)
		}
		in.requireOpened(t, before+3*calls, "each context is handed over three times")
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// python3-gssapi of Debian: export, import, pickle, fork and spawn. The script checks
// what Python shows; the agent's count shows that the library was there.
func TestInterposePython(t *testing.T) {
	if exec.Command("/usr/bin/python3", "-c", "import gssapi").Run() != nil {
		t.Skip("no python3-gssapi (Debian: python3-gssapi)")
	}
	in := interpose(t, mit, "")
	run := func(in *interposed, how string) string {
		out, err := in.command("/usr/bin/python3", absolute("cexport/contexts.py"), how).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	before := in.opened()
	require.Equal(t, "ok\n", run(in, "sealed"))
	in.requireOpened(t, before+5)
	// The control: without the library a token imports twice, and the agent opens nothing.
	before = in.opened()
	require.Equal(t, "ok\n", run(in.without(), "plain"))
	require.Equal(t, before, in.opened())
}

// The library reads and writes nothing that it should not, as valgrind sees it, also
// where an export fails.
func TestInterposeValgrind(t *testing.T) {
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		t.Skip("no valgrind (Debian: valgrind)")
	}
	in := interpose(t, mit, fmt.Sprintf("quota user %d outstanding 1\n", os.Geteuid()))
	for _, args := range [][]string{{"roundtrip", "2"}, {"twice"}, {"export"}, {"refused"}} {
		cmd := in.command(valgrind, append([]string{"-q", "--error-exitcode=9", "--leak-check=no", in.program}, args...)...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
	}
}
