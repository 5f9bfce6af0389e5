package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Process is the audience of one process, which must be alive: else ErrAudience,
// or ErrUnavailable where the kernel does not tell. A process is its id and a
// number that no later process with that id has; doc/SPEC.md, section 7, says
// which.
func Process(pid int) (Audience, error) {
	n, err := processNumber(pid)
	if err != nil {
		return Audience{}, err
	}
	return process(uint32(pid), n), nil
}

func process(pid uint32, number uint64) Audience {
	v := binary.BigEndian.AppendUint32(nil, pid)
	return Audience{kindProcess, string(binary.BigEndian.AppendUint64(v, number))}
}

// processNumber returns the inode of the process's pidfd where the kernel gives
// each process one of its own, from Linux 6.9 on, and else when it started.
func processNumber(pid int) (uint64, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM): // an older kernel, or a filter from before
		return startTime(pid)
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return 0, fmt.Errorf("%w: no process %d", ErrAudience, pid)
	case err != nil:
		return 0, fmt.Errorf("%w: process %d: %w", ErrUnavailable, pid, err)
	}
	defer unix.Close(fd)
	n, err := pidfdInode(fd)
	if err == nil && n == 0 {
		n, err = startTime(pid)
	}
	if err != nil {
		return 0, err
	}
	// Asked last: if it has not ended, all of the above was about it.
	return n, running(fd, pid)
}

// pidfdInode returns the inode of a pidfd, and zero where all pidfds share one.
func pidfdInode(fd int) (uint64, error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(fd, &fs), unix.Fstat(fd, &st)); err != nil {
		return 0, fmt.Errorf("%w: a process's descriptor: %w", ErrUnavailable, err)
	}
	if fs.Type != unix.PID_FS_MAGIC {
		return 0, nil
	}
	return st.Ino, nil
}

// running returns ErrAudience for a process that has ended, reaped or not: its
// pidfd can be read then.
func running(fd, pid int) error {
	for {
		switch n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("%w: process %d: %w", ErrUnavailable, pid, err)
		case n > 0:
			return fmt.Errorf("%w: process %d has ended", ErrAudience, pid)
		default:
			return nil
		}
	}
}

// startTime reads when a process started, in clock ticks since boot: field 22
// of /proc/PID/stat, counted behind the name, which may hold anything. Processes
// that start within the same tick, of 10 ms as a rule, share it.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: no process %d", ErrAudience, pid)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("%w: /proc/%d/stat has %d fields", ErrUnavailable, pid, len(fields))
	}
	if state := fields[0][0]; state == 'Z' || state == 'X' {
		return 0, fmt.Errorf("%w: process %d has ended", ErrAudience, pid)
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: /proc/%d/stat: %w", ErrUnavailable, pid, err)
	}
	return start, nil
}
