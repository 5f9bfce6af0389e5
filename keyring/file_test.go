package keyring

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What an epoch's file must not be: an error where somebody's hand is in it,
// passed over where it is only damaged.
func TestFileRules(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, file string) error
		err   error // nil: passed over
		root  bool
	}{
		{"hard link", func(t *testing.T, f string) error { return os.Link(f, filepath.Dir(f)+"/other") }, ErrUnsafeDir, false},
		{"group may read", func(t *testing.T, f string) error { return os.Chmod(f, 0o640) }, ErrUnsafeDir, false},
		{"others may write", func(t *testing.T, f string) error { return os.Chmod(f, 0o602) }, ErrUnsafeDir, false},
		{"another's", func(t *testing.T, f string) error { return os.Chown(f, apart.Nobody, 0) }, ErrUnsafeDir, true},
		{"symbolic link", func(t *testing.T, f string) error {
			return errors.Join(os.Rename(f, filepath.Dir(f)+"/other"), os.Symlink("other", f))
		}, ErrUnsafeDir, false},
		{"pipe", func(t *testing.T, f string) error { return errors.Join(os.Remove(f), unix.Mkfifo(f, 0o600)) }, ErrUnsafeDir, false},
		{"directory", func(t *testing.T, f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o700)) }, unix.EISDIR, false},
		{"empty", func(t *testing.T, f string) error { return os.Truncate(f, 0) }, nil, false},
		{"short", func(t *testing.T, f string) error { return os.Truncate(f, pageSize-1) }, nil, false},
		{"no slots", func(t *testing.T, f string) error { return os.Truncate(f, pageSize) }, nil, false},
		{"one slot short", func(t *testing.T, f string) error { return os.Truncate(f, pageSize+16*DefaultOutstanding-8) }, nil, false},
		{"long", func(t *testing.T, f string) error { return os.Truncate(f, pageSize+16*DefaultOutstanding+8) }, nil, false},
		{"huge", func(t *testing.T, f string) error { return os.Truncate(f, 1<<40) }, nil, false},
		{"truncated and grown again", func(t *testing.T, f string) error {
			return errors.Join(os.Truncate(f, 0), os.Truncate(f, pageSize+16*DefaultOutstanding))
		}, nil, false},
		{"renamed", func(t *testing.T, f string) error {
			return os.Rename(f, filepath.Join(filepath.Dir(f), fileName(maxSeq/2)))
		}, nil, false},
		{"copied over", func(t *testing.T, f string) error {
			b, err := os.ReadFile(f)
			return errors.Join(err, os.Remove(f), os.WriteFile(f, b, 0o600))
		}, nil, false},
		{"rubbish", func(t *testing.T, f string) error { return os.WriteFile(f, make([]byte, 1<<20), 0o600) }, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root {
				apart.NeedRoot(t)
			}
			dir := shmDir(t, false)
			e := current(t, openRing(t, dir, nil))
			require.NoError(t, c.spoil(t, epochFile(dir, e)))
			r := openRing(t, dir, nil)
			if c.err != nil {
				for range 2 { // the second time too
					_, err := r.Current()
					require.ErrorIs(t, err, c.err)
					time.Sleep(2 * settleTime)
				}
				return
			}
			_, err := r.Epoch(e.ID())
			require.ErrorIs(t, err, ErrUnknown)
			next := current(t, r)
			require.NotEqual(t, e.ID(), next.ID())
			require.Greater(t, next.seq, e.seq)
		})
	}
}

