package sandbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/memsafe"
)

// ErrRequired: the kernel lacks a part of the sandbox and Options.Require was set.
var ErrRequired = errors.New("sandbox: not to be had in full")

// Options for Enter. The zero value locks in as far as the kernel can.
type Options struct {
	// ReadOnly are files and directories that may still be opened to be read: the place
	// of the policy, and the files in which it looks names up. A directory stands for
	// everything below it, also for files that are made later. A file stands for itself,
	// not for a file that replaces it. A path that does not exist is passed over.
	ReadOnly []string

	// Require makes a part that the kernel lacks an error. False: go without it.
	Require bool
}

// A Report says what is in force.
type Report struct {
	NoNewPrivs bool
	Undumpable bool
	Landlock   int // the version of its interface (ABI) that is used; 0: not in force
	Seccomp    bool
	Missing    []string // what is not in force, and why
}

// MinLandlock is the first version of Landlock that will do: it refuses truncating
// too (Linux 6.2).
const MinLandlock = 3

// Enter locks all threads of this process in, for good, and its children with it. Make
// sockets, keys, log and metrics endpoints before it: a call that is refused afterwards
// fails with EPERM or EACCES. With Require, an error that wraps ErrRequired says which
// parts are missing. The other parts stay in force.
func Enter(o Options) (Report, error) {
	_, _ = time.Now().Local().Zone() // has the time zone's file read, which logs need
	var r Report
	r.note("not dumpable", memsafe.Harden(), func() { r.Undumpable = true })
	r.note("no_new_privs", noNewPrivs(), func() { r.NoNewPrivs = true })
	r.note("landlock", r.restrictFiles(o.ReadOnly), func() {})
	r.note("seccomp", restrictCalls(), func() { r.Seccomp = true })
	if o.Require && len(r.Missing) > 0 {
		return r, fmt.Errorf("%w: %s", ErrRequired, strings.Join(r.Missing, "; "))
	}
	return r, nil
}

func (r *Report) note(part string, err error, ok func()) {
	if err != nil {
		r.Missing = append(r.Missing, part+": "+err.Error())
		return
	}
	ok()
}

// noNewPrivs sets the flag for this thread; Landlock and seccomp carry it to all.
func noNewPrivs() error {
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

func (r *Report) restrictFiles(readOnly []string) error {
	abi, err := ll.LandlockGetABIVersion()
	switch {
	case err != nil:
		return fmt.Errorf("the kernel has none: %w", err)
	case abi < MinLandlock:
		return fmt.Errorf("the kernel has version %d of it, %d is needed", abi, MinLandlock)
	}
	var rules []landlock.Rule
	for _, path := range append([]string{"/proc"}, readOnly...) {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%q is not an absolute path", path)
		}
		rules = append(rules, landlock.PathAccess(ll.AccessFSReadFile, path).IgnoreIfMissing())
	}
	// BestEffort takes what this kernel knows of the newest version: at least
	// the one that was just asked for.
	if err := landlock.V7.BestEffort().Restrict(rules...); err != nil {
		return err
	}
	r.Landlock = abi
	return nil
}
