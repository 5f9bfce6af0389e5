package boottime

import (
	"math"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestParseOffset(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       time.Duration
	}{
		{"none", "monotonic           0         0\nboottime            0         0\n", 0},
		{"positive", "monotonic 1 2\nboottime 86400 500000000\n", 24*time.Hour + 500*time.Millisecond},
		{"negative", "boottime -5 500000000\n", -4500 * time.Millisecond},
		{"by number", "1 3 4\n7 5 6\n", 5*time.Second + 6},
		{"no newline at the end", "boottime 7 0", 7 * time.Second},
		{"the largest", "boottime 4611686018 0\n", 4611686018 * time.Second},
	} {
		got, err := parseOffset([]byte(c.text))
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, got, c.name)
	}
	for name, text := range map[string]string{
		"empty":              "",
		"no boottime":        "monotonic 1 2\n",
		"two fields":         "boottime 1\n",
		"four fields":        "boottime 1 2 3\n",
		"no seconds":         "boottime x 0\n",
		"no nanoseconds":     "boottime 0 x\n",
		"beyond a number":    "boottime 9223372036854775808 0\n",
		"beyond a duration":  "boottime 9223372037 0\n",
		"below a duration":   "boottime -9223372037 0\n",
		"too many nanos":     "boottime 0 1000000000\n",
		"negative nanos":     "boottime 0 -1\n",
		"a line without end": "boottime" + strings.Repeat(" ", 1<<20),
	} {
		_, err := parseOffset([]byte(text))
		require.Error(t, err, name)
	}
}

// kernel reads CLOCK_BOOTTIME.
func kernel(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts))
	return time.Duration(ts.Nano())
}

// The clock is never off the kernel's by more than a millisecond and a bit, in
// either direction, and does not go back by more.
func TestAgreesWithKernel(t *testing.T) {
	c, err := New()
	require.NoError(t, err)
	var last time.Duration
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		before := kernel(t) - c.offset
		now, err := c.Now()
		require.NoError(t, err)
		after := kernel(t) - c.offset
		require.Greater(t, now, before-drift-pause)
		require.Less(t, now, after+drift+pause)
		require.Greater(t, now, last-drift-pause)
		last = now
	}
	second, err := New()
	require.NoError(t, err)
	a, err := c.Now()
	require.NoError(t, err)
	b, err := second.Now()
	require.NoError(t, err)
	require.InDelta(t, a, b, float64(50*time.Millisecond))
}

// A host that was suspended since the last reading: the wall clock has moved
// and the monotonic one has not. The clock asks the kernel again.
func TestSuspend(t *testing.T) {
	for name, slept := range map[string]time.Duration{
		"an hour": time.Hour, "a week": 7 * 24 * time.Hour, "two milliseconds": 2 * time.Millisecond,
	} {
		c, err := New()
		require.NoError(t, err)
		base := *c.base.Load()
		// As if the base had been taken before the suspend: the boot clock
		// stood lower by as much as the wall clock did.
		c.base.Store(&reading{boot: base.boot - slept, at: addWall(base.at, -slept)})
		now, err := c.Now()
		require.NoError(t, err)
		require.InDelta(t, kernel(t)-c.offset, now, float64(50*time.Millisecond), name)
		require.Greater(t, c.base.Load().boot, base.boot, "%s: the old base stayed", name)
	}
	// The control: without the wall clock's leap the wrong base is believed.
	c, err := New()
	require.NoError(t, err)
	base := *c.base.Load()
	c.base.Store(&reading{boot: base.boot - time.Hour, at: base.at})
	now, err := c.Now()
	require.NoError(t, err)
	require.Less(t, now, kernel(t)-c.offset-59*time.Minute)
}

// addWall moves the wall clock of a time and leaves the monotonic one: what a
// suspend does to the difference between two of them.
func addWall(at time.Time, d time.Duration) time.Time {
	moved := at.Add(d) // both
	(*struct {
		wall uint64
		mono int64
		zone *time.Location
	})(unsafe.Pointer(&moved)).mono -= int64(d)
	return moved
}

func TestAddWall(t *testing.T) {
	at := time.Now()
	moved := addWall(at, time.Hour)
	require.Zero(t, moved.Sub(at), "the monotonic clock stays")
	require.Equal(t, int64(time.Hour), moved.UnixNano()-at.UnixNano())
}

// Somebody who sets the wall clock moves no lifetime.
func TestWallClockSet(t *testing.T) {
	c, err := New()
	require.NoError(t, err)
	for _, by := range []time.Duration{time.Hour, -time.Hour, 365 * 24 * time.Hour} {
		base := *c.base.Load()
		c.base.Store(&reading{boot: base.boot, at: addWall(base.at, by)})
		now, err := c.Now()
		require.NoError(t, err)
		require.InDelta(t, kernel(t)-c.offset, now, float64(50*time.Millisecond))
	}
}

