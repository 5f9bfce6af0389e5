package handoff

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A shortage says that this process has no descriptor for a connection. It wraps the
// kernel's error.
type shortage struct{ why error }

func (s *shortage) Error() string {
	text := "handoff: no descriptor for a connection"
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		text += fmt.Sprintf(" (RLIMIT_NOFILE is %d)", limit.Cur)
	}
	return text + ": " + s.why.Error()
}

func (s *shortage) Unwrap() error { return s.why }

// errDropped is the shortage of a process for which the kernel dropped a descriptor. The
// kernel does not say why.
var errDropped = fmt.Errorf("%w, or a security module forbids it", unix.EMFILE)

// outOfDescriptors reports whether err says that this process or the system has no
// descriptor left.
func outOfDescriptors(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// needed is how many descriptors taking a connection needs: the one that comes, and the
// copy that package net makes of it before the first is closed.
const needed = 2

// haveRoom returns a shortage unless this process can open the descriptors that a
// connection needs. They are not kept: other goroutines may be quicker, or the limit may
// be lowered. Then taking the connection fails, before the token is imported.
func haveRoom(fd int) error {
	var spare [needed]int
	var err error
	n := 0
	for n < needed && err == nil {
		if spare[n], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			n++
		}
	}
	for _, fd := range spare[:n] {
		_ = unix.Close(fd)
	}
	if err != nil {
		return &shortage{fmt.Errorf("dup: %w", err)}
	}
	return nil
}
