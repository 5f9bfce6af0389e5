// Package rcache is a replay cache. It remembers the accepted authenticators for as
// long as they could be accepted again, for all processes of a user on a host (RFC
// 4120 section 3.2.3).
//
// An authenticator is known by a hash of its ciphertext, which the ticket's session
// key authenticates. Clear text does not count: an authenticator stays the same if the
// service name in front of its ticket is rewritten.
//
// [Cache.Insert] is one atomic step under an exclusive lock of the file. The
// authenticator is new and is recorded, or it is [ErrReplay]. The cache is bounded. An
// authenticator that cannot be recorded, for want of room, disk or the lock, is an
// error and must be refused.
//
// # What a cache has forgotten
//
// A cache that does not know whether an authenticator was accepted before refuses it
// with [ErrForgotten]:
//
//   - A new file refuses authenticators that were made before it. A client whose clock
//     is right is accepted at once.
//   - A process notices that the file it used was removed, replaced, emptied or
//     damaged. It marks the file that it continues with. Then all processes refuse
//     authenticators made before that file's beginning plus the clock skew, since a
//     client's clock may be ahead.
//   - A record is overwritten when its time is over. If the clock is set back
//     afterwards, or a process with a larger clock skew comes, authenticators up to
//     that record's time are refused.
//
// A file's beginning is also kept on the boot clock, which cannot be set. If the wall
// clock is corrected, the beginning moves with it.
//
// # The file
//
//	file   = header (128 bytes) | record (32 bytes) * (capacity + window - 1)
//	header = "sealctx-rcache-3" | capacity u64 | salt (24 bytes) | skew u64, seconds |
//	         horizon i64 | lost u64, 0 or 1 | began i64, i64 | boot id (16 bytes) | 24 zero bytes
//	record = hash (24 bytes) | time i64, seconds; 0: never used
//
// Integers are big-endian. Times count from 1970, in microseconds except in records.
//
// A record is in the window of 256 that starts at hash mod capacity, in the first free
// or expired place. The salt keeps clients from choosing authenticators that crowd one
// window. A record has the authenticator's own time. It is in use until that time plus
// skew, the largest clock skew of all processes that ever used the file.
//
// Records of authenticators older than the horizon may be gone. Began is when the file
// was made: by the wall clock, and in microseconds since the boot that the id names. A
// zero id means that the boot clock is not known.
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

	// LockTimeout bounds the wait for the lock, whose holder may be a process that is
	// stopped.
	LockTimeout = 5 * time.Second

	// prepareTimeout is the same for Prepare, whose callers need not wait.
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

	turn     chan struct{} // holds an element while a goroutine uses the fields below
	closed   bool
	f        *os.File    // nil while it is not open
	st       unix.Stat_t // of f, when it was opened
	head     header      // of f
	capacity uint64      // in head
	buf      [window * recordSize]byte

	// seen is when the file was last found under its name. lost means that it was not
	// there later, and that its successor is not marked yet.
	seen moment
	lost bool
}

// New returns the cache in dir. [Cache.Prepare] or the first Insert opens its
// file. They make file and directory if these do not exist. The directory must
// belong to the caller, and no other user may write it. capacity is in records and
// counts when the file is made. Zero means DefaultCapacity.
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

// Prepare opens the file, and makes it if it does not exist. It does nothing if
// the file was opened before. Authenticators made from now on can be accepted. A
// loss of the file from now on is noticed. An error is also the next Insert's.
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

// take waits for other goroutines of this process.
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

// Insert records an authenticator that was made at a given time. The caller
// accepts that time with this clock skew. Insert keeps the record for as long as
// any user of the file accepts it. It returns ErrReplay if the authenticator is
// recorded already, ErrForgotten if it may have been, ErrFull if there is no room.
// It answers within little more than LockTimeout, however many callers wait.
//
// On any error the caller refuses the authenticator. The caller also refuses it if
// its time is over by the clock after Insert: the record of its first use may have
// expired while Insert waited.
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
	now := c.seen // just now, under the lock
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
	if err := c.remember(m); err != nil { // before the record is overwritten
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
	c.turn <- struct{}{} // held for a LockTimeout at most
	defer c.give()
	c.closed = true
	if c.f == nil {
		return nil
	}
	f := c.f
	c.f = nil
	return f.Close()
}
