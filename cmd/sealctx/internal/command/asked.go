package command

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/holder"
	"github.com/sealctx/sealctx/internal/secureenv"
)

// agentVariable names the agent that a command asks if it has no --agent flag. An empty
// value counts as none. A program with more rights than its caller ignores it.
const agentVariable = "SEALCTX_AGENT"

// An asked is the holder of keys that a command asks, and what named it.
type asked struct {
	Holder string `json:"holder"`      // "agent PATH", "keyring" or "keyring DIRECTORY"
	From   string `json:"holder_from"` // "--agent", agentVariable or "default"

	socket place // empty: this user's keyring
}

// askedBy returns the holder that an --agent flag names, else the variable, else the
// fallback.
func askedBy(flag, fallback place) (asked, error) {
	a := asked{Holder: "keyring", From: "--agent", socket: flag}
	if a.socket == "" {
		a.socket, a.From = place(secureenv.Get(agentVariable)), agentVariable
	}
	if a.socket == "" {
		a.socket, a.From = fallback, "default"
	}
	if a.socket == "" {
		return a, nil
	}
	path, err := filepath.Abs(string(a.socket))
	if err != nil {
		return a, err
	}
	a.socket = place(path)
	a.Holder = "agent " + a.socket.String()
	return a, nil
}

// String is the holder as a person reads it. It says so if a variable chose the holder.
func (a asked) String() string {
	if a.From == agentVariable {
		return a.Holder + " (named by " + agentVariable + ")"
	}
	return a.Holder
}

// fault adds to an error which variable chose the holder.
func (a asked) fault(err error) error {
	if err != nil && a.From == agentVariable {
		return fmt.Errorf("%w; %s names %s", err, agentVariable, a.Holder)
	}
	return err
}

// whose is the flag of each subcommand about keys.
type whose struct {
	Agent place `aliases:"socket" placeholder:"SOCKET" help:"Ask the agent at this socket instead of this user's keyring. The variable SEALCTX_AGENT is its default."`
}

// with opens the holder that is asked, notes its name in a, and uses it.
func (w whose) with(a *asked, use func(holder.Holder) error) (err error) {
	if *a, err = askedBy(w.Agent, ""); err != nil {
		return err
	}
	h, err := holder.Open(string(a.socket))
	if err != nil {
		return a.fault(err)
	}
	if a.socket == "" {
		a.Holder = h.String()
	}
	return a.fault(errors.Join(use(h), h.Close()))
}
