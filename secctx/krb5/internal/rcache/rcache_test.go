package rcache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/apart"
)

// Environment of the test binary when it plays another process.
const (
	roleVar = "RCACHE_TEST_ROLE"
	dirVar  = "RCACHE_TEST_DIR"
)

// racers is how many authenticators the racing processes fight over.
const racers = 500

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "insert":
		c, err := openCache(os.Getenv(dirVar), 0)
		exitOn(err)
		_, _ = os.Stdin.Read(make([]byte, 1)) // the start signal
		now := time.Now()
		fmt.Println(race(func(b []byte) error { return insert(c, b, now, now, time.Minute) }))
	case "careless":
		c, err := openCache(os.Getenv(dirVar), 0)
		exitOn(err)
		_, _ = os.Stdin.Read(make([]byte, 1))
		fmt.Println(race(func(b []byte) error { return carelessInsert(c, b) }))
	case "limited":
		signal.Ignore(syscall.SIGXFSZ)
		c, err := New(os.Getenv(dirVar), 0)
		exitOn(err)
		exitOn(unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: headerSize, Max: headerSize}))
		now := time.Now()
		fmt.Println(c.Insert(authenticator(0), time.Now, now, time.Minute))
	case "hold":
		c, err := openCache(os.Getenv(dirVar), 0)
		exitOn(err)
		exitOn(c.lock(time.Now().Add(LockTimeout)))
		fmt.Println("held")
		_, _ = os.Stdin.Read(make([]byte, 1))
	}
}

// openCache is New, with the file open, that of a cache that has been there for
// ever.
func openCache(dir string, capacity int) (*Cache, error) {
	c, err := New(dir, capacity)
	if err == nil {
		err = c.open(time.Now().Add(LockTimeout), time.Now)
	}
	if err != nil {
		return c, err
	}
	m, err := c.head.memory()
	if err != nil {
		return c, err
	}
	m.began = moment{}
	return c, c.remember(m)
}

// insert is Insert while the clock stands still.
func insert(c *Cache, authenticator []byte, now, made time.Time, skew time.Duration) error {
	return c.Insert(authenticator, func() time.Time { return now }, made, skew)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func authenticator(i int) []byte {
	return binary.BigEndian.AppendUint64([]byte("authenticator"), uint64(i))
}

// race tries all authenticators from 4 goroutines and counts those accepted.
func race(insert func([]byte) error) int64 {
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range racers {
				switch err := insert(authenticator(i)); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, ErrReplay):
					exitOn(err)
				}
			}
		})
	}
	wg.Wait()
	return won.Load()
}

// carelessInsert is Insert without the lock: check, then insert.
func carelessInsert(c *Cache, b []byte) error {
	hash, at := c.hash(b)
	off := int64(headerSize + at*recordSize)
	buf := make([]byte, recordSize)
	if _, err := c.f.ReadAt(buf, off); err != nil {
		return err
	}
	if bytes.Equal(buf[:hashSize], hash[:]) {
		return ErrReplay
	}
	copy(buf, hash[:])
	_, err := c.f.WriteAt(buf, off)
	return err
}

// run races processes over one cache and returns how many inserts succeeded.
func run(t *testing.T, role string, processes int) int {
	dir := t.TempDir()
	var cmds []*exec.Cmd
	var outs []*bytes.Buffer
	var start []interface{ Close() error }
	for range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"="+role, dirVar+"="+dir)
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = out, os.Stderr
		require.NoError(t, cmd.Start())
		cmds, outs, start = append(cmds, cmd), append(outs, out), append(start, in)
	}
	for _, s := range start {
		require.NoError(t, s.Close())
	}
	total := 0
	for i, cmd := range cmds {
		require.NoError(t, cmd.Wait())
		n, err := strconv.Atoi(string(bytes.TrimSpace(outs[i].Bytes())))
		require.NoError(t, err)
		total += n
	}
	return total
}

// TestAtomicReplayCache: of all processes and goroutines that show the same
// authenticator exactly one is served. The control, a cache that checks and
// inserts in two steps, fails this.
func TestAtomicReplayCache(t *testing.T) {
	require.Equal(t, racers, run(t, "insert", 4))

	caught := false
	for range 5 {
		if run(t, "careless", 4) > racers {
			caught = true
			break
		}
	}
	require.True(t, caught, "the careless cache was not caught")
}

