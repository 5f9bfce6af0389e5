package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
)

// TestMain makes a worker of the test binary where a test has started it as one.
func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		apart.RefuseOverflowUser()
		os.Exit(m.Run())
	}
	if play, ok := parts[role]; ok {
		os.Exit(newActor().play(play))
	}
	if err := work(role); err != nil && !errors.Is(err, io.EOF) {
		if os.Getenv(stepVariable) == "" { // else it is what the test is about
			fmt.Fprintln(os.Stderr, role, "worker:", err)
		}
		os.Exit(1)
	}
}

// The steps of a worker, in their order.
const (
	started  = "s" // it runs
	hasToken = "t" // the token has come
	hasClaim = "c" // the import has succeeded
	hasConn  = "r" // Receive has returned
	failed   = "f" // the import has failed
	answered = "a" // the first message was answered
	limited  = "l" // the limit is set
	unready  = "n" // Receive has not said READY for want of descriptors
	unable   = "u" // Receive has refused a context for want of descriptors
)

// A stepper tells the test of each step, and does to this process what it is to
// do at one of them.
type stepper struct {
	report *os.File
	at     string
	signal syscall.Signal
}

func (s *stepper) step(name string) {
	if _, err := s.report.WriteString(name); err != nil {
		os.Exit(2) // the test has ended
	}
	if name == s.at && s.signal != 0 {
		// To this very thread, which then does not come back from the call
		// before the signal has struck.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		_ = unix.Tgkill(os.Getpid(), unix.Gettid(), s.signal)
	}
}

// stepping is a provider that tells of its imports.
type stepping struct {
	gssapi.Provider
	*stepper
}

func (s stepping) ImportSecContext(b []byte) (gssapi.SecContext, error) {
	s.step(hasToken)
	sc, err := s.Provider.ImportSecContext(b)
	if err != nil {
		s.step(failed)
		return nil, err
	}
	s.step(hasClaim)
	return sc, nil
}

// work is a worker. The roles: "serve" serves one context after the other;
// "kill" and "stop" do the same until they send themselves a signal at a step;
// "many" serves all at the same time; "short" serves one after the other and has as few
// descriptors as the test says; "racing" serves one after the other beside a goroutine that
// takes descriptors; "fork" and "child" are one worker that answers with
// another process.
func work(role string) error {
	c, err := FromParent()
	if err != nil {
		return err
	}
	s := &stepper{report: os.NewFile(parentFD+1, "steps"), at: os.Getenv(stepVariable)}
	switch role {
	case "kill":
		s.signal = syscall.SIGKILL
	case "stop":
		s.signal = syscall.SIGSTOP
	case "fork":
		return fork(c, s)
	case "agent":
		return serveAgent(c, s)
	case "plain":
		mech, err := krb5.New(nil)
		if err != nil {
			return err
		}
		return sink(c, mech)
	case "peer": // says that it is there, and no more
		if err := say(c, ready); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, c)
		return err
	}
	p, err := workerProvider()
	if err != nil {
		return err
	}
	switch role {
	case "child":
		return child(c, p)
	case "sink":
		return sink(c, p)
	}
	switch role {
	case "short":
		go obeyLimits(s)
	case "racing":
		go race()
	}
	s.step(started)
	for {
		sc, conn, err := Receive(context.Background(), c, stepping{p, s})
		switch {
		case outOfDescriptors(err):
			s.tellShort(err)
			continue
		case errors.Is(err, ErrRefused):
			continue
		case err != nil:
			return err
		}
		s.step(hasConn)
		if role == "many" {
			go serve(sc, conn)
		} else {
			serve(sc, conn)
		}
	}
}

// agentVariable is the socket of an agent, to serve at or to ask.
const agentVariable = "HANDOFF_TEST_AGENT"

func workerProvider() (gssapi.Provider, error) {
	sealer, err := workerSealer()
	if err != nil {
		return nil, err
	}
	mech, err := krb5.New(nil)
	if err != nil {
		return nil, err
	}
	return secctx.Wrap(mech, sealer), nil
}

func workerSealer() (seal.Sealer, error) {
	if socket := os.Getenv(agentVariable); socket != "" {
		return agent.Dial(socket)
	}
	return seal.OpenHost(nil)
}

// serveAgent is an agent, until the test closes its connection.
func serveAgent(c *net.UnixConn, s *stepper) error {
	l, err := agent.Listen(os.Getenv(agentVariable))
	if err != nil {
		return err
	}
	server, err := agent.NewServer(&agent.Options{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, c)
		cancel()
	}()
	s.step(started)
	return server.Serve(ctx, l)
}

// obeyLimits lets this process open so many descriptors more as each byte of descriptor 5
// says, until the next.
func obeyLimits(s *stepper) {
	commands := os.NewFile(parentFD+2, "commands")
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		os.Exit(2)
	}
	for n := make([]byte, 1); ; {
		if _, err := commands.Read(n); err != nil {
			return
		}
		if err := leaveFree(int(n[0]), old); err != nil {
			os.Exit(2)
		}
		s.step(limited)
	}
}

// race takes all descriptors that this process can have, and lets go of those that a
// connection needs, again and again.
func race() {
	var old unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &old) != nil || leaveFree(20, old) != nil {
		os.Exit(2)
	}
	var taken []int
	for {
		for {
			fd, err := unix.FcntlInt(parentFD+1, unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				break
			}
			taken = append(taken, fd)
		}
		time.Sleep(50 * time.Microsecond)
		for range min(needed, len(taken)) {
			_ = unix.Close(taken[len(taken)-1])
			taken = taken[:len(taken)-1]
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// unlimited is a number of descriptors to open that means the limit as it was.
const unlimited = 255

// leaveFree sets RLIMIT_NOFILE so that n descriptors more can be opened.
func leaveFree(n int, old unix.Rlimit) error {
	limit := old.Cur
	for fd := 0; n < unlimited; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			continue
		}
		if n--; n < 0 {
			limit = uint64(fd)
			break
		}
	}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: old.Max})
}

// tellShort tells the test of an error that must name the limit.
func (s *stepper) tellShort(err error) {
	if text := err.Error(); !strings.Contains(text, "RLIMIT_NOFILE") && !strings.Contains(text, unix.EMFILE.Error()) {
		os.Exit(3)
	}
	if errors.Is(err, ErrRefused) {
		s.step(unable)
		return
	}
	s.step(unready)
	time.Sleep(time.Millisecond)
}

// fork says READY and leaves the rest to a child with the same socket.
func fork(c *net.UnixConn, s *stepper) error {
	if err := say(c, ready); err != nil {
		return err
	}
	f, err := c.File()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=child")
	cmd.ExtraFiles = []*os.File{f, s.report}
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// child tries to import what is another process's, and says it has.
func child(c *net.UnixConn, p gssapi.Provider) error {
	tok, err := getToken(c)
	if err != nil {
		return err
	}
	if _, err := p.ImportSecContext(tok); !errors.Is(err, gssapi.ErrUnauthorized) {
		return fmt.Errorf("the child's import: %w", err)
	}
	return say(c, imported)
}
