// Package apart runs a test in a process of its own, set up as the test needs
// it: as a plain user, under a resource limit, in a namespace, with system calls
// that fail. It is for tests only; the process is the test binary, executed
// again.
package apart

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Nobody is the user and group that PlainUser takes.
const Nobody = 65534

// variable names the test that a process was started for.
const variable = "SEALCTX_TEST_APART"

// Run runs the calling test in a process of its own. It returns true in there,
// and the test goes on; here it waits for the verdict and returns false, and the
// test is to return. setup may change the command; nil changes nothing.
func Run(t *testing.T, setup func(*exec.Cmd)) bool {
	t.Helper()
	if os.Getenv(variable) == t.Name() {
		return true
	}
	levels := strings.Split(t.Name(), "/")
	for i, l := range levels {
		levels[i] = "^" + regexp.QuoteMeta(l) + "$"
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.timeout=2m", "-test.run="+strings.Join(levels, "/"))
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	cmd.Dir = "/"
	collect := coverage(t, cmd)
	if setup != nil {
		setup(cmd)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	passed := regexp.MustCompile(`(?m)^\s*--- PASS: ` + regexp.QuoteMeta(t.Name()) + ` `)
	if !passed.Match(out) {
		t.Fatalf("the test did not run\n%s", out)
	}
	collect()
	return false
}

// coverage has the coverage of a child counted too. The child may be another
// user, so it writes to a place of its own, from where collect takes it.
func coverage(t *testing.T, cmd *exec.Cmd) (collect func()) {
	t.Helper()
	f := flag.Lookup("test.gocoverdir")
	if f == nil || f.Value.String() == "" {
		return func() {}
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Args = append(cmd.Args, "-test.gocoverdir="+dir)
	return func() {
		written, err := filepath.Glob(dir + "/cov*")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range written {
			if err := os.Rename(name, filepath.Join(f.Value.String(), filepath.Base(name))); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// PlainUser makes a child run as a user without rights, where this process may
// choose; else it is one already.
func PlainUser(cmd *exec.Cmd) {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: Nobody, Gid: Nobody}}
	}
}

// RefuseOverflowUser ends the test binary, with a failure and one line that says why, if
// it runs as the kernel's overflow user, 65534: the agent refuses that user, since it
// stands for every user that a namespace does not have. It is no skip: tests that did not
// run did not pass. TestMain of a package whose tests connect to an agent calls it. A
// process that Run started goes on.
func RefuseOverflowUser() {
	if os.Geteuid() == Nobody && os.Getenv(variable) == "" {
		println("these tests cannot run as user 65534, which the agent refuses: run them as another user (setpriv --reuid=12345)")
		os.Exit(1)
	}
}

// NeedRoot skips a test that only root can run.
func NeedRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it changes owners, mounts or namespaces")
	}
}

// A Call is a system call with a certain value in one of its arguments.
type Call struct {
	Number   uintptr
	Argument int // 0 to 5
	Value    uint32
}

// Refuse makes the kernel answer errno to a call, for all threads of this
// process and for good: a seccomp filter. Call it only where Run returned true.
func Refuse(t *testing.T, c Call, errno unix.Errno) {
	t.Helper()
	const (
		filterMode = 1          // SECCOMP_SET_MODE_FILTER
		allThreads = 1          // SECCOMP_FILTER_FLAG_TSYNC
		actErrno   = 0x00050000 // SECCOMP_RET_ERRNO
		actAllow   = 0x7fff0000 // SECCOMP_RET_ALLOW
		arguments  = 16         // offset in struct seccomp_data, 8 bytes each
	)
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: load},
		{Code: equal, Jf: 3, K: uint32(c.Number)},
		{Code: load, K: uint32(arguments + 8*c.Argument)}, // its low half, on little-endian machines
		{Code: equal, Jf: 1, K: c.Value},
		{Code: ret, K: actErrno | uint32(errno)},
		{Code: ret, K: actAllow},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, filterMode, allThreads, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		t.Fatal(errno)
	}
}

// RefuseMemfdSecret makes this process's kernel one without memfd_secret.
func RefuseMemfdSecret(t *testing.T) {
	t.Helper()
	Refuse(t, Call{Number: unix.SYS_MEMFD_SECRET, Argument: 0, Value: unix.O_CLOEXEC}, unix.ENOSYS)
}
