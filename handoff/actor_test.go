package handoff

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"golang.org/x/sys/unix"

	tokens "github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
)

// An actor is a process of the test that kills agent, exporter and importers. It
// tells on its standard output what it does, and does what its standard input
// says: "kill STEP" and "stop STEP" are for the next time that it comes there,
// "finish" is to close all that it has opened.
type actor struct {
	dir    string // with the sockets
	ctx    context.Context
	finish context.CancelFunc

	mu   sync.Mutex
	at   string
	sign syscall.Signal
}

// The kinds of what actors tell.
const (
	reached = 's' // a step
	asks    = 'a' // shows a token to the agent
	owns    = 'o' // and has got its context, whose token ends like this
	served  = 'h' // a context was handed over, and its worker answers
	outcome = 'r' // how a handoff ended, behind the number of who made it
	fault   = 'F' // what must not happen
	left    = 'd' // finished, and every descriptor is closed
)

var parts = map[string]func(*actor) error{
	"the agent": (*actor).agent, "the importer": (*actor).importer,
	"the exporter":           func(a *actor) error { return a.exporter(plainly, false) },
	"the verifying exporter": func(a *actor) error { return a.exporter(plainly, true) },
	"the careless exporter":  func(a *actor) error { return a.exporter(newCareless, true) },
}

func plainly(c *agent.Client) seal.Sealer { return c }

const (
	agentPatience = 150 * time.Millisecond // of a client with the agent
	sendPatience  = time.Second            // of an acceptor with its workers
	longestStop   = 200 * time.Millisecond // longer than the agent's clients wait
	exporters     = 2                      // goroutines that hand over
	importers     = 2                      // processes
)

func newActor() *actor {
	a := &actor{dir: os.Getenv(agentVariable)}
	a.ctx, a.finish = context.WithCancel(context.Background())
	return a
}

func (a *actor) play(part func(*actor) error) int {
	go a.obey()
	if err := part(a); err != nil {
		a.fault("%v", err)
		return 1
	}
	a.tell(left, nil)
	return 0
}

func (a *actor) obey() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		what, step, _ := strings.Cut(lines.Text(), " ")
		a.mu.Lock()
		switch a.at = step; what {
		case "kill":
			a.sign = syscall.SIGKILL
		case "stop":
			a.sign = syscall.SIGSTOP
		case "finish":
			a.finish()
		}
		a.mu.Unlock()
	}
	if a.ctx.Err() == nil {
		os.Exit(2) // the test has ended
	}
}

// tell writes one message, whole: it is shorter than what a pipe may tear.
func (a *actor) tell(kind byte, b []byte) {
	m := append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(b))), b...)
	if _, err := os.Stdout.Write(m); err != nil {
		os.Exit(2)
	}
}

func (a *actor) fault(format string, args ...any) { a.tell(fault, fmt.Appendf(nil, format, args...)) }

func (a *actor) step(name string) {
	a.tell(reached, []byte(name))
	a.mu.Lock()
	sign := a.sign
	if name != a.at || sign == 0 {
		a.mu.Unlock()
		return
	}
	a.at, a.sign = "", 0
	a.mu.Unlock()
	runtime.LockOSThread() // see stepper.step
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), sign)
}

// A watched sealer tells of the tokens that it shows to the agent and of those
// that it gets, and sees to it that no request lasts.
type watched struct {
	seal.Sealer
	*actor
}

func (w watched) Reserve(q seal.Request) (*seal.Reservation, error) {
	defer w.within("reserve", time.Now(), agentPatience)
	r, err := w.Sealer.Reserve(q)
	if err == nil {
		w.step("reserved")
	}
	return r, err
}

func (w watched) Open(b []byte, formats ...string) (*memsafe.Secret, error) {
	w.step("token")
	secret, err := w.redeem(w.Sealer.Open, b, formats)
	if err == nil {
		w.step("claim")
	}
	return secret, err
}

func (w watched) TakeBack(b []byte, formats ...string) (*memsafe.Secret, error) {
	w.step("answer")
	secret, err := w.redeem(w.Sealer.TakeBack, b, formats)
	if err == nil {
		w.step("taken back")
	}
	return secret, err
}

func (w watched) redeem(ask func([]byte, ...string) (*memsafe.Secret, error), b []byte, formats []string) (*memsafe.Secret, error) {
	w.tell(asks, b)
	defer w.within("open", time.Now(), agentPatience)
	secret, err := ask(b, formats...)
	if err == nil {
		w.tell(owns, nameOf(b))
	}
	return secret, err
}

// nameOf is enough of a token to know it by.
func nameOf(b []byte) []byte { return b[len(b)-tokens.TagSize:] }

// within is called when something has ended that had so much time, and may have
// been stopped meanwhile, or waited for what was.
func (a *actor) within(what string, start time.Time, limit time.Duration) {
	if took := time.Since(start); took > limit+longestStop+slack {
		a.fault("%s took %v", what, took)
	}
}

// careless is a sealer that takes back whatever the agent says, as one without a
// register would.
type careless struct {
	*agent.Client
	pool *memsafe.Pool
}

func newCareless(c *agent.Client) seal.Sealer {
	pool, err := memsafe.NewPool(0)
	if err != nil {
		return nil
	}
	return careless{c, pool}
}

func (c careless) TakeBack(b []byte, formats ...string) (*memsafe.Secret, error) {
	secret, err := c.Client.TakeBack(b, formats...)
	if errors.Is(err, seal.ErrSpent) {
		return c.pool.Alloc(16)
	}
	return secret, err
}