func open(t *testing.T, capacity int) *Cache {
	c, err := openCache(t.TempDir(), capacity)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

var start = time.Unix(1_800_000_000, 0)

func TestInsert(t *testing.T) {
	c := open(t, 0)
	require.NoError(t, insert(c, []byte("a"), start, start, time.Minute))
	require.ErrorIs(t, insert(c, []byte("a"), start, start, time.Minute), ErrReplay)
	require.NoError(t, insert(c, []byte("b"), start, start, time.Minute))
	require.ErrorIs(t, insert(c, []byte("a"), start.Add(time.Minute), start, time.Minute), ErrReplay, "to the last second")
	require.NoError(t, insert(c, []byte("a"), start.Add(time.Minute+2*time.Second), start, time.Minute), "expired")
}

// TestShared: what one process recorded another finds, a restarted one too.
func TestShared(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	a, err := openCache(dir, 1000)
	require.NoError(t, err)
	b, err := openCache(dir, 5)
	require.NoError(t, err)
	require.Equal(t, uint64(1000), b.capacity, "an existing cache keeps its size")
	require.NoError(t, insert(a, []byte("x"), start, start, time.Minute))
	require.ErrorIs(t, insert(b, []byte("x"), start, start, time.Minute), ErrReplay)
	require.NoError(t, a.Close())
	require.NoError(t, a.Close())
	require.ErrorIs(t, insert(a, []byte("y"), start, start, time.Minute), ErrUnavailable)
	require.NoError(t, b.Close())
	c, err := openCache(dir, 0)
	require.NoError(t, err)
	require.ErrorIs(t, insert(c, []byte("x"), start, start, time.Minute), ErrReplay)
	require.NoError(t, c.Close())
}

// TestFull: without room an authenticator is refused, and room comes back.
func TestFull(t *testing.T) {
	c := open(t, 1)
	for i := range window {
		require.NoError(t, insert(c, authenticator(i), start, start, time.Minute))
	}
	require.ErrorIs(t, insert(c, authenticator(window), start, start, time.Minute), ErrFull)
	require.ErrorIs(t, insert(c, authenticator(0), start, start, time.Minute), ErrReplay, "full, but a replay first of all")
	later := start.Add(time.Hour)
	for i := range window {
		require.NoError(t, insert(c, authenticator(window+i), later, later, time.Minute))
	}
}

// TestSpread: two thirds of the capacity can be used before one window is full.
func TestSpread(t *testing.T) {
	c := open(t, 1<<14)
	for i := range 1 << 14 * 2 / 3 {
		require.NoError(t, insert(c, authenticator(i), start, start, time.Minute))
	}
}

// TestRemoved: a file that somebody removed, moved away or emptied is made anew,
// and all processes write to the new one, once it is trusted again.
func TestRemoved(t *testing.T) {
	for name, remove := range map[string]func(path string) error{
		"removed":    os.Remove,
		"moved away": func(path string) error { return os.Rename(path, path+".old") },
		"emptied":    func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			a, err := openCache(dir, 0)
			require.NoError(t, err)
			defer a.Close()
			require.NoError(t, remove(filepath.Join(dir, FileName)))
			b, err := New(dir, 1000)
			require.NoError(t, err)
			defer b.Close()
			require.ErrorIs(t, insert(a, []byte("x"), start, start, time.Minute), ErrForgotten)
			later := start.Add(2 * time.Minute)
			require.NoError(t, insert(a, []byte("x"), start, later, time.Minute))
			require.ErrorIs(t, insert(b, []byte("x"), start, later, time.Minute), ErrReplay)
			require.NoError(t, insert(b, []byte("y"), start, later, time.Minute))
			require.ErrorIs(t, insert(a, []byte("y"), start, later, time.Minute), ErrReplay)
		})
	}
}

// TestChdir: a program that goes to another directory keeps its cache.
func TestChdir(t *testing.T) {
	base := t.TempDir()
	t.Chdir(base)
	c, err := New("replay", 0)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, insert(c, []byte("x"), start, start, time.Minute))
	t.Chdir(t.TempDir())
	require.ErrorIs(t, insert(c, []byte("x"), start, start, time.Minute), ErrReplay)
	require.FileExists(t, filepath.Join(base, "replay", FileName))
}

