// Package boottime reads the clock that lifetimes are measured on: the time
// since this host booted, suspend included (CLOCK_BOOTTIME). Nobody can set it,
// and it is the same for all processes of a host. A time namespace shifts it
// under an unchanged boot id, so a Clock takes the namespace's offset out.
package boottime

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Clock tells the host's time since boot. Safe for concurrent use.
//
// It reads CLOCK_BOOTTIME, which costs a system call, seldom, and between two
// such readings counts on the monotonic clock, which the kernel serves without
// one. The two differ by the time the host was suspended, and a suspend shows
// in the same reading: it moves the wall clock against the monotonic one.
type Clock struct {
	offset time.Duration // what this process's time namespace adds
	base   atomic.Pointer[reading]
}

// A reading is one moment on both clocks: boot, and wall plus monotonic in at.
type reading struct {
	boot time.Duration
	at   time.Time
}

const (
	// drift is how far the wall clock may move against the monotonic one before
	// the boot clock is read again. A suspend shorter than this goes unseen,
	// and takes no more than this off a lifetime's end.
	drift = time.Millisecond

	// pause is the longest that reading both clocks may take for them to count
	// as one moment; a process that is stopped in between tries again.
	pause = 100 * time.Microsecond

	// maxOffset is the largest offset that the kernel gives, in seconds: half of
	// what 63 bits of nanoseconds hold.
	maxOffset = math.MaxInt64 / int64(time.Second) / 2
)

// New returns the clock of this process's time namespace. A process cannot
// change its namespace once it has threads, so the offset is read once.
func New() (*Clock, error) {
	c := &Clock{}
	text, err := os.ReadFile("/proc/self/timens_offsets")
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Lstat(ownNamespace); err == nil {
			return nil, errors.New("boottime: /proc/self/timens_offsets is hidden, though the kernel has time namespaces; this process's offset cannot be known")
		}
		// A kernel without time namespaces.
	case err != nil:
		return nil, fmt.Errorf("boottime: %w", err)
	default:
		if err := sameNamespace(); err != nil {
			return nil, err
		}
		if c.offset, err = parseOffset(text); err != nil {
			return nil, err
		}
	}
	if _, err := c.read(); err != nil {
		return nil, err
	}
	return c, nil
}

// ownNamespace is there if the kernel has time namespaces.
const ownNamespace = "/proc/self/ns/time"

// sameNamespace refuses a process that has unshared its time namespace and not
// entered it: the kernel then shows the offsets of its children to come.
func sameNamespace() error {
	own, err1 := os.Readlink(ownNamespace)
	children, err2 := os.Readlink("/proc/self/ns/time_for_children")
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("boottime: %w", err)
	}
	if own != children {
		return errors.New("boottime: this process has unshared its time namespace, so its own offset cannot be known; execute again inside")
	}
	return nil
}

// Now returns the time since the host booted. Between processes it is exact to
// a millisecond.
func (c *Clock) Now() (time.Duration, error) {
	now, base := time.Now(), c.base.Load()
	if base == nil {
		return c.read()
	}
	mono := now.Sub(base.at)
	wall := time.Duration(now.UnixNano() - base.at.UnixNano())
	if (wall - mono).Abs() > drift {
		return c.read()
	}
	return base.boot + mono, nil
}

// read asks the kernel, and makes the answer the new base.
func (c *Clock) read() (time.Duration, error) {
	for try := 0; ; try++ {
		before := time.Now()
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			return 0, fmt.Errorf("boottime: CLOCK_BOOTTIME: %w", err)
		}
		boot := time.Duration(ts.Nano()) - c.offset
		if time.Since(before) < pause {
			c.base.Store(&reading{boot, before})
			return boot, nil
		}
		if try == 8 { // a crawling host: right now, but no base for later
			return boot, nil
		}
	}
}

// parseOffset finds the boottime line of timens_offsets: a name or a clock's
// number, seconds, nanoseconds. The offset of a namespace that has none is 0.
func parseOffset(text []byte) (time.Duration, error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 3 || f[0] != "boottime" && f[0] != strconv.Itoa(unix.CLOCK_BOOTTIME) {
			continue
		}
		sec, err1 := strconv.ParseInt(f[1], 10, 64)
		nsec, err2 := strconv.ParseInt(f[2], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return 0, fmt.Errorf("boottime: timens_offsets: %w", err)
		}
		if sec < -maxOffset || sec > maxOffset || nsec < 0 || nsec >= int64(time.Second) {
			return 0, fmt.Errorf("boottime: timens_offsets: %d s and %d ns is no offset", sec, nsec)
		}
		return time.Duration(sec)*time.Second + time.Duration(nsec), nil
	}
	return 0, errors.New("boottime: timens_offsets has no boottime line; lifetimes could not be trusted")
}

// BootID returns the random id that the kernel drew when it booted.
func BootID() (id [16]byte, err error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, fmt.Errorf("boottime: %w", err)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("boottime: boot_id is %d bytes long and not an id", len(text))
	}
	copy(id[:], b)
	return id, nil
}
