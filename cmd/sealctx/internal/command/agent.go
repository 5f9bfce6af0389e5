package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/unixsock"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/seal/agent/metrics"
	"github.com/sealctx/sealctx/seal/agent/sandbox"
)

type agentCmd struct {
	Socket         place          `default:"${socket}" aliases:"agent" placeholder:"PATH" help:"Where to listen (${default}), unless a service manager hands over a socket. Its directory must be root's or this user's, all above it root's, and none of them anybody else's to write."`
	Policy         place          `placeholder:"FILE" help:"Who may seal for whom; without it, every user for itself. SIGHUP reads it again. Only root and this user may be able to write the file and the directories above it. The other files in its directory stay readable to the agent."`
	Metrics        place          `placeholder:"ADDR" help:"Serve Prometheus metrics over HTTP, at a loopback HOST:PORT or unix:PATH."`
	RequireSandbox bool           `help:"Do not start where the kernel cannot lock the agent in."`
	Suite          []string       `enum:"${suites}" placeholder:"NAME" help:"Seal with this suite only; may be repeated, the preferred one first: ${suites}."`
	Outstanding    *int           `placeholder:"N" help:"Tokens that may be outstanding at a time."`
	Age            *time.Duration `placeholder:"DURATION" help:"How long a key seals before the next takes over."`
	MaxLifetime    *time.Duration `placeholder:"DURATION" help:"The longest lifetime of a token."`
	JSON           bool           `help:"Log as JSON."`
}

// The limits of package agent, which are not exported. A mistaken flag is then told with
// its own name, as a mistaken command line.
const (
	maxOutstanding = 1 << 24
	leastDuration  = time.Second
	maxAge         = 30 * 24 * time.Hour
	maxMaxLifetime = 7 * 24 * time.Hour
)

// Validate is called by kong. Zero means the default to package agent; a person who
// writes it means something else.
func (a *agentCmd) Validate() error {
	return cmp.Or(
		within("--outstanding", a.Outstanding, 1, maxOutstanding),
		within("--age", a.Age, leastDuration, maxAge),
		within("--max-lifetime", a.MaxLifetime, leastDuration, maxMaxLifetime),
	)
}

// within checks a flag, if it was given.
func within[T int | time.Duration](flag string, value *T, least, most T) error {
	if value == nil || *value >= least && *value <= most {
		return nil
	}
	return fmt.Errorf("%s is %v, not between %v and %v", flag, *value, least, most)
}

func (*agentCmd) Help() string {
	return `Holds host keys and the register of outstanding tokens in locked memory, and seals
and opens for the processes of every user, as the policy has it. Keys end with the
agent, and every outstanding token with them. The audit log goes to standard error.
SIGTERM, SIGINT and SIGQUIT let the requests under way end first.`
}