// TestGaveUpPrivileges: a process that may no longer look into the directory goes
// on with the file that is open, until that has no name any more.
func TestGaveUpPrivileges(t *testing.T) {
	if !apart.Run(t, apart.PlainUser) { // root may always look
		return
	}
	for _, removed := range []bool{false, true} {
		c := open(t, 0)
		require.NoError(t, insert(c, []byte("x"), start, start, time.Minute))
		if removed {
			require.NoError(t, os.Remove(c.f.Name()))
		}
		require.NoError(t, os.Chmod(c.dir, 0))
		defer os.Chmod(c.dir, 0o700)
		if removed {
			require.ErrorIs(t, insert(c, []byte("y"), start, start, time.Minute), os.ErrPermission)
			continue
		}
		require.NoError(t, insert(c, []byte("y"), start, start, time.Minute))
		require.ErrorIs(t, insert(c, []byte("x"), start, start, time.Minute), ErrReplay)
	}
}

func TestUnsafePlaces(t *testing.T) {
	base := t.TempDir()
	dir := func(name string, mode os.FileMode) string {
		d := filepath.Join(base, name)
		require.NoError(t, os.Mkdir(d, 0o700))
		require.NoError(t, os.Chmod(d, mode))
		return d
	}
	_, err := openCache(dir("group", 0o770), 0)
	require.ErrorIs(t, err, ErrUnsafe)
	_, err = openCache(dir("world", 0o1777), 0)
	require.ErrorIs(t, err, ErrUnsafe)

	require.NoError(t, os.Symlink(dir("target", 0o700), filepath.Join(base, "link")))
	_, err = openCache(filepath.Join(base, "link"), 0)
	require.ErrorIs(t, err, ErrUnsafe)

	d := dir("linked file", 0o700)
	require.NoError(t, os.Symlink("/dev/null", filepath.Join(d, FileName)))
	_, err = openCache(d, 0)
	require.ErrorIs(t, err, syscall.ELOOP)

	d = dir("open file", 0o700)
	require.NoError(t, os.WriteFile(filepath.Join(d, FileName), nil, 0o600))
	require.NoError(t, os.Chmod(filepath.Join(d, FileName), 0o666))
	_, err = openCache(d, 0)
	require.ErrorIs(t, err, ErrUnsafe)

	_, err = openCache(filepath.Join(base, "no", "parent"), 0)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = openCache(dir("capacity", 0o700), -1)
	require.Error(t, err)
}

func TestOtherOwner(t *testing.T) {
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(t.TempDir(), &st))
	require.NoError(t, checkOwner("dir", &st, unix.S_IFDIR))
	st.Uid++
	require.ErrorIs(t, checkOwner("dir", &st, unix.S_IFDIR), ErrUnsafe)
}

// TestForeignFile: a file that is no replay cache, or one of a later version, is
// left as it is.
func TestForeignFile(t *testing.T) {
	for name, content := range map[string][]byte{
		"short":         []byte("sealctx"),
		"other file":    bytes.Repeat([]byte{'x'}, 4096),
		"later version": append([]byte("sealctx-rcache-4"), make([]byte, 4096)...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, FileName)
			require.NoError(t, os.WriteFile(path, content, 0o600))
			c, err := New(dir, 0)
			require.NoError(t, err)
			defer c.Close()
			err = insert(c, []byte("x"), start, start, time.Minute)
			require.ErrorIs(t, err, ErrUnavailable)
			require.ErrorContains(t, err, path)
			require.ErrorIs(t, c.Prepare(time.Now), ErrUnavailable)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, content, b)
		})
	}
}

// TestMakerCrashed: a file without a header is a new one.
func TestMakerCrashed(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, FileName), make([]byte, 5000), 0o600))
	c, err := New(dir, 100)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Prepare(clockAt(start)))
	require.NoError(t, insert(c, []byte("x"), start, start, time.Minute))
	require.ErrorIs(t, insert(c, []byte("y"), start, start.Add(-time.Second), time.Minute), ErrForgotten)
}

// TestFullDisk: what cannot be written is not accepted, and hinders nobody later.
// The disk is a process's limit on the size of files.
func TestFullDisk(t *testing.T) {
	for _, made := range []bool{true, false} {
		dir := t.TempDir()
		if made {
			c, err := openCache(dir, 0)
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"=limited", dirVar+"="+dir)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "file too large", "made before: %v", made)
		c, err := New(dir, 0)
		require.NoError(t, err)
		require.NoError(t, c.Prepare(time.Now))
		require.NoError(t, c.Insert(authenticator(0), time.Now, time.Now(), time.Minute))
		require.NoError(t, c.Close())
	}
}

