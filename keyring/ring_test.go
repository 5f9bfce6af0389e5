package keyring

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// eachKind runs f over a ring of files and one of memory.
func eachKind(t *testing.T, o *Options, f func(t *testing.T, r *Ring)) {
	t.Run("Open", func(t *testing.T) { f(t, openRing(t, shmDir(t, false), o)) })
	t.Run("New", func(t *testing.T) { f(t, newRingT(t, o)) })
}

// files are the names in a ring's directory.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

// makeOlder makes an epoch look older by d, to this process.
func (e *Epoch) makeOlder(d time.Duration) {
	e.birth -= d
	if at := e.closedAt.Load(); at != 0 {
		e.closedAt.Store(at - int64(d)) // before boot, on a host that is up for less; never zero, which is open
	}
}

func TestReserveAndClaim(t *testing.T) {
	eachKind(t, &Options{MaxLifetime: time.Minute, Capacity: 4}, func(t *testing.T, r *Ring) {
		e := current(t, r)
		require.Equal(t, time.Minute, e.MaxLifetime())
		require.Equal(t, suite.Default(), e.Suite())
		for _, d := range []time.Duration{0, -1, time.Minute + 1, -1 << 63, 1<<63 - 1} {
			_, err := e.Reserve(d)
			require.Error(t, err, d)
		}
		before, err := r.Now()
		require.NoError(t, err)
		l, err := e.Reserve(time.Minute)
		require.NoError(t, err)
		require.Equal(t, time.Minute, l.Expires-l.Issued)
		require.InDelta(t, before, l.Issued, float64(time.Second))
		held, err := e.Holds(l.Slot)
		require.NoError(t, err)
		require.True(t, held)
		n, err := e.Outstanding()
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.NoError(t, e.Valid(l.Expires))
		require.ErrorIs(t, e.Valid(before), ErrExpired)

		require.NoError(t, e.ClaimFresh(l.Slot))
		require.ErrorIs(t, e.ClaimFresh(l.Slot), ErrSpent)
		held, err = e.Holds(l.Slot)
		require.NoError(t, err)
		require.False(t, held)

		for range 4 {
			_, err = e.Reserve(time.Minute)
			require.NoError(t, err)
		}
		_, err = e.Reserve(time.Minute)
		require.ErrorIs(t, err, ErrFull)
	})
}

// The words on the file's clock: a token is not taken over before its last
// second has passed.
func TestTakeOver(t *testing.T) {
	eachKind(t, &Options{Capacity: 1}, func(t *testing.T, r *Ring) {
		e := current(t, r)
		l, err := e.Reserve(2 * time.Second)
		require.NoError(t, err)
		_, err = e.Reserve(2 * time.Second)
		require.ErrorIs(t, err, ErrFull)
		var next Lease
		eventually(t, "the slot to come back", func() bool {
			next, err = e.Reserve(2 * time.Second)
			return err == nil
		})
		require.GreaterOrEqual(t, next.Issued, l.Expires, "taken over alive")
		require.Less(t, next.Issued, l.Expires+3*time.Second)
		require.ErrorIs(t, e.Valid(l.Expires), ErrExpired)
		require.ErrorIs(t, e.ClaimFresh(l.Slot), ErrSpent)
		require.NoError(t, e.ClaimFresh(next.Slot))
	})
}

// A token is good until the instant at which it expires, and not at it.
func TestExactlyAtExpiry(t *testing.T) {
	eachKind(t, nil, func(t *testing.T, r *Ring) {
		e := current(t, r)
		l, err := e.Reserve(time.Minute)
		require.NoError(t, err)
		require.NoError(t, e.validAt(l.Expires, l.Issued))
		require.NoError(t, e.validAt(l.Expires, l.Expires-1))
		require.ErrorIs(t, e.validAt(l.Expires, l.Expires), ErrExpired)
		require.ErrorIs(t, e.validAt(l.Expires, l.Expires+1), ErrExpired)
	})
}

