package seal

import (
	"errors"
	"fmt"

	"github.com/sealctx/sealctx/internal/pidfd"
)

// Process is the audience of one process. It is its id and a number that no later
// process with that id has; doc/SPEC.md, section 7, says which. Errors, both
// GSS_S_FAILURE: ErrAudience where no such process is alive, ErrUnavailable where
// the kernel does not tell. Safe for concurrent use.
func Process(pid int) (Audience, error) {
	n, err := pidfd.Number(pid)
	if err != nil {
		return Audience{}, noProcess(fmt.Sprintf("process %d", pid), err)
	}
	return process(uint32(pid), n), nil
}

// ProcessOf is Process for the process behind a pidfd, of whatever origin, and
// returns its effective user of now. ErrAudience is also for a thread, for a
// descriptor of anything else, and for a process without an id in this process
// namespace. fd stays the caller's, and open during the call. The agent and its
// client need it.
func ProcessOf(fd int) (a Audience, uid uint32, err error) {
	p, err := pidfd.Of(fd)
	if err != nil {
		return Audience{}, 0, noProcess("descriptor", err)
	}
	return process(uint32(p.PID), p.Number), p.UID, nil
}

func noProcess(what string, err error) error {
	kind := ErrUnavailable
	if errors.Is(err, pidfd.ErrEnded) || errors.Is(err, pidfd.ErrForeign) {
		kind = ErrAudience
	}
	return fmt.Errorf("%w: %s: %w", kind, what, err)
}