// TestStoppedHolder: a process that is stopped with the lock makes others fail
// in bounded time, and hinders nobody once it is gone.
func TestStoppedHolder(t *testing.T) {
	dir := t.TempDir()
	c, err := openCache(dir, 0)
	require.NoError(t, err)
	defer c.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"=hold", dirVar+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 4))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	began := time.Now()
	require.ErrorIs(t, insert(c, []byte("x"), start, start, time.Minute), ErrUnavailable)
	require.WithinDuration(t, began.Add(LockTimeout), time.Now(), 2*time.Second)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.NoError(t, insert(c, []byte("x"), start, start, time.Minute))
}

// TestQueueIsBounded: many that wait behind a stopped holder fail together, not
// one after the other; those that find the file not open yet, too.
func TestQueueIsBounded(t *testing.T) {
	for name, open := range map[string]func(string, int) (*Cache, error){"open": openCache, "new": New} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			holder, err := openCache(dir, 0)
			require.NoError(t, err)
			defer holder.Close()
			c, err := open(dir, 0)
			require.NoError(t, err)
			require.NoError(t, holder.lock(time.Now().Add(LockTimeout)))
			began := time.Now()
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() { assert.ErrorIs(t, insert(c, authenticator(i), start, start, time.Minute), ErrUnavailable) })
			}
			wg.Wait()
			require.WithinDuration(t, began.Add(LockTimeout), time.Now(), 2*time.Second)
			holder.unlock()
			require.NoError(t, insert(c, authenticator(0), start, start, time.Minute))
			require.NoError(t, c.Close())
		})
	}
}

// TestSkews: of those who share a file each is safe with its own clock skew.
func TestSkews(t *testing.T) {
	const small, large = time.Second, 5 * time.Minute
	at := func(d time.Duration) time.Time { return start.Add(d) }
	t.Run("the small one records, the large one checks", func(t *testing.T) {
		c := open(t, 0)
		require.NoError(t, insert(c, []byte("other"), start, start, large))
		require.NoError(t, insert(c, []byte("x"), start, start, small))
		require.ErrorIs(t, insert(c, []byte("x"), at(4*time.Second), start, large), ErrReplay)
		require.ErrorIs(t, insert(c, []byte("x"), at(large), start, large), ErrReplay)
	})
	t.Run("the small one does not write over what the large one needs", func(t *testing.T) {
		c := open(t, 1)
		for i := range window {
			require.NoError(t, insert(c, authenticator(i), start, start, large))
		}
		require.ErrorIs(t, insert(c, []byte("x"), at(time.Minute), at(time.Minute), small), ErrFull)
		require.ErrorIs(t, insert(c, authenticator(0), at(time.Minute), start, large), ErrReplay)
	})
	t.Run("the largest", func(t *testing.T) {
		c := open(t, 0)
		require.NoError(t, insert(c, []byte("x"), start, start, math.MaxInt64))
		require.ErrorIs(t, insert(c, []byte("x"), at(large), start, math.MaxInt64), ErrReplay)
	})
	t.Run("with a fraction", func(t *testing.T) {
		c := open(t, 0)
		made, skew := at(999*time.Millisecond), 1500*time.Millisecond
		require.NoError(t, insert(c, []byte("x"), made, made, skew))
		require.ErrorIs(t, insert(c, []byte("x"), made.Add(skew), made, skew), ErrReplay)
	})
	t.Run("raised under way", func(t *testing.T) {
		c := open(t, 1)
		require.NoError(t, insert(c, []byte("x"), start, start, small))
		for i := range window { // over the record of x, which the small one needs no longer
			require.NoError(t, insert(c, authenticator(i), at(4*time.Second), at(4*time.Second), small))
		}
		require.ErrorIs(t, insert(c, []byte("x"), at(6*time.Second), start, large), ErrForgotten)
		require.ErrorIs(t, insert(c, authenticator(0), at(6*time.Second), at(4*time.Second), large), ErrReplay)
		require.ErrorIs(t, insert(c, authenticator(window), at(6*time.Second), at(4*time.Second), large), ErrForgotten)
		require.ErrorIs(t, insert(c, []byte("x"), at(7*time.Second), start, large), ErrForgotten)
		require.NoError(t, insert(c, []byte("y"), at(2*large), at(2*large), large))
	})
}

func BenchmarkInsert(b *testing.B) {
	c, err := openCache(b.TempDir(), 0)
	require.NoError(b, err)
	defer c.Close()
	i := 0
	for b.Loop() {
		if err := insert(c, authenticator(i), start, start, time.Minute); err != nil {
			b.Fatal(err)
		}
		i++
		if i == DefaultCapacity/2 {
			b.StopTimer()
			require.NoError(b, os.Remove(c.f.Name()))
			b.StartTimer()
			i = 0
		}
	}
}