// The register counts in whole seconds, and rounds so that no slot is taken over
// before its token has expired.
func TestRounding(t *testing.T) {
	const second, ns = time.Second, time.Nanosecond
	r := newRingT(t, &Options{Capacity: 1, MaxLifetime: time.Hour})
	e := current(t, r)
	e.birth = 100*second + 7*ns
	for _, c := range []struct {
		issued, lifetime time.Duration // issued after the epoch's birth
		expiry           uint64        // in the word
	}{
		{0, ns, 1},
		{0, second - ns, 1},
		{0, second, 2},
		{0, second + ns, 2},
		{second - ns, ns, 2},
		{second - ns, 2 * ns, 2},
		{10*second + second/2, 30 * second, 41},
		{10*second + second/2, 30*second + second/2, 42},
		{10 * second, 30*second - ns, 40},
		{-ns, 2 * ns, 1}, // the clock of another process is behind by less than a millisecond
	} {
		now := e.birth + c.issued
		l, err := e.reserve(c.lifetime, now)
		require.NoError(t, err)
		require.Equal(t, now, l.Issued)
		require.Equal(t, now+c.lifetime, l.Expires)
		require.Equal(t, c.expiry, word(l.Word).expiry(), "%v + %v", c.issued, c.lifetime)
		other := 1 - l.Index
		e.reg.slots[other] = uint64(makeWord(maxGen, 0, slotSpent))
		free := e.birth + time.Duration(c.expiry+1)*second // the first moment at which the slot can be taken over
		require.Greater(t, free, l.Expires)
		require.LessOrEqual(t, free-l.Expires, 2*second)
		for _, at := range []time.Duration{l.Issued, l.Expires - ns, l.Expires, free - ns} {
			_, err = e.reg.take(e.second(at), maxExpiry)
			require.ErrorIs(t, err, ErrFull, "taken over at %v", at)
		}
		s, err := e.reg.take(e.second(free), maxExpiry)
		require.NoError(t, err)
		require.Equal(t, l.Index, s.Index)
		e.reg.slots[other] = freshWord
		e.reg.slots[l.Index] = freshWord
		e.reg.count.Store(0)
	}
}

// A claim looks at the epoch's state before the register: of an epoch that is dead or
// damaged, and whose slots nobody has swept yet, nothing is claimed.
func TestClaimLooksAtState(t *testing.T) {
	eachKind(t, nil, func(t *testing.T, r *Ring) {
		e := current(t, r)
		l, err := e.Reserve(time.Minute)
		require.NoError(t, err)
		now, err := r.Now()
		require.NoError(t, err)
		for state, want := range map[uint32]error{stateDead: ErrRetired, 0: ErrDamaged, 4: ErrDamaged} {
			e.state.Store(state)
			require.ErrorIs(t, e.ClaimFresh(l.Slot), want)
			require.ErrorIs(t, e.ClaimRecent(l.Slot, now), want)
			require.ErrorIs(t, e.Valid(l.Expires), want)
			_, err = e.Holds(l.Slot)
			require.ErrorIs(t, err, want)
			_, err = e.Reserve(time.Minute)
			require.ErrorIs(t, err, want)
			_, err = derive(e)
			require.ErrorIs(t, err, want)
			require.EqualValues(t, l.Word, e.reg.slots[l.Index], "it was claimed")
		}
		for _, state := range []uint32{stateOpen, stateClosed} {
			e.state.Store(state)
			require.NoError(t, e.ClaimFresh(l.Slot), "the control")
			e.reg.slots[l.Index] = l.Word
			require.NoError(t, e.ClaimRecent(l.Slot, now), "the control")
			e.reg.slots[l.Index] = l.Word
		}
		e.state.Store(stateOpen)
	})
}

