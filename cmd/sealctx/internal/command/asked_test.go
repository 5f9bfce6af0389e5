package command

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The flag comes before the variable, the variable before the fallback, and the name of
// the holder says which it was. An empty variable is none.
func TestAskedBy(t *testing.T) {
	here, err := os.Getwd()
	require.NoError(t, err)
	for name, test := range map[string]struct {
		flag, variable, fallback string
		socket, from, text       string
	}{
		"none":              {"", "", "", "", "default", "keyring"},
		"fallback":          {"", "", "/run/a", "/run/a", "default", "agent /run/a"},
		"variable":          {"", "/run/v", "/run/a", "/run/v", "SEALCTX_AGENT", "agent /run/v (named by SEALCTX_AGENT)"},
		"variable alone":    {"", "/run/v", "", "/run/v", "SEALCTX_AGENT", "agent /run/v (named by SEALCTX_AGENT)"},
		"flag":              {"/run/f", "/run/v", "/run/a", "/run/f", "--agent", "agent /run/f"},
		"relative":          {"", "v", "", filepath.Join(here, "v"), "SEALCTX_AGENT", "agent " + filepath.Join(here, "v") + " (named by SEALCTX_AGENT)"},
		"does to terminals": {"", "/v\x1b[2J", "", "/v\x1b[2J", "SEALCTX_AGENT", `agent "/v\x1b[2J" (named by SEALCTX_AGENT)`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(agentVariable, test.variable)
			a, err := askedBy(place(test.flag), place(test.fallback))
			require.NoError(t, err)
			require.Equal(t, place(test.socket), a.socket)
			require.Equal(t, test.from, a.From)
			require.Equal(t, test.text, a.String())
		})
	}
}

// Each flag that names an agent's socket has both names, and one default.
func TestSocketFlag(t *testing.T) {
	t.Setenv(agentVariable, "/nonexistent/agent.sock")
	for _, command := range [][]string{{"keyring", "status"}, {"keyring", "rotate"}, {"keyring", "retire", "--all"}, {"doctor"}} {
		for _, flag := range []string{"", "--agent=/nonexistent/other.sock", "--socket=/nonexistent/other.sock"} {
			args := append(command, "--json")
			want := `"holder": "agent /nonexistent/agent.sock"`
			if flag != "" {
				args, want = append(args, flag), `"holder": "agent /nonexistent/other.sock"`
			}
			status, out, errs := run(args...)
			require.NotEqual(t, exitUsage, status, errs)
			require.Contains(t, out, want)
		}
	}
	for _, flag := range []string{"--socket", "--agent"} {
		status, _, errs := run("agent", flag, "/nonexistent/agent.sock")
		require.Equal(t, exitFailed, status)
		require.Contains(t, errs, "no directory /nonexistent;")
	}
}
