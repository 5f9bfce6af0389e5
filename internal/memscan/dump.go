//go:build linux

package memscan

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dumpEnv makes a Go program that gets SIGABRT dump core instead of exiting.
const dumpEnv = "GOTRACEBACK=crash"

// Dump makes the victim, at a checkpoint, dump core, and returns the path of
// the dump, in Options.DumpDir. It raises the victim's RLIMIT_CORE, which takes
// root where the victim has lowered the hard limit; it does not make a process
// dumpable that has made itself undumpable: then it fails the test, as it does
// if there is no dump for another reason. It skips the test on a machine whose
// core_pattern sends dumps elsewhere. The victim is gone afterwards.
func (tg *Target) Dump() string {
	tg.t.Helper()
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	tg.check(err)
	if strings.ContainsAny(string(pattern), "|/") || !strings.HasPrefix(string(pattern), "core") {
		tg.t.Skipf("dumps go elsewhere on this machine: kernel.core_pattern is %q, not a plain core", pattern)
	}
	if tg.opts.DumpDir == "" {
		tg.fail("Dump without Options.DumpDir")
	}
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	tg.check(unix.Prlimit(tg.PID(), unix.RLIMIT_CORE, &unlimited, nil))
	tg.check(tg.cmd.Process.Signal(syscall.SIGABRT))
	tg.ended = true
	err = tg.cmd.Wait()
	status, ok := tg.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.CoreDump() {
		tg.fail(fmt.Sprintf("no core dump: %v", err))
	}
	dumps, err := filepath.Glob(filepath.Join(tg.opts.DumpDir, "core*"))
	tg.check(err)
	if len(dumps) != 1 {
		tg.fail(fmt.Sprintf("%d dumps in %s", len(dumps), tg.opts.DumpDir))
	}
	return dumps[0]
}