func TestRotateByHand(t *testing.T) {
	eachKind(t, nil, func(t *testing.T, r *Ring) {
		a := current(t, r)
		key := mustDerive(t, a)
		l, err := a.Reserve(time.Minute)
		require.NoError(t, err)
		require.NoError(t, r.Rotate())
		b := current(t, r)
		require.NotEqual(t, a.ID(), b.ID())
		require.NotEqual(t, key, mustDerive(t, b))
		_, err = a.Reserve(time.Minute)
		require.ErrorIs(t, err, errNotOpen)

		again, err := r.Epoch(a.ID())
		require.NoError(t, err)
		defer again.Release()
		require.Equal(t, key, mustDerive(t, again))
		require.NoError(t, again.ClaimFresh(l.Slot), "a closed epoch still opens")
	})
}

// By age: an epoch seals for Age, and is retired MaxLifetime after it was
// closed, in real seconds.
func TestRotateByAge(t *testing.T) {
	eachKind(t, &Options{Age: time.Second, MaxLifetime: time.Second}, func(t *testing.T, r *Ring) {
		a := current(t, r)
		start := time.Now()
		l, err := a.Reserve(time.Second)
		require.NoError(t, err)
		for time.Since(start) < 900*time.Millisecond {
			e, err := r.Current()
			require.NoError(t, err)
			require.Equal(t, a.ID(), e.ID())
			e.Release()
			time.Sleep(50 * time.Millisecond)
		}
		var b *Epoch
		eventually(t, "the rotation", func() bool {
			if b != nil {
				b.Release()
			}
			b, err = r.Current()
			require.NoError(t, err)
			return b.ID() != a.ID()
		})
		b.Release()
		rotated := time.Now()
		require.ErrorIs(t, a.ClaimFresh(Slot{l.Index, l.Word + 1}), ErrSpent)
		eventually(t, "the retirement", func() bool {
			e, err := r.Current()
			require.NoError(t, err)
			e.Release()
			_, err = derive(a)
			return errors.Is(err, ErrRetired)
		})
		require.Greater(t, time.Since(rotated), 900*time.Millisecond, "retired with a token alive")
		require.ErrorIs(t, a.ClaimFresh(l.Slot), ErrRetired)
		_, err = r.Epoch(a.ID())
		require.Error(t, err)
		require.Equal(t, make([]byte, keySize), a.record.key())
	})
}

// The same with a clock that leaps, at the default ages.
func TestAges(t *testing.T) {
	eachKind(t, nil, func(t *testing.T, r *Ring) {
		a := current(t, r)
		a.makeOlder(defaultAge - time.Second)
		require.Equal(t, a.ID(), current(t, r).ID())
		a.makeOlder(time.Second)
		b := current(t, r)
		require.NotEqual(t, a.ID(), b.ID())
		a.makeOlder(defaultMaxLifetime - time.Second)
		current(t, r)
		_, err := derive(a)
		require.NoError(t, err)
		a.makeOlder(time.Second)
		require.Equal(t, b.ID(), current(t, r).ID())
		_, err = derive(a)
		require.ErrorIs(t, err, ErrRetired)
	})
}

func TestRetire(t *testing.T) {
	eachKind(t, nil, func(t *testing.T, r *Ring) {
		a := current(t, r)
		l, err := a.Reserve(time.Minute)
		require.NoError(t, err)
		require.NoError(t, r.Retire(a.ID()))
		require.Equal(t, make([]byte, keySize), a.record.key(), "the key outlives its register")
		for _, w := range a.reg.slots {
			require.EqualValues(t, slotSpent, word(w).state())
		}
		key, err := derive(a)
		require.ErrorIs(t, err, ErrRetired)
		require.Nil(t, key, "nothing is lent of a dead key")
		require.ErrorIs(t, a.ClaimFresh(l.Slot), ErrRetired)
		_, err = a.Reserve(time.Minute)
		require.ErrorIs(t, err, ErrRetired, "and not full")
		_, err = a.Holds(l.Slot)
		require.ErrorIs(t, err, ErrRetired)
		require.ErrorIs(t, a.Valid(l.Expires), ErrRetired)
		n, err := a.Outstanding()
		require.NoError(t, err)
		require.Zero(t, n)
		if r.dir != nil {
			require.Empty(t, files(t, r.Dir()))
		}
		require.NotEqual(t, a.ID(), current(t, r).ID())
		require.Error(t, r.Retire(a.ID()))
		require.ErrorIs(t, r.Retire([16]byte{1}), ErrUnknown)
	})
}