// A clock whose first readings were all interrupted has no base that counts.
func TestNoBase(t *testing.T) {
	c := &Clock{}
	c.base.Store(&reading{})
	now, err := c.Now()
	require.NoError(t, err)
	require.InDelta(t, kernel(t), now, float64(50*time.Millisecond))
}

func TestConcurrently(t *testing.T) {
	c, err := New()
	require.NoError(t, err)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				if _, err := c.Now(); err != nil {
					t.Error(err)
					return
				}
				_, _ = c.read()
			}
		})
	}
	all.Wait()
}

func TestBootID(t *testing.T) {
	id, err := BootID()
	require.NoError(t, err)
	again, err := BootID()
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.NotEqual(t, [16]byte{}, id)
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	require.Equal(t, byte('4'), text[14], "a random UUID")
	require.Equal(t, byte(4), id[6]>>4)
}

func TestNowAllocatesNothing(t *testing.T) {
	c, err := New()
	require.NoError(t, err)
	require.Zero(t, math.Floor(testing.AllocsPerRun(1000, func() { _, _ = c.Now() })))
}

func BenchmarkNow(b *testing.B) {
	c, err := New()
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.Now()
	}
}

// What the kernel does not tell is an error and not a guess.
func TestKernelRefuses(t *testing.T) {
	const here = 0xffffff9c // AT_FDCWD, as the kernel gets it
	for _, c := range []struct {
		name  string
		call  apart.Call
		errno unix.Errno
	}{
		{"clock", apart.Call{Number: unix.SYS_CLOCK_GETTIME, Argument: 0, Value: unix.CLOCK_BOOTTIME}, unix.EINVAL},
		{"namespace", apart.Call{Number: unix.SYS_READLINKAT, Argument: 0, Value: here}, unix.EACCES},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !apart.Run(t, nil) {
				return
			}
			clock, err := New()
			require.NoError(t, err)
			apart.Refuse(t, c.call, c.errno)
			_, err = New()
			require.ErrorIs(t, err, c.errno)
			_, err = clock.Now()
			require.NoError(t, err, "no suspend, so nothing to ask")
			base := *clock.base.Load()
			base.at = addWall(base.at, -time.Hour)
			clock.base.Store(&base)
			if _, err = clock.Now(); c.name == "clock" {
				require.ErrorIs(t, err, c.errno)
			} else {
				require.NoError(t, err)
			}
		})
	}
}

// Files of /proc that are not there, not readable, or hold something else.
func TestStrangeProc(t *testing.T) {
	apart.NeedRoot(t)
	const offsets, id = "/proc/self/timens_offsets", "/proc/sys/kernel/random/boot_id"
	cover := func(over string) func(t *testing.T, file string) {
		return func(t *testing.T, file string) {
			require.NoError(t, unix.Mount(over, file, "", unix.MS_BIND, ""))
		}
	}
	noProc := func(t *testing.T, _ string) { require.NoError(t, unix.Mount("none", "/proc", "tmpfs", 0, "")) }
	hidden := func(t *testing.T, file string) {
		noProc(t, file)
		require.NoError(t, os.MkdirAll("/proc/self/ns", 0o755))
		require.NoError(t, os.Symlink("time:[4026531834]", "/proc/self/ns/time"))
	}
	for _, c := range []struct {
		name, file string
		spoil      func(t *testing.T, file string)
		err        error // what New or BootID returns; nil: some error
		fine       bool
	}{
		{"no time namespaces", offsets, noProc, nil, true},
		{"offsets hidden", offsets, hidden, nil, false},
		{"offsets unreadable", offsets, cover("/proc/self/mem"), unix.EIO, false},
		{"offsets strange", offsets, cover("/proc/version"), nil, false},
		{"no boot id", id, noProc, os.ErrNotExist, false},
		{"boot id too short", id, cover("/proc/uptime"), nil, false},
		{"boot id too long", id, cover("/proc/version"), nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !apart.Run(t, func(cmd *exec.Cmd) {
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
			}) {
				return
			}
			require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			do := func() error { _, err := BootID(); return err }
			if c.file == offsets {
				do = func() error { _, err := New(); return err }
			}
			require.NoError(t, do(), "the control")
			c.spoil(t, c.file)
			switch err := do(); {
			case c.fine:
				require.NoError(t, err)
			case c.err == nil:
				require.Error(t, err)
			default:
				require.ErrorIs(t, err, c.err)
			}
		})
	}
}
