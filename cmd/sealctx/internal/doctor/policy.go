package doctor

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sealctx/sealctx/seal/agent"
)

// policyOf returns the policy file that the command line of an agent's process names, as
// /proc shows it, or "" where it names none.
func policyOf(cmdline []byte) string {
	args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	for i, arg := range args {
		if file, ok := strings.CutPrefix(arg, "--policy="); ok {
			return file
		}
		if arg == "--policy" && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// askPolicy looks at who can write the agent's policy.
func (f *Facts) askPolicy() {
	if f.agentSeen() && filepath.IsAbs(f.Agent.Policy) {
		f.PolicyErr = agent.CheckPolicyFile(f.Agent.Policy, f.Agent.UID)
	}
}

func policy(f *Facts) Finding {
	x := Finding{Check: "policy", Means: "who may seal for whom is what its file says, so that only root and the agent's user may write it"}
	switch {
	case !f.agentSeen():
		x.Found = "unknown: the agent's command line cannot be seen from here" // another line says why
	case f.Agent.Policy == "":
		x.Found = "no file: every user for itself"
	case !filepath.IsAbs(f.Agent.Policy):
		x.Level, x.Found = Note, fmt.Sprintf("%q is below the agent's working directory, which cannot be seen", f.Agent.Policy)
		x.Remedy = "give --policy with the whole path"
	case errors.Is(f.PolicyErr, agent.ErrPolicyFile):
		x.Level, x.Found, x.Remedy = Failure, f.PolicyErr.Error(), "the command is in the line above; then look at what the policy says (sealctx policy explain), and reload it"
	case f.PolicyErr != nil:
		x.Level, x.Found, x.Remedy = Warning, f.PolicyErr.Error(), "without it the agent does not start again; run doctor as root, if only this user cannot see it"
	default:
		x.Found = fmt.Sprintf("%s, which only root and user %d can write", f.Agent.Policy, f.Agent.UID)
	}
	return x
}