func TestMaxEpochs(t *testing.T) {
	eachKind(t, nil, func(t *testing.T, r *Ring) {
		first, err := r.Current()
		require.NoError(t, err)
		for range MaxEpochs - 1 {
			require.NoError(t, r.Rotate())
			e, err := r.Current()
			require.NoError(t, err)
			_, err = e.Reserve(time.Minute)
			require.NoError(t, err)
			e.Release()
		}
		require.ErrorIs(t, r.Rotate(), ErrFull)
		last := current(t, r)
		last.makeOlder(defaultAge)
		require.Equal(t, last.ID(), current(t, r).ID(), "better an old epoch than none")
		_, err = last.Reserve(time.Minute)
		require.NoError(t, err)
		mustDerive(t, first)
		require.NoError(t, r.Retire(first.ID()))
		first.Release()
		require.NoError(t, r.Rotate())
		require.ErrorIs(t, r.Rotate(), ErrFull)
	})
}

// Rings of one directory, as processes have them: what one does the others see.
func TestSharedDirectory(t *testing.T) {
	dir := shmDir(t, false)
	a, b := openRing(t, dir, nil), openRing(t, dir, &Options{Capacity: 7})
	e := current(t, a)
	same := current(t, b)
	require.Equal(t, e.ID(), same.ID())
	require.Equal(t, mustDerive(t, e), mustDerive(t, same))
	require.Equal(t, defaultCapacity, same.outstanding, "an adopted epoch keeps what it was born with")

	l, err := e.Reserve(time.Minute)
	require.NoError(t, err)
	require.NoError(t, same.ClaimFresh(l.Slot))
	require.ErrorIs(t, e.ClaimFresh(l.Slot), ErrSpent)

	l, err = e.Reserve(time.Minute)
	require.NoError(t, err)
	require.NoError(t, b.Rotate())
	require.Equal(t, current(t, b).ID(), current(t, a).ID())
	_, err = e.Reserve(time.Minute)
	require.ErrorIs(t, err, errNotOpen)

	require.NoError(t, b.Retire(e.ID()))
	require.ErrorIs(t, e.ClaimFresh(l.Slot), ErrRetired)
	_, err = a.Epoch(e.ID())
	require.ErrorIs(t, err, ErrRetired)
}

// A number does not come again in a directory that was emptied: whoever was
// stopped while he removed an epoch by its name removes no other.
func TestNumberOnce(t *testing.T) {
	dir := shmDir(t, false)
	old := current(t, openRing(t, dir, nil))
	m := old.back.(*mapped)
	require.NoError(t, m.linked()) // one that retires it looks, and is stopped
	require.NoError(t, openRing(t, dir, nil).Retire(old.ID()))
	fresh := current(t, openRing(t, dir, nil))
	l, err := fresh.Reserve(time.Minute)
	require.NoError(t, err)
	require.ErrorIs(t, unix.Unlinkat(int(m.dir.Fd()), m.name, 0), unix.ENOENT) // and goes on
	require.NoError(t, fresh.ClaimFresh(l.Slot))
}

