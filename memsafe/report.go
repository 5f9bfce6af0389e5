package memsafe

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Status is what protects secrets in this process now, as the kernel tells it.
type Status struct {
	Backing   string // what a new pool would get: "memfd_secret", "memguard" or "none"
	Erasing   bool   // Do erases registers and freed heap memory too
	Dumpable  bool   // other processes of this user may attach, and the kernel may dump core
	Locked    int    // bytes this process has locked
	Limit     uint64 // RLIMIT_MEMLOCK in bytes; ^uint64(0) is no limit
	Unlimited bool   // this process may lock memory beyond Limit (CAP_IPC_LOCK)
	Swap      bool   // the host has swap space
	CorePiped bool   // core_pattern pipes to a program, which RLIMIT_CORE does not stop
}

// Report asks the kernel which protections are in force. It locks one page for
// a moment to learn which backing is to be had. An error means that the kernel
// does not tell. Safe for concurrent use.
func Report() (Status, error) {
	st := Status{Erasing: Erasing, Backing: "none", Unlimited: mayLockAll()}
	if r, err := newRegion(os.Getpagesize()); err == nil {
		st.Backing = r.backing()
		if err := r.free(); err != nil {
			return st, fmt.Errorf("memsafe: %w", err)
		}
	} else if !errors.Is(err, ErrLimit) {
		return st, err
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return st, fmt.Errorf("memsafe: PR_GET_DUMPABLE: %w", err)
	}
	st.Dumpable = dumpable != 0
	var rl unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &rl); err != nil {
		return st, fmt.Errorf("memsafe: RLIMIT_MEMLOCK: %w", err)
	}
	st.Limit = rl.Cur
	ps, err := procStatus()
	if err != nil {
		return st, err
	}
	st.Locked = ps.locked
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil && !errors.Is(err, os.ErrNotExist) { // no file: a kernel without swap
		return st, fmt.Errorf("memsafe: %w", err)
	}
	st.Swap = bytes.Count(bytes.TrimSpace(swaps), []byte("\n")) > 0
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		return st, fmt.Errorf("memsafe: %w", err)
	}
	st.CorePiped = bytes.HasPrefix(pattern, []byte("|"))
	return st, nil
}

// Harden makes this process not dumpable: no core dump, not even to a piped
// handler, no ptrace and no /proc/PID/mem for other processes of this user.
// It also sets RLIMIT_CORE to zero, for programs that this one executes too; the
// rest ends with that. Call it before the first secret exists.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("memsafe: PR_SET_DUMPABLE: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("memsafe: RLIMIT_CORE: %w", err)
	}
	return nil
}

// status is what memsafe reads of /proc/self/status.
type status struct {
	locked int    // VmLck, bytes
	caps   uint64 // CapEff
}

func procStatus() (status, error) {
	var st status
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return st, fmt.Errorf("memsafe: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "VmLck":
			kib, err := strconv.Atoi(strings.TrimSuffix(value, " kB"))
			if err != nil {
				return st, fmt.Errorf("memsafe: VmLck in /proc/self/status: %w", err)
			}
			st.locked = kib << 10
		case "CapEff":
			if st.caps, err = strconv.ParseUint(value, 16, 64); err != nil {
				return st, fmt.Errorf("memsafe: CapEff in /proc/self/status: %w", err)
			}
		}
	}
	return st, nil
}

// mayLockAll reports whether RLIMIT_MEMLOCK does not bind this process.
func mayLockAll() bool {
	st, err := procStatus()
	return err == nil && st.caps&(1<<unix.CAP_IPC_LOCK) != 0 && inFirstUserNamespace()
}

// inFirstUserNamespace reports whether capabilities are worth what their names say:
// root of a container's user namespace has all of them, and limits bind it.
func inFirstUserNamespace() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	return errors.Is(err, fs.ErrNotExist) || err == nil && slices.Equal(strings.Fields(string(ids)), []string{"0", "0", "4294967295"})
}
