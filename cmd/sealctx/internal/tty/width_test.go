package tty

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestWidth(t *testing.T) {
	t.Setenv("COLUMNS", "")
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	defer terminal.Close()
	require.Zero(t, Width(terminal), "a terminal that does not know")
	require.NoError(t, unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: 72}))
	require.Equal(t, 72, Width(terminal))
	file, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer file.Close()
	require.Zero(t, Width(file))
	require.Zero(t, Width(&bytes.Buffer{}))
	t.Setenv("COLUMNS", "40")
	require.Equal(t, 40, Width(terminal))
	require.Zero(t, Width(file), "what is no terminal is not wrapped")
	for _, odd := range []string{"0", "-3", "wide"} {
		t.Setenv("COLUMNS", odd)
		require.Equal(t, 72, Width(terminal))
	}
}

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 10, []string{""}},
		{"one two three", 0, []string{"one two three"}},
		{"one two three", -5, []string{"one two three"}},
		{"one two three", 13, []string{"one two three"}},
		{"one two three", 12, []string{"one two", "three"}},
		{"one two three", 7, []string{"one two", "three"}},
		{"one two three", 6, []string{"one", "two", "three"}},
		{"a /path/that/is/long b", 6, []string{"a", "/path/that/is/long", "b"}},
		{"äöü äöü", 7, []string{"äöü äöü"}},
	} {
		require.Equal(t, test.want, Wrap(test.text, test.width), "%q in %d columns", test.text, test.width)
	}
	text := strings.Repeat("word and ", 50)
	for width := 4; width < 100; width++ {
		lines := Wrap(text, width)
		require.Equal(t, strings.Fields(text), strings.Fields(strings.Join(lines, " ")))
		for _, line := range lines {
			require.LessOrEqual(t, len(line), width)
		}
	}
}