// A retirement removes the epoch's own file and no other that has come to its name.
func TestRetireRemovesItsOwn(t *testing.T) {
	dir := shmDir(t, false)
	r := openRing(t, dir, nil)
	e := current(t, r)
	name := epochFile(dir, e)
	require.NoError(t, os.Rename(name, name+"-moved"))
	require.NoError(t, os.WriteFile(name, []byte("another's"), 0o600))
	require.NoError(t, r.Retire(e.ID()))
	require.FileExists(t, name)
	require.NoError(t, os.Remove(name))

	e = current(t, openRing(t, dir, nil))
	require.NoError(t, e.ring.Retire(e.ID()))
	require.NoFileExists(t, epochFile(dir, e), "the control")
}

// successor makes an epoch with the number of one that was removed, and waits
// until the directory's clock has moved on.
func successor(t *testing.T, dir string, old *Epoch) *Epoch {
	r := openRing(t, dir, nil)
	r.lastSeq = old.seq - 1
	fresh := current(t, r)
	require.Equal(t, old.seq, fresh.seq)
	time.Sleep(2 * settleTime)
	return fresh
}

// A process is stopped between looking at its epochs and reading the directory, in
// which another epoch has come to the name of one: it finds that one too.
func TestRefilledMeanwhile(t *testing.T) {
	dir := shmDir(t, false)
	r := openRing(t, dir, nil)
	old := current(t, r)
	time.Sleep(2 * settleTime)
	now, err := r.clock.Now()
	require.NoError(t, err)
	r.mu.Lock()
	require.NoError(t, r.prune(now))
	require.NoError(t, os.Remove(epochFile(dir, old)))
	fresh := successor(t, dir, old)
	require.NoError(t, r.adopt(now))
	r.mu.Unlock()
	found, err := r.Epoch(fresh.ID())
	require.NoError(t, err)
	found.Release()
}

// An importer that never seals finds the epoch that took a removed one's number
// all the same, however long after.
func TestNumberTakenAgain(t *testing.T) {
	dir := shmDir(t, false)
	importer := openRing(t, dir, nil)
	old := current(t, openRing(t, dir, nil))
	e, err := importer.Epoch(old.ID())
	require.NoError(t, err)
	defer e.Release()
	require.NoError(t, os.Remove(epochFile(dir, old)))

	fresh := successor(t, dir, old)
	_, err = importer.Epoch([16]byte{1})
	require.ErrorIs(t, err, ErrUnknown)
	found, err := importer.Epoch(fresh.ID())
	require.NoError(t, err)
	found.Release()
	require.ErrorIs(t, e.ClaimFresh(Slot{}), ErrRetired)
}

// Two changes of the directory within one tick of its clock are both seen.
func TestChangesWithinATick(t *testing.T) {
	dir := shmDir(t, false)
	a, b := openRing(t, dir, nil), openRing(t, dir, nil)
	for range 200 {
		e, err := a.Current()
		require.NoError(t, err)
		same, err := b.Epoch(e.ID())
		require.NoError(t, err)
		require.NoError(t, a.Retire(e.ID()))
		require.ErrorIs(t, same.ClaimFresh(Slot{}), ErrRetired)
		same.Release()
		e.Release()
	}
}

