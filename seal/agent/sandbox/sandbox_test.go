package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const childVar = "SANDBOX_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childVar); mode != "" {
		child(mode)
		return
	}
	os.Exit(m.Run())
}

// parent is asked for before the sandbox, which has no call for it.
var parent = os.Getppid()

// The child's sockets, for what can no longer make one.
var (
	sender    int    // connected to nobody
	sink      int    // has an address, "sink" in the directory
	connected [2]int // to each other
)

func makeSockets(dir string) error {
	var errs [4]error
	sender, errs[0] = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	sink, errs[1] = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	errs[2] = unix.Bind(sink, &unix.SockaddrUnix{Name: dir + "/sink"})
	connected, errs[3] = unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	return errors.Join(errs[:]...)
}

// A deed is something that a process in the sandbox tries.
type deed struct {
	name  string
	works bool // inside too
	do    func(dir string) error
}

var deeds = []deed{
	{"open a file", false, func(string) error { return open("/etc/passwd", os.O_RDONLY) }},
	{"list a directory", false, func(string) error { _, err := os.ReadDir("/"); return err }},
	{"create a file", false, func(dir string) error { return open(dir+"/new", os.O_CREATE|os.O_WRONLY) }},
	{"write to a file of the policy's directory", false, func(dir string) error { return open(dir+"/policy", os.O_WRONLY) }},
	{"truncate it", false, func(dir string) error { return os.Truncate(dir+"/policy", 0) }},
	{"rename it", false, func(dir string) error { return os.Rename(dir+"/policy", dir+"/policy") }},
	{"remove it", false, func(dir string) error { return os.Remove(dir + "/remove") }},
	{"execute", false, func(string) error { return exec.Command("/bin/true").Run() }},
	{"internet socket", false, func(string) error { return socket(unix.AF_INET) }},
	{"IPv6 socket", false, func(string) error { return socket(unix.AF_INET6) }},
	{"Unix socket", false, func(string) error { return socket(unix.AF_UNIX) }},
	{"packet socket", false, func(string) error { return socket(unix.AF_NETLINK) }},
	{"ptrace", false, ptrace},
	{"read another process's memory", false, readOther},
	{"signal another process", false, func(string) error { return unix.Kill(parent, 0) }},
	{"another process's limits", false, func(string) error { return unix.Prlimit(parent, unix.RLIMIT_CPU, nil, new(unix.Rlimit)) }},
	{"limit another process", false, limit(parent)},
	{"limit itself", false, limit(0)},
	{"a descriptor's signals to another process", false, fcntl(unix.F_SETOWN, parent)},
	{"another signal", false, fcntl(unix.F_SETSIG, int(unix.SIGKILL))},
	{"a signal whenever something comes", false, fcntl(unix.F_SETFL, unix.O_ASYNC)},
	{"send to an address", false, func(dir string) error {
		return unix.Sendto(sender, []byte("x"), 0, &unix.SockaddrUnix{Name: dir + "/sink"})
	}},
	{"executable memory", false, mapping(unix.PROT_READ | unix.PROT_EXEC)},
	{"memory from a name", false, func(string) error { fd, err := unix.MemfdCreate("x", 0); return closed(fd, err) }},
	{"a namespace", false, func(string) error { return unix.Unshare(unix.CLONE_FS) }},
	{"an ioctl", false, func(string) error { _, err := unix.IoctlGetInt(0, unix.TIOCOUTQ); return refused(err) }},
	{"another user", false, func(string) error { return unix.Setresuid(-1, -1, -1) }},

	{"read the policy", true, func(dir string) error { return open(dir+"/policy", os.O_RDONLY) }},
	{"read a policy that replaced it", true, func(dir string) error { return open(dir+"/later", os.O_RDONLY) }},
	{"read /proc", true, func(string) error { return open("/proc/1/stat", os.O_RDONLY) }},
	{"who a descriptor stands for", true, behind},
	{"its own limits", true, func(string) error { return unix.Getrlimit(unix.RLIMIT_CPU, new(unix.Rlimit)) }},
	{"a descriptor's flags", true, flagsOf},
	{"another descriptor", true, func(string) error { fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0); return closed(fd, err) }},
	{"send to whom a socket is connected", true, func(string) error { return unix.Sendto(connected[0], []byte("x"), 0, nil) }},
	{"memory", true, mapping(unix.PROT_READ | unix.PROT_WRITE)},
	{"collect garbage", true, func(string) error { runtime.GC(); return nil }},
	{"threads", true, threads},
	{"serve", true, nil}, // the child's own connection
}

func open(path string, flag int) error {
	f, err := os.OpenFile(path, flag, 0o600)
	if err == nil {
		err = f.Close()
	}
	return err
}

func socket(family int) error {
	typ := unix.SOCK_STREAM
	if family == unix.AF_NETLINK {
		typ = unix.SOCK_RAW
	}
	fd, err := unix.Socket(family, typ, 0)
	return closed(fd, err)
}

