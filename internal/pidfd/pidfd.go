// Package pidfd says which process a descriptor of one stands for: its id, its
// user, and a number that no later process with that id has. A descriptor may
// come from anybody and be of anything: nothing here calls into what made it.
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
func Of(fd int) (Process, error) {
	p, err := ask(fd)
	if err != nil {
		p, err = read(fd)
	}
	if err == nil { // else it may be a descriptor of anything
		err = Alive(fd) // asked last: if it has not ended, all of the above was about it
	}
	if err != nil {
		return Process{}, err
	}
	return p, nil
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

// errUnable: the kernel does not answer in one call.
var errUnable = errors.New("PIDFD_GET_INFO is not to be had")

// ask has the kernel tell in one call, from Linux 6.13 on. What another
// descriptor's maker would do upon that call is his affair, so the kernel has to
// say first that it is one of a process.
func ask(fd int) (Process, error) {
	if !isPidfd(fd) {
		return Process{}, errUnable
	}
	const all = unix.PIDFD_INFO_PID | unix.PIDFD_INFO_CREDS
	info := unix.PidfdInfo{Mask: all}
	if err := getInfo(fd, &info); err != nil || info.Mask&all != all || int32(info.Pid) <= 0 || info.Pid != info.Tgid {
		return Process{}, errUnable // read says why, where it is the process's fault
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Process{}, err
	}
	return Process{PID: int(info.Pid), UID: info.Euid, Number: st.Ino}, nil
}

// getInfo is here for tests to replace.
var getInfo = unix.IoctlPidfdInfo

// isPidfd has the kernel look whether it could wait for the process of a
// descriptor, which it refuses with EBADF for one of anything else.
func isPidfd(fd int) bool {
	err := unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil || errors.Is(err, unix.ECHILD)
}

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