// A rotation and a retirement that leave the directory's time as it was, because they
// fall into the tick of its clock in which it was last read, are seen all the same.
func TestRotationWithinATick(t *testing.T) {
	dir := shmDir(t, false)
	a, b := openRing(t, dir, nil), openRing(t, dir, nil)
	old := current(t, a)
	// freeze has b read the directory in the tick in which it changed, and returns what
	// sets the directory's time back to then.
	freeze := func() (back func()) {
		for deadline := time.Now().Add(time.Minute); ; {
			require.True(t, time.Now().Before(deadline), "the directory's time is trusted at once")
			at := time.Now()
			require.NoError(t, os.Chtimes(dir, at, at))
			now, err := b.Now()
			require.NoError(t, err)
			require.NoError(t, b.lockFresh(now))
			settled := b.stamp.settled
			b.mu.Unlock()
			if !settled { // else this process was stopped meanwhile
				return func() { require.NoError(t, os.Chtimes(dir, at, at)) }
			}
		}
	}
	back := freeze()
	require.NoError(t, a.Rotate())
	fresh := current(t, a)
	back()
	found, err := b.Epoch(fresh.ID())
	require.NoError(t, err, "an epoch that was made within the tick")
	found.Release()
	require.Equal(t, fresh.ID(), current(t, b).ID())

	back = freeze()
	require.NoError(t, a.Retire(old.ID()))
	require.NoError(t, a.Retire(fresh.ID()))
	next := current(t, a)
	back()
	require.Equal(t, next.ID(), current(t, b).ID())

	// A directory that has not changed for longer than a tick is not read again.
	time.Sleep(2 * settleTime)
	_, err = b.Epoch([16]byte{1})
	require.ErrorIs(t, err, ErrUnknown)
	require.True(t, b.unchanged())

	// The same without a look in between, by the time alone.
	back = freeze()
	require.NoError(t, a.Rotate())
	back()
	time.Sleep(2 * settleTime)
	require.Equal(t, current(t, a).ID(), current(t, b).ID())
}

// A process that holds an epoch holds it beyond the ring's end.
func TestHeldBeyondClose(t *testing.T) {
	t.Run("Open", func(t *testing.T) {
		r, err := Open(shmDir(t, false), nil)
		require.NoError(t, err)
		e, err := r.Current()
		require.NoError(t, err)
		l, err := e.Reserve(time.Minute)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.NoError(t, r.Close())
		mustDerive(t, e)
		require.NoError(t, e.ClaimFresh(l.Slot))
		_, err = r.Current()
		require.ErrorIs(t, err, ErrClosed)
		_, err = r.Epoch(e.ID())
		require.ErrorIs(t, err, ErrClosed)
		require.ErrorIs(t, r.Rotate(), ErrClosed)
		require.ErrorIs(t, r.Retire(e.ID()), ErrClosed)
		e.Release()
		_, err = r.scratch.pool.Alloc(1)
		require.ErrorIs(t, err, memsafe.ErrClosed, "the last Release frees the ring's memory")
	})
	t.Run("New", func(t *testing.T) {
		r, err := New(nil)
		require.NoError(t, err)
		require.Empty(t, r.Dir())
		e, err := r.Current()
		require.NoError(t, err)
		require.NoError(t, r.Close())
		_, err = derive(e)
		require.ErrorIs(t, err, ErrRetired)
		require.Equal(t, make([]byte, keySize), e.record.key())
		_, err = r.Epoch(e.ID())
		require.ErrorIs(t, err, ErrClosed)
		e.Release()
		_, err = r.pool.Alloc(1)
		require.ErrorIs(t, err, memsafe.ErrClosed)
	})
}

// Everything at once, for the race detector: no call gets another error than
// those that tell of a rotation, a retirement or the end.
func TestConcurrently(t *testing.T) {
	eachKind(t, nil, func(t *testing.T, r *Ring) {
		expected := []error{errNotOpen, ErrRetired, ErrUnknown, ErrFull, ErrClosed, ErrSpent, memsafe.ErrLimit}
		known := func(err error) bool {
			for _, e := range expected {
				if errors.Is(err, e) {
					return true
				}
			}
			return err == nil
		}
		stop := time.Now().Add(500 * time.Millisecond)
		var all sync.WaitGroup
		run := func(f func() error) {
			all.Go(func() {
				for time.Now().Before(stop) {
					if err := f(); !known(err) {
						t.Error(err)
						return
					}
				}
			})
		}
		use := func() error {
			e, err := r.Current()
			if err != nil {
				return err
			}
			defer e.Release()
			l, err := e.Reserve(time.Minute)
			if err != nil {
				return err
			}
			if _, err := derive(e); err != nil {
				return err
			}
			other, err := r.Epoch(e.ID())
			if err != nil {
				return err
			}
			defer other.Release()
			return other.ClaimFresh(l.Slot)
		}
		for range 4 {
			run(use)
		}
		run(func() error { time.Sleep(time.Millisecond); return r.Rotate() })
		run(func() error {
			time.Sleep(time.Millisecond)
			e, err := r.Current()
			if err != nil {
				return err
			}
			defer e.Release()
			return r.Retire(e.ID())
		})
		run(func() error { r.Dir(); _, err := r.Epoch([16]byte{1}); return err })
		time.Sleep(400 * time.Millisecond)
		require.NoError(t, r.Close()) // beside all of them
		all.Wait()
	})
}

