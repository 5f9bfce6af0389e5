package doctor

import (
	"fmt"
	"strings"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/cprogram"
)

// programs names the C programs whose exported contexts nothing seals.
func programs(f *Facts) Finding {
	x := Finding{Check: "C programs", Means: "a process with a GSS-API library mapped can export contexts; libsealctx-gss in front of it has the agent seal them"}
	if f.ProgramsErr != nil {
		x.Level, x.Found, x.Remedy = Note, "unknown: "+f.ProgramsErr.Error(), "mount /proc"
		return x
	}
	var without []string
	for _, p := range f.Programs {
		if !p.Protected {
			without = append(without, fmt.Sprintf("%s (process %d)", p.Program, p.PID))
		}
	}
	x.Found = fmt.Sprintf("with a GSS-API library: %d; of these without libsealctx-gss: %d", len(f.Programs), len(without))
	if f.ProgramsHidden > 0 {
		x.Found += fmt.Sprintf("; not examined: %d (run as root)", f.ProgramsHidden)
	}
	if len(without) > 0 {
		x.Level = Note
		x.Found += ": " + strings.Join(without, ", ")
		x.Remedy = "if such a program exports contexts (BIND, python-gssapi, gss-server do; most do not): see doc/c-programs.md"
	}
	return x
}

// Program judges one process, for a unit that must not run unprotected.
func Program(pid int) Finding {
	x := Finding{Check: "C program", Means: "libsealctx-gss must be mapped, or contexts are exported in clear"}
	p, ok := cprogram.Examine(pid)
	switch {
	case !ok:
		x.Level, x.Found, x.Remedy = Failure, fmt.Sprintf("process %d cannot be examined", pid), "run as root, while the process lives"
	case !p.Protected:
		x.Level, x.Found = Failure, fmt.Sprintf("%s (process %d) runs without libsealctx-gss", p.Program, pid)
		x.Remedy = "see doc/c-programs.md: the library's file is missing, the program is setuid, or LD_PRELOAD did not reach it"
	default:
		x.Found = fmt.Sprintf("%s (process %d) runs with libsealctx-gss", p.Program, pid)
	}
	return x
}
