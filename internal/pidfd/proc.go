package pidfd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxRead is how much is read of a file of /proc, in bytes: what is looked for
// stands at the front, and some descriptors have much to tell.
const maxRead = 4 << 10

// readFront reads a file's first maxRead bytes.
func readFront(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// read has /proc tell, where the kernel cannot be asked in one call.
func read(fd int) (Process, error) {
	pid, err := pidOf(fd)
	if err != nil {
		return Process{}, err
	}
	uid, err := effectiveUser(pid)
	if err != nil {
		return Process{}, err
	}
	n, err := number(fd, pid)
	return Process{PID: pid, UID: uid, Number: n}, err
}

// pidOf reads the process id behind a descriptor in fdinfo.
func pidOf(fd int) (int, error) {
	text, err := readFront("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		value, ok := strings.CutPrefix(line, "Pid:")
		if !ok {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(value))
		switch {
		case err != nil:
			return 0, fmt.Errorf("fdinfo: %w", err)
		case pid < 0:
			return 0, ErrEnded
		case pid == 0:
			return 0, ErrForeign
		}
		return pid, nil
	}
	return 0, ErrForeign
}

// effectiveUser reads the second field of the Uid line. A thread has lines of its
// own and is no process.
func effectiveUser(pid int) (uid uint32, err error) {
	text, err := readFront("/proc/" + strconv.Itoa(pid) + "/status")
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrEnded
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		switch f := strings.Fields(value); {
		case name == "Tgid" && (len(f) != 1 || f[0] != strconv.Itoa(pid)):
			return 0, ErrForeign
		case name == "Uid" && len(f) == 4:
			n, err := strconv.ParseUint(f[1], 10, 32)
			return uint32(n), err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no user", pid)
}

// startTime reads when a process started, in clock ticks since boot: field 22
// of /proc/PID/stat, counted behind the name, which may hold anything. Processes
// that start within the same tick, of 10 ms as a rule, share it.
func startTime(pid int) (uint64, error) {
	stat, err := readFront("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrEnded
	}
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if state := fields[0][0]; state == 'Z' || state == 'X' {
		return 0, ErrEnded
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return start, nil
}
