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
//	header = "sealctx-rcache-1" | capacity u64 | salt (32 bytes) | 0 (8 bytes)
//	record = hash (24 bytes) | expiry i64, Unix seconds; 0: never used
//
// Integers are big-endian. A record lives anywhere in the window of 256 that
// starts at hash mod capacity, over the first free or expired one. The salt
// keeps a client from choosing authenticators that crowd one window.
package rcache

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
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

	// LockTimeout bounds the wait for a process that holds the lock and does
	// not go on.
	LockTimeout = 5 * time.Second

	maxCapacity = 1 << 26
	window      = 256
	headerSize  = 64
	recordSize  = 32
	hashSize    = 24
	magic       = "sealctx-rcache-1"
)

// A Cache is an open replay cache. Safe for concurrent use, by processes too.
type Cache struct {
	dir  string
	want int // capacity of a file that has to be made

	mu       sync.Mutex
	closed   bool
	f        *os.File // nil after a failure to open it anew
	capacity uint64
	salt     [32]byte
	buf      [window * recordSize]byte
}

// Open opens the cache in dir, and makes both where they do not exist. The
// directory must be the caller's and writable for nobody else. Capacity is in
// records and counts only when the file is made; zero means DefaultCapacity.
func Open(dir string, capacity int) (*Cache, error) {
	if capacity == 0 {
		capacity = DefaultCapacity
	}
	if capacity < 1 || capacity > maxCapacity {
		return nil, fmt.Errorf("rcache: capacity %d: must be between 1 and %d", capacity, maxCapacity)
	}
	c := &Cache{dir: dir, want: capacity}
	if err := c.open(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Cache) open() error {
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
	if err := c.init(path); err != nil {
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
func (c *Cache) init(path string) error {
	if err := c.lock(); err != nil {
		return err
	}
	defer c.unlock()
	var st unix.Stat_t
	if err := unix.Fstat(int(c.f.Fd()), &st); err != nil {
		return fmt.Errorf("rcache: %w", err)
	}
	if err := checkOwner(path, &st, unix.S_IFREG); err != nil {
		return err
	}
	var h [headerSize]byte
	if n, err := c.f.ReadAt(h[:], 0); n > 0 && err != nil {
		return fmt.Errorf("%w: %s has no header; remove it", ErrUnavailable, path)
	}
	if h == [headerSize]byte{} {
		return c.create(h[:])
	}
	if !bytes.HasPrefix(h[:], []byte(magic)) {
		return fmt.Errorf("%w: %s is no replay cache; remove it", ErrUnavailable, path)
	}
	c.capacity = binary.BigEndian.Uint64(h[len(magic):])
	if c.capacity < 1 || c.capacity > maxCapacity || st.Size != fileSize(c.capacity) {
		return fmt.Errorf("%w: %s has the wrong size; remove it", ErrUnavailable, path)
	}
	copy(c.salt[:], h[len(magic)+8:])
	return nil
}

func (c *Cache) create(h []byte) error {
	c.capacity = uint64(c.want)
	_, _ = rand.Read(c.salt[:]) // never fails
	copy(h, magic)
	binary.BigEndian.PutUint64(h[len(magic):], c.capacity)
	copy(h[len(magic)+8:], c.salt[:])
	if err := c.f.Truncate(fileSize(c.capacity)); err != nil {
		return fmt.Errorf("rcache: %w", err)
	}
	if _, err := c.f.WriteAt(h, 0); err != nil {
		return fmt.Errorf("rcache: %w", err)
	}
	return nil
}

func fileSize(capacity uint64) int64 {
	return headerSize + int64(capacity+window-1)*recordSize
}

// Insert records an authenticator until expiry, rounded up to the second. It
// returns ErrReplay if it is recorded already, ErrFull if there is no room.
// Whoever gets any error must refuse the authenticator.
func (c *Cache) Insert(authenticator []byte, now, expiry time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.lockLinked(); err != nil {
		return err
	}
	defer c.unlock()
	hash, at := c.hash(authenticator)
	off := int64(headerSize + at*recordSize)
	if _, err := c.f.ReadAt(c.buf[:], off); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	free := -1
	for i := range window {
		rec := c.buf[i*recordSize : (i+1)*recordSize]
		expires := int64(binary.BigEndian.Uint64(rec[hashSize:]))
		switch live := expires >= now.Unix(); {
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
	binary.BigEndian.PutUint64(rec[hashSize:], uint64(expiry.Unix()+1))
	if _, err := c.f.WriteAt(rec[:], off+int64(free*recordSize)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// hash returns an authenticator's record key and the record where its window
// starts.
func (c *Cache) hash(authenticator []byte) (hash [hashSize]byte, at uint64) {
	h := sha256.New()
	h.Write(c.salt[:])
	h.Write(authenticator)
	sum := h.Sum(nil)
	return [hashSize]byte(sum), binary.BigEndian.Uint64(sum[hashSize:]) % c.capacity
}

// lockLinked takes the lock of the file that has the name now. Where somebody
// removed the one that is open, the others write to a new one.
func (c *Cache) lockLinked() error {
	for range 3 {
		if c.closed {
			return fmt.Errorf("%w: closed", ErrUnavailable)
		}
		if c.f == nil {
			if err := c.open(); err != nil {
				return err
			}
		}
		if err := c.lock(); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(c.f.Fd()), &st); err != nil {
			c.unlock()
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if st.Nlink > 0 {
			return nil
		}
		_ = c.f.Close() // gives the lock back
		c.f = nil
	}
	return fmt.Errorf("%w: removed again and again", ErrUnavailable)
}

// lock takes the file's lock. It polls, so that a process stopped while it
// holds the lock makes others fail and not hang.
func (c *Cache) lock() error {
	deadline := time.Now().Add(LockTimeout)
	for wait := 20 * time.Microsecond; ; wait = min(2*wait, time.Millisecond) {
		err := unix.Flock(int(c.f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("%w: lock: %w", ErrUnavailable, err)
		case time.Now().After(deadline):
			return fmt.Errorf("%w: another process has held its lock for %v", ErrUnavailable, LockTimeout)
		}
		time.Sleep(wait)
	}
}

func (c *Cache) unlock() { _ = unix.Flock(int(c.f.Fd()), unix.LOCK_UN) }

// Close closes the file. What was recorded stays.
func (c *Cache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.f == nil {
		return nil
	}
	f := c.f
	c.f = nil
	return f.Close()
}