// Run comes in the order that the sandbox needs: what opens or connects first.
func (a *agentCmd) Run(c *console) (err error) {
	if err := memsafe.Harden(); err != nil {
		return err
	}
	// A reader of the log that ends, or stands still, is no reason to end or to wait.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	out := logTo(c.err)
	queue := newLogQueue(out, a.handler(out))
	defer queue.close()
	log := slog.New(a.handler(queue))
	policy, err := a.readPolicy()
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	l, err := a.listen()
	if err != nil {
		return err
	}
	defer unixsock.CloseListener(l) // peers that were not accepted may have sent descriptors that are slow to close
	warnOfPlace(l.Addr().String(), log)
	observer := metrics.New()
	server, err := a.newServer(policy, log, observer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	notify := connectNotifier(log)
	defer notify.Close()
	web, err := a.startMetrics(observer, server, log)
	if err != nil {
		return err
	}
	defer web.stop()
	ctx, stop := untilSignal(unix.SIGTERM, unix.SIGINT, unix.SIGQUIT)
	defer stop()
	defer a.reloadOnHangup(server, log)()
	if err := a.lockIn(log); err != nil {
		return err
	}
	defer web.serve(ctx)()
	log.Info("agent ready", "pid", os.Getpid(), "uid", os.Geteuid(), "socket", l.Addr().String())
	if err := notify.Ready(); err != nil {
		log.Warn(eventNotNotified, "reason", err)
	}
	told := make(chan struct{})
	untold := context.AfterFunc(ctx, func() {
		_ = notify.Stopping() // a manager that is gone cannot be told
		close(told)
	})
	err = server.Serve(ctx, l)
	if !untold() {
		<-told
	}
	log.Info("agent ends")
	return err
}

// eventNotNotified is what the log says where the service manager cannot be told.
const eventNotNotified = "the service manager is not told"

// connectNotifier returns nil, which does nothing, if the service manager's socket cannot
// be used. The agent serves all the same.
func connectNotifier(log *slog.Logger) *agent.Notifier {
	notify, err := agent.NewNotifier()
	if err != nil {
		log.Warn(eventNotNotified, "reason", err)
		return nil
	}
	return notify
}

func (a *agentCmd) handler(out io.Writer) slog.Handler {
	if a.JSON {
		return slog.NewJSONHandler(out, nil)
	}
	return slog.NewTextHandler(out, nil)
}

func (a *agentCmd) newServer(policy *agent.Policy, log *slog.Logger, o agent.Observer) (*agent.Server, error) {
	var suites []string
	for _, name := range a.Suite {
		if s, ok := suite.ByShort(name); ok {
			suites = append(suites, s.String())
		}
	}
	opts := &agent.Options{Suites: suites, Policy: policy, Log: log, Observer: o}
	if a.Outstanding != nil {
		opts.Capacity = *a.Outstanding
	}
	if a.Age != nil {
		opts.Age = *a.Age
	}
	if a.MaxLifetime != nil {
		opts.MaxLifetime = *a.MaxLifetime
	}
	return agent.NewServer(opts)
}

// listen takes the service manager's socket, or makes one.
func (a *agentCmd) listen() (*net.UnixListener, error) {
	l, err := agent.Inherited()
	if l != nil || err != nil {
		return l, err
	}
	path, err := filepath.Abs(string(a.Socket))
	if err != nil {
		return nil, err
	}
	l, err = agent.Listen(path)
	switch {
	case errors.Is(err, agent.ErrImpostor):
		return nil, fmt.Errorf("%w; or give --socket in another place", err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("no directory %s; make it, owned by this user and with mode 0755", filepath.Dir(path))
	case errors.Is(err, unix.EADDRINUSE):
		return nil, occupied(path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w; give --socket in a directory of this user's, of mode 0755", err)
	}
	return l, err
}

// occupied says why this process cannot listen at a path.
func occupied(path string) error {
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s is no socket; move it away, or give another --socket", path)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return fmt.Errorf("%s is a socket that is in use and does not answer (%w); remove it if no program needs it, or give another --socket", path, err)
	}
	_ = conn.Close()
	return fmt.Errorf("%s: another agent listens there, which sealctx doctor --agent shows; stop it, and systemd's sealctx-agent.socket too, or give another --socket", path)
}

// warnOfPlace says that a socket serves this process's user and no other. What
// the service manager's namespace has at its path may not be seen here.
func warnOfPlace(path string, log *slog.Logger) {
	if err := agent.TrustedByAll(path); errors.Is(err, agent.ErrImpostor) {
		log.Warn("other users' clients refuse this socket", "reason", err)
	}
}

// lockIn enters the sandbox, out of which there is no way.
func (a *agentCmd) lockIn(log *slog.Logger) error {
	readable, err := a.readable()
	if err != nil {
		return err
	}
	report, err := sandbox.Enter(sandbox.Options{ReadOnly: readable, Require: a.RequireSandbox})
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if len(report.Missing) > 0 {
		level = slog.LevelWarn
	}
	log.Log(context.Background(), level, "sandbox", "no_new_privs", report.NoNewPrivs, "undumpable", report.Undumpable,
		"landlock", report.Landlock, "seccomp", report.Seccomp, "missing", report.Missing)
	return nil
}

// readable are the paths that reading the policy again needs.
func (a *agentCmd) readable() ([]string, error) {
	names := slices.Clone(nameFiles)
	if os.Geteuid() != 0 {
		// Adding a user replaces these files, and the sandbox's leave for a file is
		// not leave for its successor. So /etc may be read, but not by root, which
		// could read more of it than names.
		names = []string{"/etc"}
	}
	if a.Policy == "" {
		return nil, nil
	}
	path, err := filepath.Abs(string(a.Policy))
	if err != nil {
		return nil, err
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return append(names, filepath.Dir(path), filepath.Dir(target)), nil // the directories, for the same reason
}

// reloadOnHangup reads the policy again whenever SIGHUP comes, until stop.
func (a *agentCmd) reloadOnHangup(server *agent.Server, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-ch:
				a.reload(server, log)
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		cancel()
		<-done
	}
}

// reload reads the policy. A bad one changes nothing, and the log says what is
// wrong with it.
func (a *agentCmd) reload(server *agent.Server, log *slog.Logger) {
	if a.Policy == "" {
		log.Warn("nothing to read again", "reason", "no policy file was named")
		return
	}
	policy, err := a.readPolicy()
	if err != nil {
		log.Error("policy not changed", "reason", outOfReach(err))
		return
	}
	server.SetPolicy(policy)
}

// readPolicy reads the policy, at the start and again: no policy file is no policy.
func (a *agentCmd) readPolicy() (*agent.Policy, error) {
	if a.Policy == "" {
		return nil, nil
	}
	return agent.ReadPolicy(string(a.Policy), uint32(os.Geteuid()))
}

// outOfReach says what to do where the sandbox keeps a file from being read.
func outOfReach(err error) error {
	var file *fs.PathError
	switch {
	case !errors.As(err, &file) || !errors.Is(err, fs.ErrPermission):
		return err
	case slices.Contains(nameFiles, file.Path):
		return fmt.Errorf("%w: it was replaced since the agent of root locked itself in; restart the agent, or run it as a user of its own", err)
	}
	return fmt.Errorf("%w: the agent may read only in the directories in which it found the policy; put it back there, or restart the agent", err)
}

// nameFiles are where a policy's names are looked up.
var nameFiles = []string{"/etc/passwd", "/etc/group"}
