package rcache

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// skew is the clock skew of these tests.
const skew = 5 * time.Minute

func clockAt(t time.Time) func() time.Time { return func() time.Time { return t } }

// A host is the clocks of a host: the one that can be set, and the one that counts
// from boot.
type host struct {
	wall time.Time
	boot time.Duration
	id   byte
}

func newHost() *host { return &host{wall: start, boot: time.Hour, id: 1} }

// pass lets time go by.
func (h *host) pass(d time.Duration) { h.wall, h.boot = h.wall.Add(d), h.boot+d }

// set moves the wall clock alone.
func (h *host) set(d time.Duration) { h.wall = h.wall.Add(d) }

// cache opens the cache in dir in another process of the host.
func (h *host) cache(t *testing.T, dir string, capacity int) *Cache {
	t.Helper()
	c, err := New(dir, capacity)
	require.NoError(t, err)
	c.since = bootClock{func() (time.Duration, error) { return h.boot, nil }, [16]byte{h.id}}
	require.NoError(t, c.Prepare(h.clock))
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func (h *host) clock() time.Time { return h.wall }

// show is Insert of an authenticator that is made so long after now, negative for
// before.
func (h *host) show(c *Cache, authenticator string, after time.Duration) error {
	return c.Insert([]byte(authenticator), h.clock, h.wall.Add(after), skew)
}

// TestNewFile: a new cache takes what was made since, to the microsecond, and by
// clients whose clocks are ahead; nothing from before, in no process.
func TestNewFile(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	a := h.cache(t, dir, 0)
	b := h.cache(t, dir, 0)
	for i, c := range []*Cache{a, b} {
		require.NoError(t, h.show(c, "at once"+string(authenticator(i)), 0))
		require.ErrorIs(t, h.show(c, "just before", -time.Microsecond), ErrForgotten)
		require.ErrorIs(t, h.show(c, "before", -time.Minute), ErrForgotten)
		require.NoError(t, h.show(c, "ahead"+string(authenticator(i)), 4*time.Minute))
		require.ErrorIs(t, h.show(c, "ahead"+string(authenticator(i)), 4*time.Minute), ErrReplay)
	}
	h.pass(time.Second)
	require.NoError(t, h.show(a, "after", -time.Second))
	require.ErrorIs(t, h.show(b, "before", -time.Second-time.Microsecond), ErrForgotten)
	h.pass(2 * skew)
	require.NoError(t, h.show(h.cache(t, dir, 0), "behind", -4*time.Minute), "it is old by now")
}

// TestNewFileIsNoLoss: processes that start together on a new host take a file
// that another is about to make for no loss.
func TestNewFileIsNoLoss(t *testing.T) {
	for range 20 {
		dir := filepath.Join(t.TempDir(), "new")
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				c, err := New(dir, 0)
				assert.NoError(t, err)
				assert.NoError(t, c.Prepare(time.Now))
				assert.NoError(t, c.Insert(authenticator(i), time.Now, time.Now(), skew))
				assert.NoError(t, c.Close())
			})
		}
		wg.Wait()
	}
}

// losses are the ways to lose records while a process has the cache in use.
var losses = map[string]func(path string) error{
	"removed":                os.Remove,
	"moved away":             func(path string) error { return os.Rename(path, path+".old") },
	"directory removed":      func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	"directory moved":        func(path string) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+".old") },
	"emptied":                func(path string) error { return os.Truncate(path, 0) },
	"cut to the magic":       func(path string) error { return os.Truncate(path, int64(len(magic))) },
	"cut to the header":      func(path string) error { return os.Truncate(path, headerSize) },
	"cut to half":            func(path string) error { return os.Truncate(path, 1<<20) },
	"grown":                  func(path string) error { return os.Truncate(path, 1<<30) },
	"emptied to its size":    func(path string) error { return errors.Join(os.Truncate(path, 0), os.Truncate(path, 1<<20)) },
	"header zeroed":          func(path string) error { return poke(path, 0, make([]byte, headerSize)) },
	"capacity of nothing":    func(path string) error { return poke(path, len(magic), make([]byte, 8)) },
	"another capacity":       func(path string) error { return poke(path, len(magic), []byte{0, 0, 0, 0, 0, 0, 0, 1}) },
	"an impossible skew":     func(path string) error { return poke(path, skewOffset, []byte{0xff}) },
	"a negative skew":        func(path string) error { return poke(path, skewOffset, []byte{0x80, 0, 0, 0, 0, 0, 0, 0}) },
	"the version before":     func(path string) error { return poke(path, 0, []byte(olderMagic)) },
	"another file's header":  func(path string) error { return poke(path, saltOffset, []byte{1, 2, 3, 4}) },
	"replaced by a new file": replaceByNew,
}

// poke writes into a file at an offset.
func poke(path string, at int, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, int64(at))
	return errors.Join(err, f.Close())
}

// replaceByNew makes a new cache as a process would that had none in use.
func replaceByNew(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	c, err := New(filepath.Dir(path), 0)
	if err != nil {
		return err
	}
	return errors.Join(c.Prepare(clockAt(start.Add(time.Hour+time.Second))), c.Close())
}

