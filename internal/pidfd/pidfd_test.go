package pidfd

import (
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

	nobody = 65534
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
		if _, err := ask(open(t, os.Getpid())); err != nil {
			t.Skip("PIDFD_GET_INFO needs Linux 6.13")
		}
		f(t)
	})
	t.Run("read", func(t *testing.T) {
		defer func(before func(int, *unix.PidfdInfo) error) { getInfo = before }(getInfo)
		getInfo = func(int, *unix.PidfdInfo) error { return unix.ENOTTY }
		_, err := ask(open(t, os.Getpid()))
		require.ErrorIs(t, err, errUnable)
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

// Another user is told from ours, by the effective one of its ids. It needs root.
func TestOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bothWays(t, func(t *testing.T) {
		cmd := exec.Command("/bin/sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		require.NoError(t, cmd.Start())
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		p, err := Of(open(t, cmd.Process.Pid))
		require.NoError(t, err)
		require.EqualValues(t, nobody, p.UID)
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
		for _, f := range []*os.File{null, r, w, dir} {
			require.False(t, isPidfd(int(f.Fd())), f.Name())
			_, err := Of(int(f.Fd()))
			require.ErrorIs(t, err, ErrForeign, f.Name())
		}
		require.True(t, isPidfd(open(t, os.Getpid())), "the control")
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
	require.Error(t, err)
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
	for name, f := range map[string]func(int) (Process, error){"asked": ask, "read": read} {
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
