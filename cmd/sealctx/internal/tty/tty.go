// Package tty says how to write to a terminal, or to a file.
package tty

import (
	"io"
	"os"

	"github.com/sealctx/sealctx/internal/secureenv"
	"golang.org/x/sys/unix"
)

// Colour reports whether w may be written to in colour: it is a terminal, one that
// TERM says can do more than print, and NO_COLOR is not set (https://no-color.org).
func Colour(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || secureenv.Get("NO_COLOR") != "" {
		return false
	}
	if term := secureenv.Get("TERM"); term == "" || term == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