// TestLoss: a process that has used a cache and finds it gone, or finds that
// another has made a new one since, refuses everything that could have been
// accepted before, in all processes, and goes on when the clock skew is over.
// The control is a cache that nothing happens to.
func TestLoss(t *testing.T) {
	for name, lose := range losses {
		for _, used := range []string{"used", "opened"} {
			t.Run(name+", "+used, func(t *testing.T) { testLoss(t, lose, used == "used") })
		}
	}
	t.Run("control", func(t *testing.T) { testLoss(t, nil, true) })
}

func testLoss(t *testing.T, lose func(string) error, used bool) {
	h, dir := newHost(), filepath.Join(t.TempDir(), "replay")
	a, b := h.cache(t, dir, 0), h.cache(t, dir, 0)
	h.pass(time.Hour)
	finder := a
	if !used { // the other process accepted it
		finder = b
	}
	ahead := h.wall.Add(4 * time.Minute) // the clock of the client is ahead
	require.NoError(t, a.Insert([]byte("ahead"), h.clock, ahead, skew))
	require.NoError(t, h.show(a, "right", 0))
	h.pass(time.Second)
	if lose != nil {
		require.NoError(t, lose(filepath.Join(dir, FileName)))
	}
	replays := func(c *Cache) (first, second error) {
		return c.Insert([]byte("ahead"), h.clock, ahead, skew), h.show(c, "right", -time.Second)
	}
	first, second := replays(finder)
	if lose == nil {
		require.ErrorIs(t, first, ErrReplay)
		require.ErrorIs(t, second, ErrReplay)
		require.NoError(t, h.show(finder, "other", 0))
		return
	}
	require.ErrorIs(t, first, ErrForgotten)
	require.ErrorIs(t, second, ErrForgotten)
	require.ErrorContains(t, first, dir)
	fresh := h.cache(t, dir, 0)
	for _, c := range []*Cache{a, b, fresh} {
		first, second := replays(c)
		require.ErrorIs(t, first, ErrForgotten)
		require.ErrorIs(t, second, ErrForgotten)
		require.ErrorIs(t, h.show(c, "an honest client", 0), ErrForgotten)
	}
	h.pass(skew + 2*time.Second)
	for i, c := range []*Cache{a, b, fresh} {
		first, _ := replays(c)
		require.ErrorIs(t, first, ErrForgotten)
		require.NoError(t, h.show(c, string(authenticator(i)), 0))
	}
}

// TestOldFilePutBack: a file from before the last use lacks what was recorded
// since, however old it is.
func TestOldFilePutBack(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	path := filepath.Join(dir, FileName)
	a := h.cache(t, dir, 0)
	require.NoError(t, h.show(a, "first", 0))
	h.pass(time.Hour)
	require.NoError(t, os.Rename(path, path+".old"))
	require.ErrorIs(t, h.show(a, "x", 0), ErrForgotten)
	h.pass(time.Hour)
	require.NoError(t, h.show(a, "x", 0))
	require.NoError(t, os.Rename(path+".old", path))
	require.ErrorIs(t, h.show(a, "x", 0), ErrForgotten)
	require.ErrorIs(t, h.show(h.cache(t, dir, 0), "x", 0), ErrForgotten)
	h.pass(skew + time.Second)
	require.NoError(t, h.show(a, "y", 0))
}

// TestLossIsFoundLate: a process that had nothing to do finds a loss that is long
// over, and nobody is refused for that.
func TestLossIsFoundLate(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	idle := h.cache(t, dir, 0)
	h.pass(time.Hour)
	require.NoError(t, os.Remove(filepath.Join(dir, FileName)))
	busy := h.cache(t, dir, 0)
	h.pass(time.Hour)
	require.NoError(t, h.show(busy, "x", 0))
	require.NoError(t, h.show(idle, "y", -4*time.Minute))
	require.NoError(t, h.show(busy, "z", -4*time.Minute))
}

// TestLossIsKept: a process that finds no usable file remembers that it had one.
func TestLossIsKept(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	path := filepath.Join(dir, FileName)
	for name, put := range map[string]func() error{
		"directory": func() error { return os.Mkdir(path, 0o700) },
		"symlink":   func() error { return os.Symlink(path+".other", path) },
		"dangling":  func() error { return os.Symlink("/nowhere", path) },
		"open file": func() error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o666)) },
		"foreign":   func() error { return os.WriteFile(path, []byte("no replay cache"), 0o600) },
		"foreign directory": func() error {
			return errors.Join(os.Remove(dir), os.Symlink(t.TempDir(), dir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.RemoveAll(dir)
			a := h.cache(t, dir, 0)
			require.NoError(t, h.show(a, "x", 0))
			require.NoError(t, os.Remove(path))
			require.NoError(t, put())
			for range 2 {
				err := h.show(a, "x", 0)
				require.Error(t, err)
				require.NotErrorIs(t, err, ErrForgotten)
			}
			require.NoError(t, os.RemoveAll(dir))
			require.ErrorIs(t, h.show(a, "x", 0), ErrForgotten)
			h.pass(skew + time.Second)
			require.NoError(t, h.show(a, "y", 0))
			h.pass(time.Hour)
		})
	}
}

