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
// # The file
//
//	file   = header (64 bytes) | record (32 bytes) * (capacity + window - 1)
//	header = "sealctx-rcache-2" | capacity u64 | salt (24 bytes) | skew u64, seconds | horizon i64
//	record = hash (24 bytes) | time i64; 0: never used
//
// Integers are big-endian, times Unix seconds. A record lives anywhere in the
// window of 256 that starts at hash mod capacity, over the first free or expired
// one. The salt keeps a client from choosing authenticators that crowd one
// window.
//
// A record has the authenticator's own time, and is in use for as long as
// anybody could accept that: skew is the largest clock skew of all who ever used
// the file. Who comes with a larger one raises it; what was older then than the
// skew before may be forgotten, so authenticators from before that, the
// horizon, are refused from there on.
package rcache

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"syscall"
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
	// ErrForgotten means that the authenticator is older than the cache remembers.
	ErrForgotten = errors.New("rcache: authenticator is older than the replay cache remembers")
	// ErrUnavailable means that the file cannot be used: damaged, of another
	// version, or its lock held for longer than LockTimeout.
	ErrUnavailable = errors.New("rcache: replay cache is not usable")
)

const (
	// FileName is the file's name in its directory.
	FileName = "krb5.rcache"

	// DefaultCapacity is how many records there are. Two thirds can be in use
	// before the first window is full: a thousand authenticators a second, were
	// each valid for the full ten minutes. The file is sparse and at most 32 MiB.
	DefaultCapacity = 1 << 20

	// LockTimeout bounds the wait for whoever holds the lock and does not go
	// on, be it in this process or in another.
	LockTimeout = 5 * time.Second

	maxCapacity = 1 << 26
	window      = 256
	headerSize  = 64
	recordSize  = 32
	hashSize    = 24
	saltSize    = 24
	magic       = "sealctx-rcache-2"

	saltOffset = len(magic) + 8
	skewOffset = saltOffset + saltSize // and the horizon after it

	// maxSkew is the largest clock skew in seconds: there are no larger Durations.
	maxSkew = int64(math.MaxInt64/time.Second) + 1
)

// A Cache is an open replay cache. Safe for concurrent use, by processes too.
type Cache struct {
	dir  string
	want int // capacity of a file that has to be made

	turn     chan struct{} // holds an element while somebody has what follows
	closed   bool
	f        *os.File    // nil while it is not open
	st       unix.Stat_t // of f, when it was opened
	head     header      // of f
	capacity uint64      // in head
	buf      [window * recordSize]byte
}

// header is the file's first bytes. What stands before skewOffset is written once.
type header [headerSize]byte

// New returns the cache in dir. The first Insert opens its file, and makes both
// where they do not exist. The directory must be the caller's and writable for
// nobody else. Capacity is in records and counts only when the file is made; zero
// means DefaultCapacity.
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
	return &Cache{dir: dir, want: capacity, turn: make(chan struct{}, 1)}, nil
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

func (c *Cache) open(deadline time.Time) error {
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("rcache: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(c.dir, &st); err != nil {
		return fmt.Errorf("rcache: %s: %w", c.dir, err)
	}
	if err := checkOwner(c.dir, &st, unix.S_IFDIR); err != nil {
		return err
	}
	path := filepath.Join(c.dir, FileName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("rcache: %w", err)
	}
	c.f = f
	if err := c.init(path, deadline); err != nil {
		_ = f.Close()
		c.f = nil
		return err
	}
	return nil
}

func checkOwner(path string, st *unix.Stat_t, kind uint32) error {
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return fmt.Errorf("%w: %s is of the wrong kind", ErrUnsafe, path)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%w: %s belongs to uid %d", ErrUnsafe, path, st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("%w: %s has mode %04o", ErrUnsafe, path, st.Mode&0o7777)
	}
	return nil
}

// init reads the header, or writes it if the file is new. It is new, too, if
// its maker crashed before the header, which is written last.
func (c *Cache) init(path string, deadline time.Time) error {
	if err := c.lock(deadline); err != nil {
		return err
	}
	defer c.unlock()
	if err := unix.Fstat(int(c.f.Fd()), &c.st); err != nil {
		return fmt.Errorf("rcache: %w", err)
	}
	if err := checkOwner(path, &c.st, unix.S_IFREG); err != nil {
		return err
	}
	h := &c.head
	switch n, err := c.f.ReadAt(h[:], 0); {
	case n > 0 && err != nil:
		return fmt.Errorf("%w: %s has no header; remove it", ErrUnavailable, path)
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case n == 0 || *h == header{}:
		return c.create()
	}
	if !bytes.HasPrefix(h[:], []byte(magic)) {
		return fmt.Errorf("%w: %s is no replay cache; remove it", ErrUnavailable, path)
	}
	c.capacity = binary.BigEndian.Uint64(h[len(magic):])
	if c.capacity < 1 || c.capacity > maxCapacity || c.st.Size != fileSize(c.capacity) {
		return fmt.Errorf("%w: %s has the wrong size; remove it", ErrUnavailable, path)
	}
	return nil
}

func (c *Cache) create() error {
	c.head, c.capacity = header{}, uint64(c.want)
	h := &c.head
	copy(h[:], magic)
	binary.BigEndian.PutUint64(h[len(magic):], c.capacity)
	_, _ = rand.Read(h[saltOffset:skewOffset]) // never fails
	if err := c.f.Truncate(fileSize(c.capacity)); err != nil {
		return fmt.Errorf("rcache: %w", err)
	}
	if _, err := c.f.WriteAt(h[:], 0); err != nil {
		return fmt.Errorf("rcache: %w", err)
	}
	return nil
}

