package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sealctx/sealctx/seal/agent"
)

type policyCmd struct {
	Check   policyCheckCmd   `cmd:"" help:"Read a policy as an agent does, and name each line that is wrong."`
	Explain policyExplainCmd `cmd:"" help:"Say what a policy gives to a user."`
}

// readPolicy reads a policy file.
func readPolicy(path place) (*agent.Policy, error) {
	f, err := os.Open(string(path))
	if err != nil {
		return nil, path.fault(err)
	}
	defer f.Close()
	policy, err := agent.ParsePolicy(f)
	if err != nil && !errors.Is(err, agent.ErrPolicy) {
		err = path.fault(err)
	}
	return policy, err
}

type policyCheckCmd struct {
	File place   `arg:"" help:"The policy."`
	User *uint32 `placeholder:"UID" help:"The user, by number, that the agent runs as, who may be able to write the policy besides root; without it, this user."`
	JSON bool    `help:"Print JSON."`
}

func (*policyCheckCmd) Help() string {
	return `Names each line that an agent would not understand, and each file or directory on the
way to the policy that a user other than root and the agent's can write.`
}

func (p *policyCheckCmd) Run(c *console) error {
	trust := p.trusted()
	err := trust
	if trust == nil || errors.Is(trust, agent.ErrPolicyFile) {
		_, err = readPolicy(p.File)
	}
	if err != nil && !errors.Is(err, agent.ErrPolicy) && !p.JSON {
		return err
	}
	r := checkReport{File: p.File.String(), Faults: faultsOf(err)}
	if errors.Is(trust, agent.ErrPolicyFile) {
		r.Faults = append(r.Faults, trust.Error())
	}
	r.OK = len(r.Faults) == 0
	if p.JSON {
		r.report = newReport("policy check", nil)
		if err := asJSON(c.out, &r); err != nil {
			return err
		}
	} else {
		for _, f := range r.Faults {
			fmt.Fprintf(c.err, "%v: %s\n", p.File, f)
		}
	}
	if !r.OK {
		return exitCode(exitFailed)
	}
	return nil
}

// A checkReport is what is wrong with a policy.
type checkReport struct {
	report
	File   string   `json:"file"`
	OK     bool     `json:"ok"`
	Faults []string `json:"faults"`
}

// trusted says whether an agent would read the file and believe it. What is wrong with
// the path alone, opening it says better.
func (p *policyCheckCmd) trusted() error {
	uid := uint32(os.Geteuid())
	if p.User != nil {
		uid = *p.User
	}
	err := agent.CheckPolicyFile(string(p.File), uid)
	var path *fs.PathError
	if errors.As(err, &path) {
		return nil
	}
	return err
}

// faultsOf takes the error of a policy apart: one fault a line of the file.
func faultsOf(err error) []string {
	faults := []string{}
	var walk func(error)
	walk = func(err error) {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				walk(e)
			}
		} else if err != nil && err != agent.ErrPolicy {
			faults = append(faults, err.Error())
		}
	}
	walk(err)
	return faults
}