// TestClockSetBack: what was accepted before the clock was ahead, and overwritten
// while it was, is refused when the clock is right again. A client that comes
// after that is accepted at once.
func TestClockSetBack(t *testing.T) {
	h, dir := newHost(), t.TempDir()
	c := h.cache(t, dir, 1)
	h.pass(time.Hour)
	require.NoError(t, h.show(c, "before", 0))
	h.pass(time.Second)
	require.NoError(t, h.show(c, "kept", 0))
	h.pass(time.Second)
	h.set(time.Hour)
	require.NoError(t, h.show(c, "while ahead", 0), "over the first record")
	h.set(-time.Hour)
	require.ErrorIs(t, h.show(c, "kept", -time.Second), ErrReplay)
	require.ErrorIs(t, h.show(c, "before", -2*time.Second), ErrForgotten)
	require.ErrorIs(t, h.show(h.cache(t, dir, 1), "before", -2*time.Second), ErrForgotten)
	require.NoError(t, h.show(c, "honest", 0))

	// In normal times nothing of it.
	h.pass(skew)
	for range 20 {
		h.pass(time.Minute)
		for i := range 30 {
			require.NoError(t, h.show(c, h.wall.String()+string(authenticator(i)), -4*time.Minute))
		}
	}
}

// TestClockAhead: what was accepted while clocks were ahead is known for as long.
func TestClockAhead(t *testing.T) {
	h := newHost()
	c := h.cache(t, t.TempDir(), 0)
	h.set(time.Hour)
	ahead := h.wall
	require.NoError(t, c.Insert([]byte("x"), h.clock, ahead, skew))
	h.set(-time.Hour)
	h.pass(time.Hour - time.Minute)
	require.ErrorIs(t, c.Insert([]byte("x"), h.clock, ahead, skew), ErrReplay)
}

// TestMadeUnderAnotherClock: a file that began when the clock was wrong begins at
// the same moment when the clock is right.
func TestMadeUnderAnotherClock(t *testing.T) {
	for _, wrong := range []time.Duration{time.Hour, -time.Hour, 20 * 365 * 24 * time.Hour, -20 * 365 * 24 * time.Hour} {
		h, dir := newHost(), t.TempDir()
		h.set(wrong)
		c := h.cache(t, dir, 0)
		h.pass(time.Minute)
		h.set(-wrong)
		require.ErrorIs(t, h.show(c, "before", -2*time.Minute), ErrForgotten)
		require.NoError(t, h.show(c, "since", -30*time.Second))
		require.NoError(t, h.show(h.cache(t, dir, 0), "now", 0))

		// And one that was lost then.
		h.set(wrong)
		require.NoError(t, os.Remove(filepath.Join(dir, FileName)))
		require.ErrorIs(t, h.show(c, "now", 0), ErrForgotten)
		h.set(-wrong)
		require.ErrorIs(t, h.show(c, "ahead", 4*time.Minute), ErrForgotten)
		h.pass(skew + time.Second)
		require.NoError(t, h.show(c, "later", 0))
	}
}

// TestReboot: a file from before a boot goes by the wall clock, and so does
// everything where the boot clock is not known.
func TestReboot(t *testing.T) {
	for _, boot := range []time.Duration{0, time.Hour + 59*time.Second, 100 * time.Hour} {
		h, dir := newHost(), t.TempDir()
		h.cache(t, dir, 0)
		h.pass(time.Minute)
		h.boot, h.id = boot, 2
		c := h.cache(t, dir, 0)
		require.ErrorIs(t, h.show(c, "before", -2*time.Minute), ErrForgotten)
		require.NoError(t, h.show(c, "since", -59*time.Second))
		unknown := h.cache(t, dir, 0)
		unknown.since = bootClock{}
		require.ErrorIs(t, h.show(unknown, "before", -2*time.Minute), ErrForgotten)
		require.NoError(t, h.show(unknown, "now", 0))
	}
}

// TestDamagedBefore: a process that finds a damaged cache knows that there was one
// in use.
func TestDamagedBefore(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"cut": losses["cut to half"], "capacity": losses["capacity of nothing"], "version before": losses["the version before"],
	} {
		t.Run(name, func(t *testing.T) {
			h, dir := newHost(), t.TempDir()
			path := filepath.Join(dir, FileName)
			require.NoError(t, h.show(h.cache(t, dir, 0), "ahead", 4*time.Minute))
			require.NoError(t, damage(path))
			c := h.cache(t, dir, 0)
			require.ErrorIs(t, h.show(c, "ahead", 4*time.Minute), ErrForgotten)
			require.ErrorIs(t, h.show(c, "honest", 0), ErrForgotten)
			h.pass(skew + time.Second)
			require.NoError(t, h.show(c, "honest", 0))
		})
	}
}
