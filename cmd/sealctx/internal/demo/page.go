package demo

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A page is what the reader sees. Headlines are bold on a terminal, unless
// NO_COLOR is set.
type page struct{ out io.Writer }

func (p page) text(format string, args ...any) { fmt.Fprintf(p.out, format, args...) }

func (p page) head(s string) {
	if isTerminal(p.out) && os.Getenv("NO_COLOR") == "" {
		s = "\x1b[1m" + s + "\x1b[0m"
	}
	p.text("\n%s\n", s)
}

// row prints one line: what, and what became of it.
func (p page) row(what, outcome string, args ...any) {
	p.text("   %-24s %s\n", what, fmt.Sprintf(outcome, args...))
}

func (p page) note(s string) { p.text("   %s\n", s) }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
