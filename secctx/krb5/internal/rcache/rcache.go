// Package rcache is a replay cache: it remembers the authenticators that were
// accepted, for as long as they could be accepted again, for all processes of a
// user on a host (RFC 4120 section 3.2.3).
//
// An authenticator is known by a hash of its ciphertext, which is what the key
// of the ticket authenticates. Nothing in clear takes part: rewriting the
// service name in front of a ticket makes no new authenticator of it.
//
// [Cache.Insert] is one atomic step under an exclusive lock of the file:
// either the authenticator was new and is recorded, or it is [ErrReplay]. The
// cache is bounded. What cannot be recorded, for want of room, of disk or of
// the lock, is an error and must not be accepted.
//
// # What a cache has forgotten
//
// A cache that cannot know whether an authenticator was accepted before refuses
// it with [ErrForgotten]:
//
//   - A new file knows nothing of authenticators that were made before it. A
//     client whose clock is right is accepted at once.
//   - A process that used a file which was then removed, replaced, emptied or
//     damaged knows that records were lost, and marks the file that it goes on
//     with. Authenticators made before the end of the clock skew after that file
//     began are refused in all processes: a client's clock may be ahead.
//   - A record is overwritten when its time is over. If the clock is set back
//     then, or a process with a larger clock skew comes, the authenticators up to
//     that time are refused.
//
// A new file's beginning is kept on the clock that counts from boot, which
// nobody can set, so that setting the wall clock right moves it along.
//
// # The file
//
//	file   = header (128 bytes) | record (32 bytes) * (capacity + window - 1)
//	header = "sealctx-rcache-3" | capacity u64 | salt (24 bytes) | skew u64, seconds |
//	         horizon i64 | lost u64, 0 or 1 | began i64, i64 | boot id (16 bytes) | 24 zero bytes
//	record = hash (24 bytes) | time i64, seconds; 0: never used
//
// Integers are big-endian, times count from 1970 and are in microseconds but for
// a record's. A record lives anywhere in the window of 256 that starts at hash
// mod capacity, over the first free or expired one. The salt keeps a client from
// choosing authenticators that crowd one window.
//
// A record has the authenticator's own time, and is in use for as long as
// anybody could accept that: skew is the largest clock skew of all who ever used
// the file. The records of authenticators older than the horizon may be gone.
// Began is when the file was made, by the wall clock and in microseconds since
// the boot that the id names; the boot id is zero where that is not known.
package rcache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrReplay means that the authenticator was accepted before.
	ErrReplay = errors.New("rcache: authenticator was used before")
	// ErrFull means that there is no room until older records expire.
	ErrFull = errors.New("rcache: replay cache is full")
	// ErrUnsafe means that others can write the directory or the file.
	ErrUnsafe = errors.New("rcache: replay cache is not this user's alone")
	// ErrForgotten means that the cache does not know whether the authenticator
	// was accepted before.
	ErrForgotten = errors.New("rcache: request cannot be told from a replay")
	// ErrUnavailable means that the file cannot be used: it is no replay cache or
	// of a later version, or its lock is held for longer than LockTimeout.
	ErrUnavailable = errors.New("rcache: replay cache is not usable")
)

const (
	// FileName is the file's name in its directory.
	FileName = "krb5.rcache"

	// DefaultCapacity is how many records there are. Two thirds can be in use
	// before the first window is full: a thousand authenticators a second, were
	// each valid for the full ten minutes. The file is sparse and at most 32 MiB.
	DefaultCapacity = 1 << 20

	// LockTimeout bounds the wait for a holder of the lock that does not go on, in
	// this process or in another.
	LockTimeout = 5 * time.Second

	// prepareTimeout is the same for Prepare, which nobody has to wait for.
	prepareTimeout = time.Second

	maxCapacity = 1 << 26
	window      = 256
	recordSize  = 32
	hashSize    = 24
)

// A Cache is an open replay cache. Safe for concurrent use, by processes too.
type Cache struct {
	dir   string
	want  int // capacity of a file that has to be made
	since bootClock
	ready atomic.Bool // the file was opened once

	turn     chan struct{} // holds an element while somebody has what follows
	closed   bool
	f        *os.File    // nil while it is not open
	st       unix.Stat_t // of f, when it was opened
	head     header      // of f
	capacity uint64      // in head
	buf      [window * recordSize]byte

	// seen is when a file was last known to have its name. lost means that it had
	// it no longer when it was looked for again, and that no other file has been
	// marked since.
	seen moment
	lost bool
}

