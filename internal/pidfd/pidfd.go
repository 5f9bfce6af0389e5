// Package pidfd says which process a descriptor of one stands for: its id, its
// user, and a number that no later process with that id has.
//
// A descriptor may come from anybody and be of anything, and to read, poll or even
// look it up in /proc runs code of what it is of, which can wait for its maker. So
// the kernel first says whether it is one of a process, in a call that touches no
// other (waitid, from Linux 5.4 on; where a filter or an older kernel forbids that,
// /proc is asked all the same).
package pidfd

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Errors of this package; all others are the kernel's.
var (
	// ErrEnded: the process has ended, reaped or not, or never was.
	ErrEnded = errors.New("no such process, or it has ended")

	// ErrForeign: the descriptor is none of a process, but of a thread say, or of
	// one that has no id in this process namespace.
	ErrForeign = errors.New("not of a process that is known here")
)

// A Process is what the kernel says of one. Number is the inode of its pidfd
// where the kernel gives each process one of its own, from Linux 6.9 on, and else
// when it started; doc/SPEC.md, section 7.
type Process struct {
	PID    int
	UID    uint32 // effective
	Number uint64
}

// Open returns a descriptor of the process with an id, which the caller closes.
// Errors: ErrEnded; ENOSYS before Linux 5.3, EPERM behind a filter from before.
func Open(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return -1, ErrEnded
	case err != nil:
		return -1, fmt.Errorf("pidfd_open of %d: %w", pid, err)
	}
	return fd, nil
}

// Of returns the process behind a descriptor, which lived when Of returned.
// Errors: ErrEnded, ErrForeign.
func Of(fd int) (p Process, err error) {
	sure, err := isPidfd(fd)
	if err != nil {
		return Process{}, err
	}
	known := false
	if sure {
		p, known = ask(fd)
	}
	if !known {
		if p, err = read(fd); err != nil {
			return Process{}, err
		}
	}
	// Asked last: if it has not ended, all of the above was about it.
	if err := Alive(fd); err != nil {
		return Process{}, err
	}
	return p, nil
}

// Is reports whether the kernel says that a descriptor is a process's.
func Is(fd int) bool {
	sure, err := isPidfd(fd)
	return sure && err == nil
}

// isPidfd has the kernel look whether it could wait for the process of a
// descriptor, which it refuses with EBADF for one of anything else: ErrForeign.
// Where it does not say, the answer is false.
func isPidfd(fd int) (bool, error) {
	err := unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	switch {
	case err == nil, errors.Is(err, unix.ECHILD):
		return true, nil
	case !errors.Is(err, unix.EBADF):
		return false, nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		return false, err // it is none at all
	}
	return false, ErrForeign
}

// Number returns the number of the process with an id: ErrEnded, if there is none.
func Number(pid int) (uint64, error) {
	fd, err := Open(pid)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return startTime(pid)
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	n, err := number(fd, pid)
	if alive := Alive(fd); alive != nil {
		return 0, alive // and so was not there to be looked at
	}
	return n, err
}

// ask has the kernel tell of the process of a pidfd in one call, from Linux 6.13
// on. Where that fails read says why.
func ask(fd int) (p Process, ok bool) {
	const all = unix.PIDFD_INFO_PID | unix.PIDFD_INFO_CREDS
	info := unix.PidfdInfo{Mask: all}
	if err := getInfo(fd, &info); err != nil || info.Mask&all != all || int32(info.Pid) <= 0 || info.Pid != info.Tgid {
		return Process{}, false
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Process{}, false
	}
	return Process{PID: int(info.Pid), UID: info.Euid, Number: st.Ino}, true
}

// getInfo is here for tests to replace.
var getInfo = unix.IoctlPidfdInfo

// number returns the inode of a pidfd, or when the process started where all
// pidfds share one.
func number(fd, pid int) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, err
	}
	if fs.Type != unix.PID_FS_MAGIC {
		return startTime(pid)
	}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Ino, err
}

// Alive returns ErrEnded once the process of a pidfd has ended: it is readable
// then, before the id can be given to another. The call does not wait, so Go's
// scheduler is not told of one that might.
func Alive(fd int) error {
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	for {
		var now unix.Timespec
		n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return fmt.Errorf("poll of a process's descriptor: %w", errno)
		case p.Revents&unix.POLLNVAL != 0:
			return fmt.Errorf("poll of a process's descriptor: %w", unix.EBADF)
		case n > 0:
			return ErrEnded
		default:
			return nil
		}
	}
}
