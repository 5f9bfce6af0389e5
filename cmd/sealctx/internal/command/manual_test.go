package command

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each subcommand has a page that names its flags; the completion offers what the
// grammar has.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	var out, errs bytes.Buffer
	require.Zero(t, Main([]string{"manual", "--date", "2026-01-01", dir}, nil, &out, &errs), errs.String())
	pages, err := filepath.Glob(filepath.Join(dir, "man/man1/*.1"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(pages), 10)
	agent, err := os.ReadFile(filepath.Join(dir, "man/man1/sealctx-agent.1"))
	require.NoError(t, err)
	for _, want := range []string{`.TH SEALCTX\-AGENT 1 2026\-01\-01`, "sealctx agent [flags]", `\-\-policy=FILE`, `\-\-require\-sandbox`} {
		require.Contains(t, string(agent), want)
	}
	if groff, err := exec.LookPath("groff"); err == nil {
		for _, page := range pages {
			warnings, err := exec.Command(groff, "-man", "-Tutf8", "-ww", "-z", page).CombinedOutput()
			require.NoError(t, err)
			require.Empty(t, string(warnings), page)
		}
	}
	bash, err := exec.LookPath("bash")
	require.NoError(t, err)
	complete := func(words ...string) []string {
		script := `source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _sealctx; printf '%s\n' "${COMPREPLY[@]}"`
		text, err := exec.Command(bash, append([]string{"-c", script, filepath.Join(dir, "bash-completion/completions/sealctx")}, words...)...).Output()
		require.NoError(t, err)
		return strings.Fields(string(text))
	}
	require.Equal(t, []string{"rotate"}, complete("sealctx", "keyring", "ro"))
	require.Equal(t, []string{"--require-sandbox"}, complete("sealctx", "agent", "--req"))
	require.Equal(t, []string{"doctor"}, complete("sealctx", "doc"))
}
