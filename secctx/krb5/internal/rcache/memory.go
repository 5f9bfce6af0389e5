package rcache

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/sealctx/sealctx/internal/boottime"
)

// The header. What stands before skewOffset is written once.
const (
	magic      = "sealctx-rcache-3"
	headerSize = 128
	saltSize   = 24

	saltOffset    = len(magic) + 8
	skewOffset    = saltOffset + saltSize
	horizonOffset = skewOffset + 8
	lostOffset    = horizonOffset + 8
	beganOffset   = lostOffset + 8
	bootIDOffset  = beganOffset + 16
	restOffset    = bootIDOffset + 16

	// maxSkew is the largest clock skew in seconds: there are no larger Durations.
	maxSkew = int64(math.MaxInt64/time.Second) + 1
)

type header [headerSize]byte

// A memory is what the header says of what the file remembers. Times are in
// microseconds since 1970.
type memory struct {
	skew    int64 // in seconds, the largest of all users; 0: none yet
	horizon int64 // records of authenticators made before may be gone
	lost    bool  // an earlier file was in use when this one began
	began   moment
}

// memory decodes the header's second half.
func (h *header) memory() (memory, error) {
	at := func(off int) int64 { return int64(binary.BigEndian.Uint64(h[off:])) }
	m := memory{
		skew: at(skewOffset), horizon: at(horizonOffset), lost: at(lostOffset) != 0,
		began: moment{wall: at(beganOffset), boot: at(beganOffset + 8), bootID: [16]byte(h[bootIDOffset:])},
	}
	if m.skew < 0 || m.skew > maxSkew {
		return m, fmt.Errorf("%w: a clock skew of %d seconds; remove it", ErrUnavailable, m.skew)
	}
	return m, nil
}

// set encodes m.
func (h *header) set(m memory) {
	put := func(off int, v int64) { binary.BigEndian.PutUint64(h[off:], uint64(v)) }
	put(skewOffset, m.skew)
	put(horizonOffset, m.horizon)
	put(lostOffset, 0)
	if m.lost {
		put(lostOffset, 1)
	}
	put(beganOffset, m.began.wall)
	put(beganOffset+8, m.began.boot)
	copy(h[bootIDOffset:restOffset], m.began.bootID[:])
}

// remember writes m into the file, unless that has it already.
func (c *Cache) remember(m memory) error {
	h := c.head
	if h.set(m); h == c.head {
		return nil
	}
	if _, err := c.f.WriteAt(h[skewOffset:], int64(skewOffset)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	c.head = h
	return nil
}

// raise makes sure that records are kept for skew. If skew grows, authenticators
// older than the former skew may be forgotten.
func (m *memory) raise(now moment, skew time.Duration) {
	want := int64(skew / time.Second)
	if skew%time.Second > 0 {
		want++
	}
	if want = max(1, want); want <= m.skew {
		return
	}
	if m.skew != 0 { // the cache was used before
		m.horizon = max(m.horizon, (now.seconds()-m.skew)*second)
	}
	m.skew = want
}

// overwrite notes that an expired record is overwritten. The horizon follows the
// clock, so the header changes once a second at most.
func (m *memory) overwrite(made int64) {
	if made != 0 {
		m.horizon = max(m.horizon, (made+1)*second)
	}
}

// lose notes that this process used an earlier file, last at seen. All records in
// that file were made before this one began, by clocks that may have been ahead by
// the clock skew. If this file did not begin after seen, it is an old copy or has
// another salt, and begins anew.
func (m *memory) lose(now, seen moment) {
	m.lost = true
	if !seen.before(m.began) {
		m.began = now
	}
}

// check returns ErrForgotten for an authenticator that may have been accepted and
// forgotten.
func (m *memory) check(path string, now moment, made time.Time) error {
	at, began := made.UnixMicro(), m.began.by(now)
	until := func(t int64) string { return time.UnixMicro(t).UTC().Format(time.RFC3339) }
	switch settled := began + m.skew*second; {
	case m.lost && at < settled:
		return fmt.Errorf("%w: records of %s were lost while it was in use; requests are accepted again when they are made after %s", ErrForgotten, path, until(settled))
	case at < began:
		return fmt.Errorf("%w: it was made before %s, which is new; a client whose clock is right can try again at once", ErrForgotten, path)
	case at < m.horizon:
		return fmt.Errorf("%w: %s has given up records from before %s, when the clock was ahead or its users' clock skew was smaller; wait until then, or if the clock is right now, remove the file and wait for the clock skew", ErrForgotten, path, until(m.horizon))
	}
	return nil
}

// second is one in microseconds.
const second = int64(time.Second / time.Microsecond)

// A moment is an instant in microseconds on two clocks. The wall clock can be set.
// The boot clock counts from the boot with this id. A zero id means that the boot
// clock is not known.
type moment struct {
	wall, boot int64
	bootID     [16]byte
}

func (t moment) seconds() int64 { return time.UnixMicro(t.wall).Unix() }

// sameBoot reports whether the boot clock's times can be compared.
func (t moment) sameBoot(u moment) bool { return t.bootID == u.bootID && t.bootID != [16]byte{} }

// by returns the time of t on the wall clock that now shows.
func (t moment) by(now moment) int64 {
	if t.sameBoot(now) && t.boot <= now.boot {
		return now.wall - (now.boot - t.boot)
	}
	return t.wall
}

// before compares on the boot clock, or on the wall clock if the boots differ.
func (t moment) before(u moment) bool {
	if t.sameBoot(u) {
		return t.boot < u.boot
	}
	return t.wall < u.wall
}

// A bootClock is the clock that counts from boot.
type bootClock struct {
	now func() (time.Duration, error) // nil: not known
	id  [16]byte
}

func newBootClock() bootClock {
	clock, err := boottime.New()
	if err != nil {
		return bootClock{}
	}
	id, err := boottime.BootID()
	if err != nil {
		return bootClock{}
	}
	return bootClock{clock.Now, id}
}

// moment reads both clocks, the wall clock first. If the process is stopped in
// between, earlier moments look older than they are, and no request is refused for
// that.
func (b bootClock) moment(clock func() time.Time) moment {
	m := moment{wall: clock().UnixMicro()}
	if b.now == nil {
		return m
	}
	if boot, err := b.now(); err == nil {
		m.boot, m.bootID = boot.Microseconds(), b.id
	}
	return m
}