// A failing random source: no epoch, and nothing half-made is left.
func TestRandomFails(t *testing.T) {
	broken := errors.New("broken")
	for name, source := range map[string]func() io.Reader{
		"at the id":   func() io.Reader { return iotest.ErrReader(broken) },
		"in the id":   func() io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, 7)), iotest.ErrReader(broken)) },
		"at the key":  func() io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, 16)), iotest.ErrReader(broken)) },
		"in the key":  func() io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, 47)), iotest.ErrReader(broken)) },
		"a key of 0s": func() io.Reader { return bytes.NewReader(make([]byte, 48)) },
	} {
		t.Run(name, func(t *testing.T) {
			eachKind(t, nil, func(t *testing.T, r *Ring) {
				r.random = source()
				_, err := r.Current()
				if name == "a key of 0s" {
					require.ErrorIs(t, err, ErrDamaged)
				} else {
					require.ErrorIs(t, err, broken)
				}
				if r.dir != nil {
					require.Empty(t, files(t, r.Dir()))
				} else {
					require.Zero(t, r.pool.InUse())
				}
				r.random = rand.Reader
				e := current(t, r)
				r.random = source()
				require.Error(t, r.Rotate())
				_, err = e.Reserve(time.Minute)
				require.NoError(t, err, "a failed rotation leaves the ring as it was")
				require.Equal(t, e.ID(), current(t, r).ID())
			})
		})
	}
}

// A ring leaves no descriptor and no mapping behind, whatever went wrong.
func TestLeavesNothing(t *testing.T) {
	count := func() (fds, maps int) {
		list, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		text, err := os.ReadFile("/proc/self/maps")
		require.NoError(t, err)
		return len(list), bytes.Count(text, []byte("/dev/shm/"))
	}
	dir := shmDir(t, false)
	round := func(i int) {
		sub := filepath.Join(dir, string(rune('a'+i%26)))
		r, err := Open(sub, nil)
		require.NoError(t, err)
		e, err := r.Current()
		require.NoError(t, err)
		require.NoError(t, r.Rotate())
		require.NoError(t, os.Truncate(epochFile(sub, e), 100))
		_, err = Open(epochFile(sub, e), nil)
		require.ErrorIs(t, err, ErrUnsafeDir)
		other, err := Open(sub, nil)
		require.NoError(t, err)
		next, err := other.Current() // passes over the damaged one
		require.NoError(t, err)
		next.Release()
		require.NoError(t, os.Chmod(epochFile(sub, next), 0o644))
		third, err := Open(sub, nil)
		require.NoError(t, err)
		_, err = third.Current()
		require.ErrorIs(t, err, ErrUnsafeDir)
		require.NoError(t, os.RemoveAll(sub))
		require.NoError(t, other.Rotate()) // makes the directory anew
		other.random = iotest.ErrReader(io.ErrUnexpectedEOF)
		require.Error(t, other.Rotate())
		for _, r := range []*Ring{r, other, third} {
			require.NoError(t, r.Close())
		}
		e.Release()
	}
	round(0)
	fds, maps := count()
	for i := range 20 {
		round(i)
	}
	fds2, maps2 := count()
	require.Equal(t, fds, fds2, "descriptors")
	require.Equal(t, maps, maps2, "mappings")
}
