package boottime

import (
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

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
