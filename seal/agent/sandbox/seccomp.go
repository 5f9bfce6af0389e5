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
	"accept4", "read", "write", "readv", "writev", "recvmsg", "sendmsg", "recvfrom", "close", "shutdown",
	"getsockopt", "setsockopt", "getsockname", "getpeername",
	// Waiting.
	"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2", "poll", "ppoll",
	"futex", "nanosleep", "clock_nanosleep", "sched_yield", "restart_syscall",
	// Peers: whether they live, whether a descriptor is a process's (waitid), and
	// what /proc says of them.
	"pidfd_open", "waitid", "fstat", "newfstatat", "statx", "fstatfs", "lseek", "pread64",
	// The way to the policy, which is looked at when it is read again.
	"readlink", "readlinkat", "lstat",
	// Clocks, random numbers, who we are.
	"clock_gettime", "gettimeofday", "getrandom", "getpid", "gettid", "getuid", "geteuid", "getgid", "getegid",
	"getrusage", "getrlimit", "ugetrlimit", "sched_getaffinity",
	// Go's memory and threads.
	"brk", "munmap", "madvise", "mincore", "mlock", "munlock",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "set_robust_list", "rseq", "membarrier",
	"exit", "exit_group",
}

// conditional lists the calls that are allowed with some arguments only. All conditions of
// a rule must hold. Of several rules with the same name one must hold.
func conditional() []seccomp.NameWithConditions {
	const (
		write = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC | unix.O_APPEND | unix.O_PATH
		null  = 0
	)
	rules := []seccomp.NameWithConditions{
		rule("clone", set(0, unix.CLONE_THREAD)),        // threads, not processes
		rule("tgkill", equal(0, uint64(unix.Getpid()))), // to this process: Go stops its own threads so
		rule("prlimit64", equal(0, 0), equal(2, null)),  // its own limits, to be read
		rule("sendto", equal(4, null)),                  // to whom the socket is connected
		rule("ioctl", equal(1, unix.PIDFD_GET_INFO)),    // who is behind what waitid called a process's descriptor
		rule("ioctl", equal(1, unix.SIOCINQ)),           // how many bytes of a peer's are unread
		rule("mmap", notSet(2, unix.PROT_EXEC)),
		rule("mprotect", notSet(2, unix.PROT_EXEC)),
		rule("openat", notSet(2, write)),
	}
	for _, name := range []string{"fcntl", "fcntl64"} {
		// Not who gets a signal for a descriptor, and which signal: that may kill others.
		for _, cmd := range []uint64{unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_DUPFD_CLOEXEC} {
			rules = append(rules, rule(name, equal(1, cmd)))
		}
		rules = append(rules, rule(name, equal(1, unix.F_SETFL), notSet(2, unix.O_ASYNC)))
	}
	return rules
}

func rule(name string, all ...seccomp.Condition) seccomp.NameWithConditions {
	return seccomp.NameWithConditions{Name: name, Conditions: all}
}

// equal compares all 64 bits of an argument; set wants one of bits, notSet none.
func equal(arg uint32, value uint64) seccomp.Condition {
	return seccomp.Condition{Argument: arg, Operation: seccomp.Equal, Value: value}
}

func set(arg uint32, bits uint64) seccomp.Condition {
	return seccomp.Condition{Argument: arg, Operation: seccomp.BitsSet, Value: bits}
}

func notSet(arg uint32, bits uint64) seccomp.Condition {
	return seccomp.Condition{Argument: arg, Operation: seccomp.BitsNotSet, Value: bits}
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
