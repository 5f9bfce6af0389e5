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
	"github.com/sealctx/sealctx/internal/suite"
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
		{"one slot short", func(t *testing.T, f string) error { return os.Truncate(f, pageSize+16*defaultCapacity-8) }, nil, false},
		{"long", func(t *testing.T, f string) error { return os.Truncate(f, pageSize+16*defaultCapacity+8) }, nil, false},
		{"huge", func(t *testing.T, f string) error { return os.Truncate(f, 1<<40) }, nil, false},
		{"truncated and grown again", func(t *testing.T, f string) error {
			return errors.Join(os.Truncate(f, 0), os.Truncate(f, pageSize+16*defaultCapacity))
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
	r := openRing(t, dir, &Options{Capacity: 1})
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
				require.True(t, errors.Is(err, ErrDamaged) || errors.Is(err, ErrOtherBoot), "byte %d bit %d: %v", i, bit, err)
			}
		}
	}
	require.NoError(t, load())
}

// otherBoot is a ring of a process that sees another boot id.
func otherBoot(t *testing.T, dir string) *Ring {
	r := openRing(t, dir, nil)
	r.boot[3] ^= 1
	return r
}

// A process that sees another boot id is refused where the first one's epochs are,
// by an error that says why and what to do. It deletes nothing, and the first one
// goes on.
func TestOtherBoot(t *testing.T) {
	dir := shmDir(t, false)
	first := openRing(t, dir, nil)
	e := current(t, first)
	l, err := e.Reserve(time.Minute)
	require.NoError(t, err)
	before := files(t, dir)
	second := otherBoot(t, dir)
	for name, call := range map[string]func() error{
		"Current": func() error { _, err := second.Current(); return err },
		"Reserve": func() error { _, _, err := second.Reserve(time.Minute); return err },
		"Epoch":   func() error { _, err := second.Epoch(e.ID()); return err },
		"Epochs":  func() error { _, err := second.Epochs(); return err },
		"Rotate":  second.Rotate,
		"Retire":  func() error { return second.Retire(e.ID()) },
	} {
		for range 2 { // also when the directory need not be read again
			err := call()
			require.ErrorIs(t, err, ErrOtherBoot, name)
			require.NotErrorIs(t, err, ErrRetired, name)
			require.ErrorContains(t, err, filepath.Base(epochFile(dir, e)), name)
			require.ErrorContains(t, err, DirVariable, name)
			time.Sleep(2 * settleTime)
		}
	}
	require.Equal(t, before, files(t, dir))
	mustDerive(t, e)
	require.NoError(t, first.Rotate(), "the first one rotates as ever")
	require.NoError(t, e.ClaimFresh(l.Slot))
	require.NoError(t, first.Retire(e.ID()))
	require.NoError(t, first.Retire(current(t, first).ID()))
	_, err = second.Epoch(e.ID())
	require.ErrorIs(t, err, ErrUnknown, "the control: the directory is empty")
	current(t, second)
}

// Two processes that see different boot ids and made their first epochs at the same
// time have both. Each goes on with its own, and neither touches the other's.
func TestOtherBootBeside(t *testing.T) {
	dir := shmDir(t, false)
	first, second := openRing(t, dir, nil), otherBoot(t, dir)
	require.NoError(t, os.WriteFile(dir+"/a", nil, 0o600))
	now, err := second.clock.Now()
	require.NoError(t, err)
	require.NoError(t, second.lockFresh(now)) // it has looked, and found nothing
	second.mu.Unlock()
	require.NoError(t, os.WriteFile(dir+"/b", nil, 0o600)) // so that their first numbers differ
	mine := current(t, first)
	f := fixed{suite: suite.AES256GCM, id: [16]byte{9}, boot: second.boot, birth: now, seq: second.nextSeq(),
		outstanding: 8, age: time.Hour, maxLifetime: time.Hour}
	theirs, err := createFile(second, f)
	require.NoError(t, err)
	second.add(theirs)
	require.Len(t, files(t, dir), 4)
	for range 3 {
		for r, e := range map[*Ring]*Epoch{first: mine, second: theirs} {
			require.Equal(t, e.ID(), current(t, r).ID())
			list, err := r.Epochs()
			require.NoError(t, err)
			require.NotEmpty(t, list)
			require.NoError(t, r.Rotate())
			l, err := current(t, r).Reserve(time.Minute)
			require.NoError(t, err)
			require.NoError(t, current(t, r).ClaimFresh(l.Slot))
			_, err = r.Epoch([16]byte{1})
			require.ErrorIs(t, err, ErrUnknown)
		}
		mine, theirs = current(t, first), current(t, second)
	}
}

// What is no epoch of anybody's does not stop a ring, whatever boot it names: a
// copy, a record that is not authentic, an epoch that is dead.
func TestOtherBootOfNobody(t *testing.T) {
	for name, spoil := range map[string]func(dir string, e *Epoch) error{
		"copy": func(dir string, e *Epoch) error {
			b, err := os.ReadFile(epochFile(dir, e))
			return errors.Join(err, os.Remove(epochFile(dir, e)), os.WriteFile(epochFile(dir, e), b, 0o600))
		},
		"not authentic": func(_ string, e *Epoch) error { e.record.bytes()[offMAC] ^= 1; return nil },
		"dead":          func(_ string, e *Epoch) error { e.state.Store(stateDead); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := shmDir(t, false)
			e := current(t, otherBoot(t, dir))
			require.NoError(t, spoil(dir, e))
			current(t, openRing(t, dir, nil))
			require.Len(t, files(t, dir), 2, "and is left alone")
		})
	}
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
	errs["Claim"] = e.ClaimFresh(l.Slot)
	e.over(l.Expires)
	require.False(t, errs["Derive"] != nil && e.open())
	return errs
}

// A file that is truncated, and grown again, while it is mapped: errors, no
// SIGBUS, never a zero key.
func TestTruncatedUnderWay(t *testing.T) {
	whole := pageSize + 16*defaultCapacity
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