// Files of other names are nobody's business.
func TestOtherFiles(t *testing.T) {
	dir := shmDir(t, false)
	for _, name := range []string{"README", "epoch-1", "epoch-00000000000000001", "epoch-000000000000000G"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	current(t, openRing(t, dir, nil))
	require.Len(t, files(t, dir), 5)
}

// Every bit of the fixed part, the MAC and the key counts.
func TestEveryBit(t *testing.T) {
	dir := shmDir(t, false)
	r := openRing(t, dir, &Options{Outstanding: 1})
	e := current(t, r)
	name := filepath.Base(epochFile(dir, e))
	load := func() error {
		copied, err := loadFile(r, name)
		if err == nil {
			require.NoError(t, copied.back.free())
		}
		return err
	}
	require.NoError(t, load())
	for _, part := range [][2]int{{0, fixedSize}, {offMAC, offMAC + hashSize}, {offState, offState + 4}, {offKey, offKey + keySize}} {
		for i := part[0]; i < part[1]; i++ {
			for bit := range 8 {
				b := &e.record.bytes()[i]
				was := *b
				*b ^= 1 << bit
				state := e.state.Load()
				err := load()
				*b = was
				if i >= offState && i < offState+4 && (state == stateClosed || state == stateDead) {
					require.NoError(t, err) // another state, not damage
					continue
				}
				require.True(t, errors.Is(err, ErrDamaged) || errors.Is(err, errOtherBoot), "byte %d bit %d: %v", i, bit, err)
			}
		}
	}
	require.NoError(t, load())
}

// An epoch of another boot is removed, and nobody gets it.
func TestOtherBoot(t *testing.T) {
	dir := shmDir(t, false)
	before := openRing(t, dir, nil)
	before.boot[3] ^= 1
	e := current(t, before)
	r := openRing(t, dir, nil)
	_, err := r.Epoch(e.ID())
	require.ErrorIs(t, err, ErrUnknown)
	require.Empty(t, files(t, dir))
	require.NotEqual(t, e.ID(), current(t, r).ID())
	_, err = e.Reserve(time.Minute)
	require.NoError(t, err, "the epoch itself was whole")
	require.ErrorIs(t, e.Claim(Slot{}), ErrRetired)
}

// ops are all operations on an epoch that touch its file. Of what they return
// only an error may tell of damage, and a derived key is the genuine one.
func ops(t *testing.T, e *Epoch, l Lease, genuine []byte) (errs map[string]error) {
	errs = map[string]error{}
	key, err := derive(e)
	if errs["Derive"] = err; err == nil {
		require.Equal(t, genuine, key)
	} else {
		require.Nil(t, key)
	}
	_, errs["Reserve"] = e.Reserve(time.Minute)
	_, errs["Holds"] = e.Holds(l.Slot)
	_, errs["Outstanding"] = e.Outstanding()
	errs["Valid"] = e.Valid(l.Expires)
	errs["Claim"] = e.Claim(l.Slot)
	e.over(l.Expires)
	require.False(t, errs["Derive"] != nil && e.open())
	return errs
}

// A file that is truncated, and grown again, while it is mapped: errors, no
// SIGBUS, never a zero key.
func TestTruncatedUnderWay(t *testing.T) {
	whole := pageSize + 16*DefaultOutstanding
	for _, c := range []struct {
		name  string
		sizes []int64
	}{
		{"to nothing", []int64{0}},
		{"to nothing and grown", []int64{0, int64(whole)}},
		{"to a byte", []int64{1}},
		{"in the record and grown", []int64{offState, int64(whole)}},
		{"behind the first page", []int64{pageSize}},
		{"behind the first page and grown", []int64{pageSize, int64(whole)}},
		{"by its last page", []int64{int64(whole) - pageSize}},
		{"by its last page and grown", []int64{int64(whole) - pageSize, int64(whole)}},
		{"by its last word and grown", []int64{int64(whole) - 8, int64(whole)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := shmDir(t, false)
			r := openRing(t, dir, nil)
			e := current(t, r)
			l, err := e.Reserve(time.Minute)
			require.NoError(t, err)
			genuine := mustDerive(t, e)
			for _, size := range c.sizes {
				require.NoError(t, os.Truncate(epochFile(dir, e), size))
			}
			errs := ops(t, e, l, genuine)
			for _, op := range []string{"Derive", "Reserve", "Holds", "Valid", "Claim"} {
				require.ErrorIs(t, errs[op], ErrDamaged, op)
			}
			_, err = r.Epoch(e.ID())
			require.Error(t, err)
			// Sealing goes on at once, here and in a ring that begins now.
			for _, r := range []*Ring{r, openRing(t, dir, nil)} {
				next := current(t, r)
				require.NotEqual(t, e.ID(), next.ID())
				_, err = next.Reserve(time.Minute)
				require.NoError(t, err)
			}
		})
	}
	// The control of guard: without it the same access is a fault, and others'
	// panics pass through it.
	require.PanicsWithValue(t, "other", func() { _ = guard(func() error { panic("other") }) })
	require.Panics(t, func() { _ = guard(func() error { var p *int; *p = 1; return nil }) })
}

// Signals that interrupt the allocation of a large file do not fail it.
func TestAllocateInterrupted(t *testing.T) {
	var stop atomic.Bool
	tid := make(chan int)
	done := make(chan bool)
	go func() {
		target := <-tid
		for !stop.Load() {
			_ = unix.Tgkill(os.Getpid(), target, syscall.SIGURG)
			runtime.Gosched()
		}
		close(done)
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid <- unix.Gettid()
	defer func() { stop.Store(true); <-done }()

	name := shmDir(t, false) + "/file"
	f, err := os.Create(name)
	require.NoError(t, err)
	defer f.Close()
	const size = 64<<20 + 123
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); !errors.Is(err, unix.EINTR) {
		require.NoError(t, err) // kernels from 6.9 on are not interrupted
	}
	require.NoError(t, f.Truncate(0))
	require.NoError(t, allocate(int(f.Fd()), size))
	st, err := f.Stat()
	require.NoError(t, err)
	require.EqualValues(t, size, st.Size())
	require.GreaterOrEqual(t, st.Sys().(*syscall.Stat_t).Blocks*512, int64(size), "sparse")
}

// A lack of descriptors is an error, and forgotten when it is over: the epoch
// that could not be read is not passed over for a new one.
func TestNoDescriptors(t *testing.T) {
	if !run(t, shmDir(t, false), nil) {
		return
	}
	dir := os.Getenv(dirVariable)
	r := openRing(t, dir, nil)
	e := current(t, openRing(t, dir, nil))
	time.Sleep(2 * settleTime)
	var was unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	fd, err := unix.Dup(0)
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(fd), Max: was.Max}))
	for range 3 {
		_, err = r.Current()
		require.ErrorIs(t, err, unix.EMFILE)
		require.NotErrorIs(t, err, ErrNoDir)
		require.ErrorContains(t, err, "ulimit -n")
		_, err = r.Epoch(e.ID())
		require.ErrorIs(t, err, unix.EMFILE)
	}
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was))
	require.Equal(t, e.ID(), current(t, r).ID())
}