func fileSize(capacity uint64) int64 {
	return headerSize + int64(capacity+window-1)*recordSize
}

// Insert records an authenticator made at a time that a caller with this clock
// skew accepts, for as long as anybody who uses the file does. It returns
// ErrReplay if it is recorded already, ErrFull if there is no room, and answers
// within LockTimeout or a little more, however many wait. Whoever gets any error
// must refuse the authenticator, and so must whoever's clock says by then that it
// is too old: now was before the wait, and what it would repeat may be forgotten.
func (c *Cache) Insert(authenticator []byte, now, made time.Time, skew time.Duration) error {
	deadline := time.Now().Add(LockTimeout)
	if err := c.take(deadline); err != nil {
		return err
	}
	defer c.give()
	if err := c.lockCurrent(deadline); err != nil {
		return err
	}
	defer c.unlock()
	keep, err := c.keep(now, made, skew)
	if err != nil {
		return err
	}
	return c.insert(authenticator, now, made, keep)
}

// keep returns how many seconds authenticators are kept after their time, and
// sees to it that these are enough for skew.
func (c *Cache) keep(now, made time.Time, skew time.Duration) (seconds int64, err error) {
	h := c.head[skewOffset:]
	kept, horizon := int64(binary.BigEndian.Uint64(h)), int64(binary.BigEndian.Uint64(h[8:]))
	if kept < 0 || kept > maxSkew {
		return 0, fmt.Errorf("%w: a clock skew of %d seconds; remove it", ErrUnavailable, kept)
	}
	want := int64(skew / time.Second)
	if skew%time.Second > 0 {
		want++
	}
	if want = max(1, want); want > kept {
		if kept != 0 { // somebody was here
			horizon = max(horizon, now.Unix()-kept)
		}
		kept = want
		binary.BigEndian.PutUint64(h, uint64(kept))
		binary.BigEndian.PutUint64(h[8:], uint64(horizon))
		if _, err := c.f.WriteAt(h, int64(skewOffset)); err != nil {
			return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	if made.Unix() < horizon {
		return 0, fmt.Errorf("%w: its clock skew was raised under way", ErrForgotten)
	}
	return kept, nil
}

// insert is Insert with the lock held.
func (c *Cache) insert(authenticator []byte, now, made time.Time, keep int64) error {
	hash, at := c.hash(authenticator)
	off := int64(headerSize + at*recordSize)
	if _, err := c.f.ReadAt(c.buf[:], off); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	free := -1
	for i := range window {
		rec := c.buf[i*recordSize : (i+1)*recordSize]
		at := int64(binary.BigEndian.Uint64(rec[hashSize:]))
		// One second more: at is rounded down.
		switch live := at != 0 && at+keep+1 >= now.Unix(); {
		case live && bytes.Equal(rec[:hashSize], hash[:]):
			return ErrReplay
		case !live && free < 0:
			free = i
		}
	}
	if free < 0 {
		return fmt.Errorf("%w: %d of its records are in use", ErrFull, window)
	}
	var rec [recordSize]byte
	copy(rec[:], hash[:])
	binary.BigEndian.PutUint64(rec[hashSize:], uint64(made.Unix()))
	if _, err := c.f.WriteAt(rec[:], off+int64(free*recordSize)); err != nil {
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

// lockCurrent takes the lock of the file that has the name now, and reads its
// header. Where somebody removed, moved away or emptied the one that is open, the
// others write to a new one.
func (c *Cache) lockCurrent(deadline time.Time) error {
	for range 3 {
		if c.closed {
			return fmt.Errorf("%w: closed", ErrUnavailable)
		}
		if c.f == nil {
			if err := c.open(deadline); err != nil {
				return err
			}
		}
		if err := c.lock(deadline); err != nil {
			return err
		}
		if c.current() {
			return nil
		}
		_ = c.f.Close() // gives the lock back
		c.f = nil
	}
	return fmt.Errorf("%w: removed again and again", ErrUnavailable)
}

// current reports whether the open file still has its name and its header, which
// it reads. Who may not look, a process that gave up its privileges, goes on with
// the file that it has.
func (c *Cache) current() bool {
	var st unix.Stat_t
	err := unix.Lstat(c.f.Name(), &st)
	if err == nil && (st.Dev != c.st.Dev || st.Ino != c.st.Ino) || errors.Is(err, os.ErrNotExist) {
		return false
	}
	var h header
	if _, err := c.f.ReadAt(h[:], 0); err != nil || !bytes.Equal(h[:skewOffset], c.head[:skewOffset]) {
		return false
	}
	c.head = h
	return true
}

// lock takes the file's lock. It polls, so that a process stopped while it
// holds the lock makes others fail and not hang.
func (c *Cache) lock(deadline time.Time) error {
	for wait := 20 * time.Microsecond; ; wait = min(2*wait, time.Millisecond) {
		err := unix.Flock(int(c.f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("%w: lock: %w", ErrUnavailable, err)
		case time.Now().After(deadline):
			return fmt.Errorf("%w: other processes have held its lock for %v", ErrUnavailable, LockTimeout)
		}
		time.Sleep(wait)
	}
}

func (c *Cache) unlock() { _ = unix.Flock(int(c.f.Fd()), unix.LOCK_UN) }

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
