package command

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// onTerminal returns what a command prints to a terminal of so many columns, without
// colours.
func onTerminal(t *testing.T, columns int, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	defer master.Close()
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)}))
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	done := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(master) // until the other side is closed, which is an error
		done <- string(text)
	}()
	Main(args, strings.NewReader(""), slave, io.Discard)
	require.NoError(t, slave.Close())
	return regexp.MustCompile(`\x1b\[[0-9;]*m|\r`).ReplaceAllString(<-done, "")
}

// Long lines break at the terminal's width, and lose nothing. The control is the same
// output to a file, which has them whole.
func TestTerminalWidth(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("SEALCTX_DIR", filepath.Join(dir, "keys"))
	t.Setenv(agentVariable, "")
	t.Setenv("COLUMNS", "")
	t.Setenv("TERM", "xterm")
	for _, args := range []string{"doctor", "doctor --agent " + dir, "--help", "agent --help", "keyring retire --help", "token inspect --help"} {
		_, whole, _ := run(strings.Fields(args)...)
		require.Greater(t, longest(whole), 70, args)
		for _, columns := range []int{72, 110} {
			text := onTerminal(t, columns, strings.Fields(args)...)
			require.LessOrEqual(t, longest(text), columns, "%s:\n%s", args, text)
			for _, changes := range []*regexp.Regexp{regexp.MustCompile(`\d+(\.\d+)?[µm]?s\b`), regexp.MustCompile(`\d+`)} {
				text, whole = changes.ReplaceAllString(text, "N"), changes.ReplaceAllString(whole, "N")
			}
			if !strings.Contains(args, "help") { // kong lays out its columns anew
				require.Equal(t, strings.Fields(whole), strings.Fields(text))
			}
		}
	}
	require.Zero(t, roomBeside(0))
	require.Zero(t, roomBeside(47))
	require.Equal(t, 20, roomBeside(48))
}

// longest is the length of the longest line.
func longest(text string) (most int) {
	for line := range strings.Lines(text) {
		most = max(most, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")))
	}
	return most
}
