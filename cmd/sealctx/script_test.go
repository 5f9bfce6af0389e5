package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/demo"
	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
)

// TestMain makes the test binary the programs that scripts run, and the players
// of the demonstration.
func TestMain(m *testing.M) {
	apart.RefuseOverflowUser()
	if len(os.Args) > 1 && os.Args[1] == demo.Role {
		main()
	}
	testscript.Main(m, map[string]func(){
		"sealctx": main,
		"token":   tokenMain,
		"get":     getMain,

		"activate": activateMain,
		"notified": notifiedMain,
	})
}

// TestScript runs the scripts, each with a runtime directory of its own.
func TestScript(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Condition: func(name string) (bool, error) {
			if name != "root" {
				return false, errors.New("unknown condition " + name)
			}
			return os.Geteuid() == 0, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"waitfor": waitFor,
		},
	})
}

// setup gives the script a directory on tmpfs, with a short name: $RUN.
func setup(e *testscript.Env) error {
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-")
	if err != nil {
		return err
	}
	e.Defer(func() { _ = os.RemoveAll(dir) })
	e.Setenv("RUN", dir)
	e.Setenv("SEALCTX_DIR", dir+"/keys")
	e.Setenv("XDG_RUNTIME_DIR", dir)
	e.Setenv("UID", strconv.Itoa(os.Geteuid()))
	return nil
}

// exits STATUS PROGRAM ARG...: the program ends with exactly that status.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ended with status %d and not %d", args[1], got, want)
	}
}

// waitfor FILE [TEXT]: until a file is there, and has the text.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: waitfor FILE [TEXT]")
	}
	for range 1000 {
		if len(args) == 1 {
			if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
				return
			}
		} else if b, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && strings.Contains(string(b), args[1]) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("%s did not come", strings.Join(args, " "))
}

// tokenMain is a program that has tokens:
//
//	token seal FILE LIFETIME   seals one for this user
//	token mine FILE            seals two for its own process, and opens one
//	token open FILE            opens it
//
// with the agent of $AGENT, or this user's keyring.
func tokenMain() {
	s, err := sealer()
	fatal(err)
	switch file := os.Args[2]; os.Args[1] {
	case "seal":
		err = sealTo(s, seal.Party{}, file, os.Args[3])
	case "mine": // for this process, which opens it, and another
		var self seal.Party
		self, err = seal.Process(os.Getpid())
		fatal(err)
		fatal(sealTo(s, self, file, "1m"))
		fatal(open(s, file))
		err = sealTo(s, self, file, "1m")
	case "open":
		err = open(s, file)
	}
	fatal(err)
}

func open(s seal.Sealer, file string) error {
	token, err := os.ReadFile(file)
	if err == nil {
		_, err = s.Open(token, "a/format")
	}
	return err
}

func sealer() (seal.Sealer, error) {
	if socket := os.Getenv("AGENT"); socket != "" {
		return agent.Dial(socket)
	}
	return seal.OpenHost(nil)
}

func sealTo(s seal.Sealer, to seal.Party, file, lifetime string) error {
	d, err := time.ParseDuration(lifetime)
	if err != nil {
		return err
	}
	kerberos := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}
	r, err := s.Reserve(seal.Request{Format: "a/format", Mechanism: kerberos, Audience: to, Lifetime: d})
	if err != nil {
		return err
	}
	token, err := r.Seal([]byte("a plain token"))
	if err != nil {
		return err
	}
	return os.WriteFile(file, token, 0o600)
}

// getMain is a scraper: get SOCKET PATH.
func getMain() {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", os.Args[1])
	}}}
	resp, err := client.Get("http://agent" + os.Args[2])
	fatal(err)
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		os.Stderr.WriteString(resp.Status + "\n")
		os.Exit(1)
	}
}

// activateMain starts a program as a service manager does that listens for it:
// activate SOCKET PROGRAM ARG...
func activateMain() {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: os.Args[1], Net: "unix"})
	fatal(err)
	f, err := l.File()
	fatal(err)
	fatal(unix.Dup3(int(f.Fd()), 3, 0))
	path, err := exec.LookPath(os.Args[2])
	fatal(err)
	env := append(os.Environ(), "LISTEN_FDS=1", "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	fatal(unix.Exec(path, os.Args[2:], env))
}

// notifiedMain is the manager's ear: notified SOCKET N prints N messages.
func notifiedMain() {
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: os.Args[1], Net: "unixgram"})
	fatal(err)
	n, err := strconv.Atoi(os.Args[2])
	fatal(err)
	buf := make([]byte, 4096)
	for range n {
		n, err := l.Read(buf)
		fatal(err)
		os.Stdout.Write(append(buf[:n], '\n'))
	}
}

func fatal(err error) {
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}
