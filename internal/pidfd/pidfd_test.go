package pidfd

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	patience = 10 * time.Second
	tick     = time.Millisecond
)

// sleeper is a process that lives until the test kills it.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "60")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func open(t *testing.T, pid int) int {
	t.Helper()
	fd, err := Open(pid)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// bothWays runs f as this kernel answers, and as one does that must be read in
// /proc.
func bothWays(t *testing.T, f func(t *testing.T)) {
	t.Run("asked", func(t *testing.T) {
		if _, ok := ask(open(t, os.Getpid())); !ok {
			t.Skip("PIDFD_GET_INFO needs Linux 6.13")
		}
		f(t)
	})
	t.Run("read", func(t *testing.T) {
		defer func(before func(int, *unix.PidfdInfo) error) { getInfo = before }(getInfo)
		getInfo = func(int, *unix.PidfdInfo) error { return unix.ENOTTY }
		_, ok := ask(open(t, os.Getpid()))
		require.False(t, ok)
		f(t)
	})
}

// A process is the same in both ways, until it has ended, reaped or not.
func TestOf(t *testing.T) {
	bothWays(t, func(t *testing.T) {
		cmd := sleeper(t)
		pid := cmd.Process.Pid
		fd := open(t, pid)
		p, err := Of(fd)
		require.NoError(t, err)
		n, err := Number(pid)
		require.NoError(t, err)
		require.Equal(t, Process{PID: pid, UID: uint32(os.Geteuid()), Number: n}, p)
		self, err := Of(open(t, os.Getpid()))
		require.NoError(t, err)
		require.NotEqual(t, p.Number, self.Number)

		require.NoError(t, Alive(fd))
		require.NoError(t, cmd.Process.Kill())
		require.Eventually(t, func() bool { return Alive(fd) != nil }, patience, tick)
		_, err = Of(fd) // a zombie, with its number and user still there
		require.ErrorIs(t, err, ErrEnded)
		_, err = Number(pid)
		require.ErrorIs(t, err, ErrEnded)
		require.Error(t, cmd.Wait())
		_, err = Of(fd)
		require.ErrorIs(t, err, ErrEnded)
	})
}

// childVariable makes a process of the test binary that has three users.
const childVariable = "PIDFD_TEST_CHILD"

const realID, effectiveID, savedID = 54321, 54322, 54323

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run())
	}
	if err := syscall.Setresuid(realID, effectiveID, savedID); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// A process's user is the effective one of its ids. It needs root.
func TestOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bothWays(t, func(t *testing.T) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), childVariable+"=1")
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "ready\n", line)
		p, err := Of(open(t, cmd.Process.Pid))
		require.NoError(t, err)
		require.EqualValues(t, effectiveID, p.UID)
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	})
}

// What is no descriptor of a process is that, whatever it is of.
func TestForeign(t *testing.T) {
	bothWays(t, func(t *testing.T) {
		null, err := os.Open(os.DevNull)
		require.NoError(t, err)
		defer null.Close()
		r, w, err := os.Pipe() // readable or not
		require.NoError(t, err)
		defer r.Close()
		defer w.Close()
		dir, err := os.Open("/proc/self") // of a process in another way
		require.NoError(t, err)
		defer dir.Close()
		defer func(before func(int, *unix.PidfdInfo) error) { getInfo = before }(getInfo)
		asked := 0
		getInfo = func(int, *unix.PidfdInfo) error { asked++; return unix.ENOTTY }
		for _, f := range []*os.File{null, r, w, dir} {
			_, err := Of(int(f.Fd()))
			require.ErrorIs(t, err, ErrForeign, f.Name())
		}
		require.Zero(t, asked, "its driver was called")
		_, err = Of(open(t, os.Getpid()))
		require.NoError(t, err)
		require.Equal(t, 1, asked, "the control")
		for _, fd := range []int{-1, 1 << 20} {
			_, err = Of(fd)
			require.Error(t, err)
			require.NotErrorIs(t, err, ErrEnded)
		}
	})
}

// A thread has descriptors too, and is no process.
func TestThread(t *testing.T) {
	tids := make(chan int)
	stop := make(chan bool)
	defer close(stop)
	tid := os.Getpid()
	for tid == os.Getpid() { // the first thread is the process
		go func() {
			runtime.LockOSThread() // and so ends it
			tids <- unix.Gettid()
			<-stop
		}()
		tid = <-tids
	}
	_, err := Open(tid)
	require.ErrorIs(t, err, ErrEnded)
	fd, err := unix.PidfdOpen(tid, unix.PIDFD_THREAD)
	if err != nil {
		t.Skip("descriptors of threads need Linux 6.9")
	}
	defer unix.Close(fd)
	bothWays(t, func(t *testing.T) {
		_, err := Of(fd)
		require.ErrorIs(t, err, ErrForeign)
	})
}

func TestNobody(t *testing.T) {
	for _, pid := range []int{-1, 0, math.MaxInt32} {
		_, err := Open(pid)
		require.ErrorIs(t, err, ErrEnded)
		_, err = Number(pid)
		require.ErrorIs(t, err, ErrEnded)
	}
}

// Of a descriptor of anything else nothing more is asked: no file of /proc is
// opened, for which no descriptor is left here, and it is not polled, or this one
// would look like one of a process that has ended.
func TestForeignIsLeftAlone(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	_, err = w.WriteString("readable")
	require.NoError(t, err)
	own := open(t, os.Getpid())
	without := func(f func()) {
		var before unix.Rlimit
		require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: before.Max}))
		defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) }()
		f()
	}
	var foreign, control error
	without(func() {
		_, foreign = Of(int(r.Fd()))
		_, control = read(own)
	})
	require.ErrorIs(t, foreign, ErrForeign)
	require.ErrorIs(t, control, unix.EMFILE)
	require.ErrorIs(t, Alive(int(r.Fd())), ErrEnded, "the control")
}

// Processes that start at once have different numbers, where the kernel gives
// them; when they started does not tell them apart.
func TestNumbers(t *testing.T) {
	if n, err := number(open(t, os.Getpid()), os.Getpid()); err == nil && n == must(startTime(os.Getpid())) {
		t.Skip("this kernel does not number processes")
	}
	const many = 40
	numbers, starts := map[uint64]bool{}, map[uint64]bool{}
	for range many {
		pid := sleeper(t).Process.Pid
		numbers[must(Number(pid))] = true
		starts[must(startTime(pid))] = true
	}
	require.Len(t, numbers, many)
	require.Less(t, len(starts), many, "the control")
}

func must(n uint64, err error) uint64 {
	if err != nil {
		panic(err)
	}
	return n
}

// Before that a process is when it started.
func TestStartTime(t *testing.T) {
	cmd := sleeper(t)
	start, err := startTime(cmd.Process.Pid)
	require.NoError(t, err)
	require.Equal(t, start, must(startTime(cmd.Process.Pid)))
	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool { // a zombie
		_, err = startTime(cmd.Process.Pid)
		return err != nil
	}, patience, tick)
	require.ErrorIs(t, err, ErrEnded)
	require.Error(t, cmd.Wait())
	_, err = startTime(cmd.Process.Pid)
	require.ErrorIs(t, err, ErrEnded)
}

// BenchmarkOf is what it costs to know a process.
func BenchmarkOf(b *testing.B) {
	fd, err := Open(os.Getpid())
	require.NoError(b, err)
	defer unix.Close(fd)
	for name, f := range map[string]func(int) (Process, error){"asked": Of, "read": read} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f(fd); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
