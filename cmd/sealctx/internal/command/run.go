package command

import (
	"errors"
	"fmt"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/cprogram"
	"github.com/sealctx/sealctx/seal/agent"
)

type runCmd struct {
	Agent    place    `aliases:"socket" placeholder:"SOCKET" help:"The agent's socket. Its default is the variable SEALCTX_AGENT, else ${socket}."`
	Library  place    `default:"${library}" placeholder:"FILE" help:"The library (${default})."`
	Audience string   `placeholder:"WHO" help:"Who may import: user:UID, group:GID or service:NAME. The default is the exporting user."`
	Lifetime int      `placeholder:"SECONDS" help:"How long a token can be imported. The agent's default is two minutes."`
	Later    bool     `help:"The program loads its GSS-API library while it runs, as an interpreter does."`
	Program  []string `arg:"" passthrough:"" help:"The program and its arguments."`
}

func (*runCmd) Help() string {
	return `Starts a C program with libsealctx-gss in front of its GSS-API library, so that the
agent seals what it exports and opens what it imports. It refuses a program that the
library cannot protect, and one whose agent does not answer. /etc/sealctx/gss.conf
is read by the program itself, and these flags come after it.`
}

func (r *runCmd) Run(*console) error {
	args := r.Program
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return errors.New("no program is named")
	}
	path, err := cprogram.Check(args[0], string(r.Library), r.Later)
	if err != nil {
		return err
	}
	a, err := askedBy(r.Agent, defaultSocket)
	if err != nil {
		return err
	}
	if err := tryAgent(a.socket); err != nil {
		return a.fault(fmt.Errorf("%s: %w", a.Holder, err))
	}
	return cprogram.Exec(path, args, string(r.Library), r.options(a.socket))
}

// tryAgent keeps a program from starting that could export nothing.
func tryAgent(socket place) error {
	c, err := agent.Dial(string(socket))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Account()
	return err
}

// options are the library's, as in its configuration file.
func (r *runCmd) options(socket place) []string {
	options := []string{"on", "socket=" + string(socket)}
	if r.Audience != "" {
		options = append(options, "audience="+r.Audience)
	}
	if r.Lifetime > 0 {
		options = append(options, fmt.Sprintf("lifetime=%d", r.Lifetime))
	}
	return options
}
