package tty

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestColour(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	defer terminal.Close()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()

	require.True(t, Colour(terminal))
	require.False(t, Colour(w))
	require.False(t, Colour(&bytes.Buffer{}))
	for _, term := range []string{"", "dumb"} {
		t.Setenv("TERM", term)
		require.False(t, Colour(terminal), "TERM is %q", term)
	}
	t.Setenv("TERM", "vt100")
	require.True(t, Colour(terminal))
	t.Setenv("NO_COLOR", "1")
	require.False(t, Colour(terminal))
}
