package docs

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is where the documents are.
const root = "../.."

var (
	console = regexp.MustCompile("(?s)```console\n(.*?)```")
	number  = regexp.MustCompile(`\d+(\.\d+)?`)
	spaces  = regexp.MustCompile(` +`)
)

// TestReadmeCommands runs each command of the README's console blocks and
// compares what it prints with what stands there, whatever the numbers are.
func TestReadmeCommands(t *testing.T) {
	text, err := os.ReadFile(root + "/README.md")
	require.NoError(t, err)
	blocks := console.FindAllSubmatch(text, -1)
	require.NotEmpty(t, blocks, "the README shows no command")
	for _, b := range blocks {
		command, want, _ := strings.Cut(string(b[1]), "\n")
		command, ok := strings.CutPrefix(command, "$ ")
		require.True(t, ok, "a console block begins with a command: %q", command)
		t.Run(command, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", command)
			cmd.Dir = root
			// A make that was told that it is another's would say so.
			cmd.Env = append(os.Environ(), "MAKELEVEL=", "MAKEFLAGS=")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Equal(t, shape(want), shape(string(out)))
		})
	}
}

// TestShape is the control: numbers may differ and words may not.
func TestShape(t *testing.T) {
	require.Equal(t, shape("process 12   is\n"), shape("\nprocess 4711 is"))
	require.NotEqual(t, shape("COMPLETE: 1"), shape("NO_CONTEXT: 1"))
}

// shape is a text without what differs from run to run.
func shape(s string) string {
	return strings.TrimSpace(spaces.ReplaceAllString(number.ReplaceAllString(s, "N"), " "))
}