// New returns the cache in dir. [Cache.Prepare] or the first Insert opens its
// file, and makes both where they do not exist. The directory must be the
// caller's and writable for nobody else. Capacity is in records and counts only
// when the file is made; zero means DefaultCapacity.
func New(dir string, capacity int) (*Cache, error) {
	if capacity == 0 {
		capacity = DefaultCapacity
	}
	if capacity < 1 || capacity > maxCapacity {
		return nil, fmt.Errorf("rcache: capacity %d: must be between 1 and %d", capacity, maxCapacity)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("rcache: %w", err)
	}
	return &Cache{dir: dir, want: capacity, since: newBootClock(), turn: make(chan struct{}, 1)}, nil
}

// Prepare opens the file, and makes it where it does not exist, unless that was
// done before. What is made from now on can be accepted, and a loss of the file
// from now on is noticed. The error is the next Insert's too.
func (c *Cache) Prepare(clock func() time.Time) error {
	if c.ready.Load() {
		return nil
	}
	deadline := time.Now().Add(prepareTimeout)
	if err := c.take(deadline); err != nil {
		return err
	}
	defer c.give()
	if err := c.lockCurrent(deadline, clock); err != nil {
		return err
	}
	c.unlock()
	return nil
}

// take waits for the other goroutines of this process.
func (c *Cache) take(deadline time.Time) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-t.C:
		return fmt.Errorf("%w: %v have passed in the queue for its lock", ErrUnavailable, LockTimeout)
	}
}

func (c *Cache) give() { <-c.turn }

// Insert records an authenticator made at a time that a caller with this clock
// skew accepts, for as long as anybody who uses the file does. It returns
// ErrReplay if it is recorded already, ErrForgotten if it may have been, ErrFull
// if there is no room, and answers within LockTimeout or a little more, however
// many wait. On any error the caller must refuse the authenticator. It must
// refuse it too if the clock says by then that it is too old: while Insert
// waited, the record of its first use may have expired and gone.
func (c *Cache) Insert(authenticator []byte, clock func() time.Time, made time.Time, skew time.Duration) error {
	deadline := time.Now().Add(LockTimeout)
	if err := c.take(deadline); err != nil {
		return err
	}
	defer c.give()
	if err := c.lockCurrent(deadline, clock); err != nil {
		return err
	}
	defer c.unlock()
	m, err := c.head.memory()
	if err != nil {
		return err
	}
	now := c.since.moment(clock)
	m.raise(now, skew)
	slot, old, err := c.look(authenticator, now, m.skew)
	if err != nil && !errors.Is(err, ErrFull) {
		return err
	}
	if err := m.check(c.f.Name(), now, made); err != nil {
		return errors.Join(err, c.remember(m))
	}
	if err != nil {
		return err
	}
	m.overwrite(old)
	if err := c.remember(m); err != nil { // before what it speaks of is gone
		return err
	}
	return c.record(slot, made)
}

// A slot is where a record goes: the hash and the offset in the file.
type slot struct {
	hash [hashSize]byte
	off  int64
}

// look searches the window of an authenticator. It returns the slot for its
// record and the time of the record that is there, zero for none.
func (c *Cache) look(authenticator []byte, now moment, keep int64) (s slot, old int64, err error) {
	hash, at := c.hash(authenticator)
	off := int64(headerSize + at*recordSize)
	if _, err := c.f.ReadAt(c.buf[:], off); err != nil {
		return s, 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	free := -1
	for i := range window {
		rec := c.buf[i*recordSize : (i+1)*recordSize]
		at := int64(binary.BigEndian.Uint64(rec[hashSize:]))
		// One second more: at is rounded down.
		switch live := at != 0 && at+keep+1 >= now.seconds(); {
		case live && bytes.Equal(rec[:hashSize], hash[:]):
			return s, 0, ErrReplay
		case !live && free < 0:
			free, old = i, at
		}
	}
	if free < 0 {
		return s, 0, fmt.Errorf("%w: %d of its records are in use; raise ReplayCapacity and remove %s, or wait for the clock skew", ErrFull, window, c.f.Name())
	}
	return slot{hash, off + int64(free*recordSize)}, old, nil
}

func (c *Cache) record(s slot, made time.Time) error {
	var rec [recordSize]byte
	copy(rec[:], s.hash[:])
	binary.BigEndian.PutUint64(rec[hashSize:], uint64(made.Unix()))
	if _, err := c.f.WriteAt(rec[:], s.off); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// hash returns an authenticator's record key and the record where its window
// starts.
func (c *Cache) hash(authenticator []byte) (hash [hashSize]byte, at uint64) {
	h := sha256.New()
	h.Write(c.head[saltOffset:skewOffset])
	h.Write(authenticator)
	sum := h.Sum(nil)
	return [hashSize]byte(sum), binary.BigEndian.Uint64(sum[hashSize:]) % c.capacity
}

// Close closes the file. What was recorded stays.
func (c *Cache) Close() error {
	c.turn <- struct{}{} // nobody has it for longer than a LockTimeout
	defer c.give()
	c.closed = true
	if c.f == nil {
		return nil
	}
	f := c.f
	c.f = nil
	return f.Close()
}
