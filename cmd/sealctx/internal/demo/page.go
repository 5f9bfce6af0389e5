package demo

import (
	"context"
	"fmt"
	"io"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/tty"
)

// A page is what the reader sees. Headlines are bold on a terminal. It stops
// the play when its reader has gone.
type page struct {
	out  io.Writer
	bold bool
	stop context.CancelCauseFunc
}

func newPage(out io.Writer, stop context.CancelCauseFunc) page {
	return page{out: out, bold: tty.Colour(out), stop: stop}
}

func (p page) text(format string, args ...any) {
	if _, err := fmt.Fprintf(p.out, format, args...); err != nil {
		p.stop(err)
	}
}

func (p page) head(s string) {
	if p.bold {
		s = "\x1b[1m" + s + "\x1b[0m"
	}
	p.text("\n%s\n", s)
}

// row prints one line: what, and what became of it.
func (p page) row(what, outcome string, args ...any) {
	p.text("   %-24s %s\n", what, fmt.Sprintf(outcome, args...))
}

func (p page) note(s string) { p.text("   %s\n", s) }
