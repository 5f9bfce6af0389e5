package doctor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/cprogram"
	"github.com/sealctx/sealctx/cmd/sealctx/internal/holder"
	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
)

// Facts are what a diagnosis rests on. An error among them is one too.
type Facts struct {
	Memory    memsafe.Status // of this process, after it has hardened itself
	MemoryErr error

	PtraceScope int // kernel.yama.ptrace_scope; -1 without Yama

	ClockShift time.Duration // of this time namespace against the host
	ClockErr   error

	LandlockABI int // 0: none
	Seccomp     bool

	Holder     string
	HolderErr  error
	Free       uint64 // bytes of the runtime directory's filesystem; not with an agent
	Inodes     int64  // that it has left; -1: no limit
	DirErr     error  // why this user can make no file in it
	Agent      *Process
	PolicyErr  error // why the agent's policy is not to be trusted
	Keys       []seal.Key
	KeysHidden bool // the agent does not tell this user
	KeysErr    error

	Programs       []cprogram.Process // that have a GSS-API library mapped
	ProgramsHidden int                // processes that this user may not examine
	ProgramsErr    error

	Took         time.Duration // of a round trip
	RoundTripErr error
}

// WithAgent reports whether an agent holds the keys.
func (f *Facts) WithAgent() bool { return f.Agent != nil }

// agentSeen reports whether the agent's own process was seen.
func (f *Facts) agentSeen() bool {
	return f.WithAgent() && f.HolderErr == nil && !f.Agent.Manager && !f.Agent.Hidden
}

// Gather asks the kernel and the holder: the agent at a socket or, where that is
// empty, this user's keyring. It makes an epoch if there is none.
func Gather(socket string) *Facts {
	f := &Facts{PtraceScope: ptraceScope(), LandlockABI: landlockABI(), Seccomp: seccomp()}
	f.ClockShift, f.ClockErr = clockShift()
	if socket != "" {
		f.Agent = &Process{}
	}
	f.askHolder(socket)
	f.Memory, f.MemoryErr = memsafe.Report()
	f.Programs, f.ProgramsHidden, f.ProgramsErr = cprogram.Running()
	return f
}

func (f *Facts) askHolder(socket string) {
	h, err := holder.Open(socket)
	if err != nil {
		f.HolderErr = err
		return
	}
	defer h.Close()
	f.Holder = h.String()
	if f.WithAgent() {
		f.Agent, f.HolderErr = listenerOf(socket)
		f.askPolicy()
	} else {
		f.HolderErr = f.askDir(strings.TrimPrefix(h.String(), "keyring "))
	}
	f.Took, f.RoundTripErr = RoundTrip(h)
	f.Keys, f.KeysErr = h.Keys()
	if errors.Is(f.KeysErr, agent.ErrRefused) {
		f.KeysHidden, f.KeysErr = true, nil
	}
}

// askDir asks whether keys can be made in the runtime directory. Where there are
// some, they go on without it until they are to rotate.
func (f *Facts) askDir(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	f.Free, f.Inodes = fs.Bavail*uint64(fs.Bsize), -1
	if fs.Files > 0 {
		f.Inodes = int64(fs.Ffree)
	}
	f.DirErr = unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	return nil
}

// clockShift is how far this process's time namespace moves the boot clock.
func clockShift() (time.Duration, error) {
	c, err := boottime.New()
	if err != nil {
		return 0, err
	}
	host, err := c.Now()
	if err != nil {
		return 0, err
	}
	var here unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &here); err != nil {
		return 0, err
	}
	return (time.Duration(here.Nano()) - host).Round(time.Second), nil
}

func ptraceScope() int {
	text, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return -1
	}
	return n
}

// landlockABI asks the kernel for its version of Landlock.
func landlockABI() int {
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// seccomp reports whether the kernel filters system calls: it then knows what
// to do with a filter that is not there.
func seccomp() bool {
	err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0, 0, 0)
	return errors.Is(err, unix.EFAULT)
}
