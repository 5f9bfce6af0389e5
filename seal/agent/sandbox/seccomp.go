package sandbox

import (
	"fmt"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// allowed is what serving needs, and no more. A name that an architecture lacks
// is passed over.
var allowed = []string{
	// Connections that exist or are accepted.
	"accept4", "read", "write", "readv", "writev", "recvmsg", "sendmsg", "recvfrom", "sendto", "close", "shutdown",
	"getsockopt", "setsockopt", "getsockname", "getpeername", "fcntl", "fcntl64",
	// Waiting.
	"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2", "poll", "ppoll",
	"futex", "nanosleep", "clock_nanosleep", "sched_yield", "restart_syscall",
	// Peers: whether they live, whether a descriptor is a process's (waitid), and
	// what /proc says of them.
	"pidfd_open", "waitid", "fstat", "newfstatat", "statx", "fstatfs", "lseek", "pread64",
	// Clocks, random numbers, who we are.
	"clock_gettime", "gettimeofday", "getrandom", "getpid", "gettid", "getuid", "geteuid", "getgid", "getegid",
	"getrusage", "sched_getaffinity", "prlimit64",
	// Go's memory and threads.
	"brk", "munmap", "madvise", "mincore", "mlock", "munlock",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "set_robust_list", "rseq", "membarrier",
	"exit", "exit_group",
}

// conditional is what is allowed with some arguments only.
func conditional() []seccomp.NameWithConditions {
	no := func(name string, arg uint32, bits uint64) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: name, Conditions: []seccomp.Condition{
			{Argument: arg, Operation: seccomp.BitsNotSet, Value: bits}}}
	}
	const write = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC | unix.O_APPEND | unix.O_PATH
	thread := seccomp.NameWithConditions{Name: "clone", Conditions: []seccomp.Condition{
		{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD}}}
	signal := seccomp.NameWithConditions{Name: "tgkill", Conditions: []seccomp.Condition{
		{Argument: 0, Operation: seccomp.Equal, Value: uint64(unix.Getpid())}}}
	return []seccomp.NameWithConditions{
		thread, // threads, not processes
		signal, // to this process only: Go stops its own threads so
		// Who is behind a descriptor, of which waitid has said that it is a process's.
		{Name: "ioctl", Conditions: []seccomp.Condition{
			{Argument: 1, Operation: seccomp.Equal, Value: unix.PIDFD_GET_INFO}}},
		no("mmap", 2, unix.PROT_EXEC),
		no("mprotect", 2, unix.PROT_EXEC),
		no("openat", 2, write),
	}
}

// flags has the filter put on all threads, or on none with an error: without the
// second flag the kernel returns the number of a thread that it could not reach.
const flags = seccomp.FilterFlagTSync | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH

// restrictCalls puts the filter in force for all threads.
func restrictCalls() error {
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("this architecture is not known to the filter: %w", err)
	}
	known := func(name string) bool {
		_, ok := info.SyscallNames[name]
		return ok
	}
	allow := seccomp.SyscallGroup{Action: seccomp.ActionAllow}
	for _, name := range allowed {
		if known(name) {
			allow.Names = append(allow.Names, name)
		}
	}
	for _, c := range conditional() {
		if known(c.Name) {
			allow.NamesWithCondtions = append(allow.NamesWithCondtions, c)
		}
	}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{allow}}
	if known("clone3") {
		// Its flags are behind a pointer. A C library that finds it missing uses
		// clone, whose flags are not.
		policy.Syscalls = append(policy.Syscalls, seccomp.SyscallGroup{
			Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}})
	}
	return seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: flags, Policy: policy})
}