// actorTB has an actor use what tests use.
type actorTB struct {
	testing.TB // nil: there is no test in this process
	*actor
}

func (actorTB) Helper()                          {}
func (actorTB) Cleanup(func())                   {} // the actor closes, or dies
func (a actorTB) Errorf(format string, v ...any) { a.actor.fault(format, v...) }
func (actorTB) FailNow()                         { os.Exit(1) }

// openFiles is how many descriptors this process has.
func openFiles() (int, error) {
	list, err := os.ReadDir("/proc/self/fd")
	return len(list), err
}

// leaving checks that f leaves as many descriptors as it found.
func leaving(f func() error) error {
	r, w, err := os.Pipe() // upon which the runtime opens what it keeps
	if err != nil {
		return err
	}
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		return err
	}
	before, err := openFiles()
	if err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	after, err := openFiles()
	if err == nil && after > before {
		err = fmt.Errorf("%d descriptors are left open", after-before)
	}
	return err
}

func (a *actor) path(name string) string { return filepath.Join(a.dir, name) }

func (a *actor) dial() (*agent.Client, error) {
	return (&agent.Dialer{Timeout: agentPatience}).Dial(a.path("agent.sock"))
}

// agent is the agent; its steps are its audit events.
func (a *actor) agent() error {
	return leaving(func() error {
		l, err := agent.Listen(a.path("agent.sock"))
		if err != nil {
			return err
		}
		server, err := agent.NewServer(&agent.Options{Log: slog.New(stepLog{slog.DiscardHandler, a})})
		if err != nil {
			return err
		}
		a.step(started)
		return errors.Join(server.Serve(a.ctx, l), l.Close(), server.Close())
	})
}

type stepLog struct {
	slog.Handler
	*actor
}

func (stepLog) Enabled(context.Context, slog.Level) bool { return true }
func (s stepLog) WithAttrs([]slog.Attr) slog.Handler     { return s }

func (s stepLog) Handle(_ context.Context, r slog.Record) error {
	s.step(r.Message)
	return nil
}

// importer is a worker that looks for the acceptor again whenever that is gone.
func (a *actor) importer() error {
	return leaving(func() error {
		client, err := a.dial()
		if err != nil {
			return err
		}
		mech, err := krb5.New(nil)
		if err != nil {
			return err
		}
		p := secctx.Wrap(mech, watched{client, a})
		a.step(started)
		for a.ctx.Err() == nil {
			conn, err := net.Dial("unix", a.path("acceptor.sock"))
			if err != nil {
				time.Sleep(time.Millisecond)
				continue
			}
			a.receive(conn.(*net.UnixConn), p)
			_ = conn.Close()
		}
		return errors.Join(mech.Release(), client.Close())
	})
}

func (a *actor) receive(acceptor *net.UnixConn, p gssapi.Provider) {
	for {
		sc, conn, err := Receive(a.ctx, acceptor, p)
		switch {
		case errors.Is(err, ErrRefused):
			continue
		case err != nil:
			return
		}
		a.step("connection")
		serve(sc, conn)
		a.step("served")
	}
}

// exporter is an acceptor with a pool of the importers that connect to it. The
// clients of its contexts are in the same process.
func (a *actor) exporter(sealer func(*agent.Client) seal.Sealer, verify bool) error {
	return leaving(func() error {
		client, err := a.dial()
		if err != nil {
			return err
		}
		_ = os.Remove(a.path("acceptor.sock")) // of the one before
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path("acceptor.sock")})
		if err != nil {
			return err
		}
		h := &house{t: actorTB{actor: a}, local: true}
		h.furnish(a.path("replay"))
		h.p = (&secctx.Config{Sealer: watched{sealer(client), a}, Lifetime: 5 * time.Second}).Wrap(h.mech)
		a.step(started)
		return errors.Join(a.handOverAll(h, l, verify), h.mech.Release(), client.Close())
	})
}

// handOverAll hands over until it is to finish.
func (a *actor) handOverAll(h *house, l *net.UnixListener, verify bool) error {
	pool := &Pool{
		Sender:  Sender{Verify: verify},
		Workers: importers, Patience: agentPatience,
		Start: func(context.Context) (*net.UnixConn, error) { return l.AcceptUnix() },
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running, load sync.WaitGroup
	running.Go(func() { pool.Run(ctx) })
	for i := range exporters {
		load.Go(func() {
			for a.ctx.Err() == nil {
				a.tell(outcome, append([]byte{byte(i)}, a.handOver(h, pool)...))
			}
		})
	}
	load.Wait()
	cancel()
	err := l.Close()
	running.Wait()
	return err
}

// handOver hands over one context, checks what Send says of it, and returns how
// it ended.
func (a *actor) handOver(h *house, pool *Pool) string {
	s := h.session(h.p)
	defer s.close()
	a.step("established")
	ctx, cancel := context.WithTimeout(context.Background(), sendPatience)
	defer cancel()
	start := time.Now()
	err := pool.Send(ctx, s.sc, s.conn, nil)
	a.within("Send", start, sendPatience)
	how := "not exported"
	switch {
	case err == nil:
		how = "handed over"
		a.step("handed over")
		if err := s.ask("there?"); err == nil {
			a.tell(served, nil)
		}
	case errors.Is(err, ErrReturned):
		how = "returned"
	case errors.Is(err, ErrClaimed):
		how = "claimed"
	case errors.Is(err, secctx.ErrLost):
		how = "lost"
	}
	here := how == "returned" || how == "not exported"
	if works := s.works(); (works == nil) != here {
		a.fault("%s (%v), and the context here: %v", how, err, works)
	}
	if here {
		s.open()
	}
	return how
}
