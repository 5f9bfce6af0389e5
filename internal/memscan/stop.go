//go:build linux

package memscan

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stopWithin is how long a process may take to stop: a thread that waits in the
// kernel for a device does not stop at once.
const stopWithin = 5 * time.Second

// stop sends SIGSTOP and waits until each thread has stopped. The function it
// returns lets the process go on, or does nothing if it was stopped before.
func stop(pid int) (func(), error) {
	if stopped, err := allStopped(pid); err != nil || stopped {
		return func() {}, err
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return nil, fmt.Errorf("memscan: stop process %d: %w", pid, err)
	}
	start := func() { _ = unix.Kill(pid, unix.SIGCONT) }
	if err := awaitStop(pid); err != nil {
		start()
		return nil, err
	}
	return start, nil
}

// awaitStop waits until each thread of a process has stopped.
func awaitStop(pid int) error {
	for deadline := time.Now().Add(stopWithin); ; time.Sleep(200 * time.Microsecond) {
		stopped, err := allStopped(pid)
		if err != nil || stopped {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("memscan: process %d does not stop", pid)
		}
	}
}

// allStopped reads the state of each thread. A thread that has ended between
// two reads is not counted; a process without threads is an error.
func allStopped(pid int) (bool, error) {
	ids, err := tasks(pid)
	if err != nil {
		return false, err
	}
	live := 0
	for _, id := range ids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, id))
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything; the state follows the last one.
		after := stat[strings.LastIndexByte(string(stat), ')')+1:]
		switch after[1] {
		case 'T', 't':
			live++
		case 'Z', 'X':
		default:
			return false, nil
		}
	}
	if live == 0 {
		return false, fmt.Errorf("memscan: process %d has ended", pid)
	}
	return true, nil
}

// tasks returns the ids of the threads of a process.
func tasks(pid int) ([]int, error) {
	dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err == nil && len(dirs) == 0 {
		err = fmt.Errorf("memscan: no process %d", pid)
	}
	var ids []int
	for _, d := range dirs {
		if id, err := strconv.Atoi(filepath.Base(d)); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// registers searches what the kernel saved of each thread when it stopped.
func (r *Report) registers(pid int, m *matcher) {
	ids, err := tasks(pid)
	if err != nil {
		r.RegistersErr = err
		return
	}
	// A thread is traced by one thread, not by a process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A thread that is let go takes a moment to stop anew, in the kernel.
	defer func() {
		if err := awaitStop(pid); err != nil {
			r.RegistersErr = err
		}
	}()
	for _, id := range ids {
		sets, err := savedRegisters(id)
		if err != nil {
			r.RegistersErr = fmt.Errorf("memscan: registers of thread %d: %w", id, err)
			continue
		}
		r.Threads++
		for _, b := range sets {
			found := map[run]bool{}
			m.search(b, 0, 0, len(b), found)
			var part Report
			part.collect(m, found, nil)
			for _, h := range part.Hits {
				h.Kind, h.Task = Registers, id
				r.Hits = append(r.Hits, h)
			}
		}
	}
}

// savedRegisters attaches to a stopped thread without disturbing it, reads its
// general and vector registers, and detaches; the thread stays stopped.
func savedRegisters(id int) ([][]byte, error) {
	if err := ptrace(unix.PTRACE_SEIZE, id, 0, nil); err != nil {
		return nil, err
	}
	defer detach(id)
	vector := uintptr(unix.NT_PRFPREG)
	if runtime.GOARCH == "amd64" {
		vector = unix.NT_X86_XSTATE
	}
	var sets [][]byte
	for _, set := range []uintptr{unix.NT_PRSTATUS, vector} {
		buf := make([]byte, 16<<10)
		iov := unix.Iovec{Base: &buf[0]}
		iov.SetLen(len(buf))
		// The thread becomes a traced one an instant after PTRACE_SEIZE.
		var err error
		for range 1000 {
			if err = ptrace(unix.PTRACE_GETREGSET, id, set, unsafe.Pointer(&iov)); !errors.Is(err, unix.ESRCH) {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
		if err != nil {
			return nil, err
		}
		sets = append(sets, buf[:iov.Len])
	}
	return sets, nil
}

// detach lets go of a thread, also of one that somebody let run meanwhile: a
// traced thread that is killed keeps those who wait for its process for ever.
func detach(id int) {
	if ptrace(unix.PTRACE_DETACH, id, 0, nil) == nil {
		return
	}
	_ = ptrace(unix.PTRACE_INTERRUPT, id, 0, nil)
	for range 1000 {
		if n, err := unix.Wait4(id, nil, unix.WALL|unix.WNOHANG, nil); n > 0 || err != nil {
			break
		}
		time.Sleep(100 * time.Microsecond)
	}
	_ = ptrace(unix.PTRACE_DETACH, id, 0, nil)
}

func ptrace(request, id int, addr uintptr, data unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(id), addr, uintptr(data), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
