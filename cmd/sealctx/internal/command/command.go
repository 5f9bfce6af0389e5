// Package command is the command line of sealctx: the grammar, one file for each
// subcommand, and what they say and exit with.
//
// A subcommand prints what was asked for to standard output, or as JSON where
// --json is given. An error goes to standard error, one line
// that names cause and remedy. No secret is taken as an argument or from the
// environment, and none is printed.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/cprogram"
	"github.com/sealctx/sealctx/cmd/sealctx/internal/demo"
	"github.com/sealctx/sealctx/internal/suite"
)

// Exit statuses. Doctor has those of a monitoring plug-in: see there.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUnknown = 3  // of doctor alone: it could not say what it found
	exitUsage   = 64 // EX_USAGE of sysexits.h
	exitSignal  = 128
)

// grammar is the command line. Kong reads it, by reflection, from the tags.
type grammar struct {
	ShowVersion versionFlag `name:"version" help:"Say which build this is, and end."`

	Demo    demoCmd    `cmd:"" help:"Show the main job: one Kerberos session, three owners."`
	Agent   agentCmd   `cmd:"" help:"Hold keys, and seal and open for other users' processes."`
	Run     runCmd     `cmd:"" help:"Start a C program whose exported contexts the agent seals."`
	Doctor  doctorCmd  `cmd:"" help:"Say what protects tokens on this host, what does not, and how to mend it."`
	Keyring keyringCmd `cmd:"" help:"Look after host keys."`
	Token   tokenCmd   `cmd:"" help:"Look at tokens."`
	Policy  policyCmd  `cmd:"" help:"Look at an agent's policy."`
	Manual  manualCmd  `cmd:"" hidden:"" help:"Write the man pages and the completion for bash."`
	Version versionCmd `cmd:"" help:"Say which build this is, and what it protects."`
}

// defaultSocket is where the shipped units have the agent listen.
const defaultSocket = "/run/sealctx/agent.sock"

const description = `Hands live GSS-API security contexts from process to process, sealed.`

// A console is what a subcommand reads and writes.
type console struct {
	in       io.Reader
	out, err io.Writer
}

// A place is a path or an address. An empty place is refused: a variable that is not set
// gives one, and the command would do something other than what was meant.
type place string

// UnmarshalText is called by kong.
func (p *place) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("it is empty")
	}
	*p = place(text)
	return nil
}

// String is the place as it may be printed: a name can hold what does things to a
// terminal, and is quoted then.
func (p place) String() string {
	if quoted := strconv.Quote(string(p)); quoted != `"`+string(p)+`"` {
		return quoted
	}
	return string(p)
}

// fault is an error of the file at this place, with its name once and first.
func (p place) fault(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) && file.Path == string(p) {
		err = file.Err
	}
	return fmt.Errorf("%v: %w", p, err)
}

// early is what a flag such as --help did in place of a command. Kong goes on parsing
// after it, to no avail.
type early struct {
	done bool
	err  error
}

// Main runs the command with the arguments behind its name and returns the exit
// status.
func Main(args []string, in io.Reader, out, errs io.Writer) int {
	if len(args) > 0 && args[0] == demo.Role {
		return status(errs, demo.Play(args[1:]))
	}
	var g grammar
	var first early
	parser, err := kong.New(&g,
		kong.Name("sealctx"), kong.Description(description), kong.Writers(out, errs),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Help(func(o kong.HelpOptions, ctx *kong.Context) error {
			first.err = kong.DefaultHelpPrinter(o, ctx)
			return first.err
		}),
		kong.Exit(func(int) { first.done = true }),
		kong.Bind(&first),
		kong.Vars{"suites": strings.Join(suite.Shorts(), ","), "crowd": strconv.Itoa(demo.MaxCrowd), "socket": defaultSocket, "library": cprogram.Library},
	)
	if err != nil {
		return status(errs, err)
	}
	parsed, err := parser.Parse(args)
	switch {
	case first.err != nil: // which kong takes for a mistake in the arguments
		return status(errs, first.err)
	case first.done:
		return exitOK
	case err != nil:
		fmt.Fprintf(faultsTo(errs), "sealctx: %v; see sealctx --help\n", err)
		return exitUsage
	}
	return status(errs, parsed.Run(&console{in, out, errs}))
}

// status reports an error, and returns what to exit with.
func status(errs io.Writer, err error) int {
	var sig interruption
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &sig): // as a program does that a signal ends
		return exitSignal + int(sig)
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, unix.EPIPE):
		return exitSignal + int(unix.SIGPIPE)
	}
	fmt.Fprintln(faultsTo(errs), "sealctx:", err)
	if errors.As(err, new(unchecked)) {
		return exitUnknown
	}
	return exitFailed
}

// unchecked is an error that keeps doctor from saying what it found.
type unchecked struct{ error }

func (u unchecked) Unwrap() error { return u.error }

// An exitCode is an error whose reason has been printed.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// An interruption is the signal that ended a context.
type interruption unix.Signal

func (i interruption) Error() string { return "ended by " + unix.Signal(i).String() }

// untilSignal returns a context that the first of these signals ends, with an
// interruption as its cause. The second one has its usual effect, so that
// nothing can keep the user from ending a program.
func untilSignal(sigs ...os.Signal) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, sigs...)
	go func() {
		select {
		case s := <-ch:
			cancel(interruption(s.(unix.Signal)))
		case <-ctx.Done():
		}
		signal.Stop(ch)
	}()
	return ctx, func() { cancel(nil) }
}
