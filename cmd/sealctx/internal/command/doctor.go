package command

import (
	"fmt"
	"io"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/doctor"
	"github.com/sealctx/sealctx/cmd/sealctx/internal/tty"
)

type doctorCmd struct {
	Agent   place `aliases:"socket" placeholder:"SOCKET" help:"Examine the agent at this socket instead of this user's keyring. The variable SEALCTX_AGENT is its default."`
	Process int   `placeholder:"PID" help:"Say only whether libsealctx-gss is mapped in this process: for ExecStartPost= of a unit."`
	JSON    bool  `help:"Print JSON."`
	Brief   bool  `short:"b" help:"Leave out what each line means."`
}

func (*doctorCmd) Help() string {
	return `Seals and opens a token, and looks at everything that guards its key. Each line
says what was found, what it means, and how to mend it. The exit status is that of
a monitoring plug-in: 0 for ok and notes, 1 for a warning, 2 for a failure, 3 where
what was found could not be written.`
}

// A doctorReport is what was found, of a holder or of a process.
type doctorReport struct {
	report
	*asked
	Process  int              `json:"process,omitempty"`
	Level    doctor.Level     `json:"level"`
	Findings []doctor.Finding `json:"findings"`
}

func (d *doctorCmd) Run(c *console) error {
	r, err := d.examine()
	if err != nil {
		return unchecked{err}
	}
	if err := d.say(c.out, r); err != nil {
		return unchecked{err}
	}
	switch r.Level {
	case doctor.Warning:
		return exitCode(1)
	case doctor.Failure:
		return exitCode(2)
	}
	return nil
}

func (d *doctorCmd) examine() (*doctorReport, error) {
	r := &doctorReport{report: newReport("doctor", nil)}
	if d.Process > 0 {
		x := doctor.Program(d.Process)
		r.Process, r.Findings, r.Level = d.Process, []doctor.Finding{x}, x.Level
		return r, nil
	}
	a, err := askedBy(d.Agent, "")
	if err != nil {
		return nil, err
	}
	facts := doctor.Gather(string(a.socket))
	if a.socket == "" && facts.Holder != "" {
		a.Holder = facts.Holder
	}
	r.asked = &a
	r.Findings, r.Level = doctor.Findings(facts)
	return r, nil
}

func (d *doctorCmd) say(w io.Writer, r *doctorReport) error {
	if d.JSON {
		return asJSON(w, r)
	}
	if r.asked != nil && r.From == agentVariable {
		fmt.Fprintf(w, "Examined: %v\n", r.asked)
	}
	return d.print(w, r.Findings, r.Level)
}

func (d *doctorCmd) print(w io.Writer, list []doctor.Finding, worst doctor.Level) error {
	paint := func(l doctor.Level) string { return fmt.Sprintf("%-8s", l) }
	if tty.Colour(w) {
		paint = func(l doctor.Level) string { return fmt.Sprintf("\x1b[%sm%-8s\x1b[0m", colours[l], l) }
	}
	width := tty.Width(w)
	row := func(level, name, text string) {
		lines := tty.Wrap(text, roomBeside(width))
		fmt.Fprintf(w, "%s %-18s %s\n", level, name, lines[0])
		for _, line := range lines[1:] {
			fmt.Fprintf(w, "%*s%s\n", doctorIndent, "", line)
		}
	}
	for _, x := range list {
		row(paint(x.Level), x.Check, x.Found)
		if !d.Brief {
			row("        ", "means", x.Means)
		}
		if x.Remedy != "" {
			row("        ", "to mend it", x.Remedy)
		}
	}
	_, err := fmt.Fprintf(w, "%s all in all\n", paint(worst))
	return err
}

// doctorIndent is the column at which the text of a line begins.
const doctorIndent = 28

// roomBeside is how many columns of a terminal there are for the text of a line, or 0 if
// the text is not to be broken: a narrow terminal does it as well.
func roomBeside(width int) int {
	if width < doctorIndent+20 {
		return 0
	}
	return width - doctorIndent
}

// colours are the terminal's: green, blue, yellow, red.
var colours = [...]string{doctor.OK: "32", doctor.Note: "34", doctor.Warning: "33", doctor.Failure: "31"}