func closed(fd int, err error) error {
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

// refused is an error of the filter, and none of the call.
func refused(err error) error {
	if err != nil && !errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

// behind asks as package pidfd does where the kernel can be asked.
func behind(string) error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return errors.Join(refused(unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)),
		refused(unix.IoctlPidfdInfo(fd, &unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID})))
}

func ptrace(string) error {
	// Of a child of init that does not exist: ESRCH says that asking is allowed.
	if err := unix.PtraceAttach(1 << 30); err != unix.ESRCH {
		return err
	}
	return nil
}

func readOther(string) error {
	var b [1]byte
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(1)
	_, err := unix.ProcessVMReadv(1<<30, local, []unix.RemoteIovec{{Base: 0, Len: 1}}, 0)
	if err == unix.ESRCH {
		return nil
	}
	return err
}

func mapping(prot int) func(string) error {
	return func(string) error {
		b, err := unix.Mmap(-1, 0, os.Getpagesize(), prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return err
		}
		return unix.Munmap(b)
	}
}

// limit sets a limit of processor time to what it is in every process here.
func limit(pid int) func(string) error {
	return func(string) error {
		var own unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CPU, &own); err != nil {
			return err
		}
		return unix.Prlimit(pid, unix.RLIMIT_CPU, &own, nil)
	}
}

// fcntl acts on standard input, which never has a signal to send.
func fcntl(cmd, arg int) func(string) error {
	return func(string) error {
		_, err := unix.FcntlInt(0, cmd, arg)
		return err
	}
}

// flagsOf reads the flags of standard input, and sets them as they are.
func flagsOf(string) error {
	var errs [4]error
	var status, fd int
	status, errs[0] = unix.FcntlInt(0, unix.F_GETFL, 0)
	fd, errs[1] = unix.FcntlInt(0, unix.F_GETFD, 0)
	errs[2] = fcntl(unix.F_SETFL, status&^unix.O_ASYNC)("")
	errs[3] = fcntl(unix.F_SETFD, fd)("")
	return errors.Join(errs[:]...)
}

// threads has the runtime make more of them than there were.
func threads(string) error {
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			runtime.LockOSThread()
			time.Sleep(5 * time.Millisecond)
			runtime.UnlockOSThread()
		})
	}
	wg.Wait()
	return nil
}

// child does the deeds, in the sandbox or not, and prints how each went. Its
// directory is the current one.
func child(mode string) {
	dir, err := os.Getwd()
	check(err)
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	check(err)
	check(makeSockets(dir))
	if strings.HasPrefix(mode, "relative") {
		r, err := Enter(Options{ReadOnly: []string{"relative"}, Require: mode != "relative"})
		fmt.Printf("report: %+v\nerror: %v\n", r, err)
		return
	}
	if mode != "outside" {
		r, err := Enter(Options{ReadOnly: []string{dir, "/nonexistent"}, Require: true})
		fmt.Printf("report: %+v\n", r)
		check(err)
	}
	for _, d := range deeds {
		if d.do != nil {
			fmt.Printf("%s: %v\n", d.name, d.do(dir))
		}
	}
	fmt.Println("serving")
	c, err := l.Accept()
	check(err)
	b := make([]byte, 5)
	if _, err = io.ReadFull(c, b); err == nil {
		_, err = c.Write(b)
	}
	fmt.Printf("serve: %v\n", err)
}

func check(err error) {
	if err != nil {
		fmt.Println("child:", err)
		os.Exit(1)
	}
}

// run runs a child and returns what it printed of each deed.
func run(t *testing.T, mode string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"policy", "remove"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childVar+"="+mode)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "later"), []byte("y"), 0o600))

	results := map[string]string{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "serving" {
			go echo(dir)
		}
		if name, result, ok := strings.Cut(lines.Text(), ": "); ok {
			results[name] = result
		}
	}
	require.NoError(t, cmd.Wait(), "%v\n%s", results, stderr.String())
	return results
}

func echo(dir string) {
	c, err := net.Dial("unix", filepath.Join(dir, "socket"))
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte("hello"))
	_, _ = io.ReadFull(c, make([]byte, 5))
}

// From inside, each deed is refused; outside, each works, so that none is refused
// for another reason.
func TestSandbox(t *testing.T) {
	inside, outside := run(t, "inside"), run(t, "outside")
	t.Log(inside["report"])
	for _, d := range deeds {
		require.Equal(t, "<nil>", outside[d.name], "%s, outside", d.name)
		if d.works {
			require.Equal(t, "<nil>", inside[d.name], d.name)
			continue
		}
		require.Regexp(t, "operation not permitted|permission denied", inside[d.name], d.name)
	}
	require.Contains(t, inside["report"], "Missing:[]")
}

// Without Require a part that cannot be had is reported; with it, it is an error.
func TestRequire(t *testing.T) {
	require.Contains(t, run(t, "relative")["report"], `Missing:[landlock: "relative" is not an absolute path`)
	require.Contains(t, run(t, "relative required")["error"], ErrRequired.Error())
}
