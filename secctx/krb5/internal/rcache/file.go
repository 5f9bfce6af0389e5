package rcache

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockCurrent takes the lock of the file that has the name now, and reads its
// header. If the open file was removed, moved away, emptied or damaged,
// lockCurrent continues with the file that has the name, and marks it.
func (c *Cache) lockCurrent(deadline time.Time, clock func() time.Time) error {
	for range 3 {
		if c.closed {
			return fmt.Errorf("%w: closed", ErrUnavailable)
		}
		if c.f == nil {
			if err := c.open(deadline, clock); err != nil {
				return err
			}
		}
		if err := c.lock(deadline); err != nil {
			return err
		}
		if c.current() {
			if err := c.noteLoss(clock); err != nil {
				c.unlock()
				return err
			}
			c.ready.Store(true)
			return nil
		}
		_ = c.f.Close() // gives the lock back
		c.f, c.lost = nil, true
	}
	return fmt.Errorf("%w: removed again and again", ErrUnavailable)
}

// noteLoss marks the open file if an earlier one was lost. It notes when the file
// was seen.
func (c *Cache) noteLoss(clock func() time.Time) error {
	now := c.since.moment(clock)
	if c.lost {
		m, err := c.head.memory()
		if err != nil {
			return err
		}
		m.lose(now, c.seen)
		if err := c.remember(m); err != nil {
			return err
		}
		c.lost = false
	}
	c.seen = now
	return nil
}

func (c *Cache) open(deadline time.Time, clock func() time.Time) error {
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
	if err := c.init(path, deadline, clock); err != nil {
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

// olderMagic is the version before. Its records are lost to this one.
const olderMagic = "sealctx-rcache-2"

// init reads the header, or writes it if the file is new. The header is written
// last: a file without it, whose maker crashed, is new too. A damaged cache begins
// anew as one whose records were lost.
func (c *Cache) init(path string, deadline time.Time, clock func() time.Time) error {
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
	*h = header{}
	n, err := c.f.ReadAt(h[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	found := h[:min(n, len(magic))]
	switch {
	case n == 0 || *h == header{}:
		return c.create(clock, false)
	case !bytes.Equal(found, []byte(magic)) && !bytes.Equal(found, []byte(olderMagic)):
		return fmt.Errorf("%w: %s is no replay cache, or one of a later version; remove it", ErrUnavailable, path)
	case !c.sound():
		return c.create(clock, true)
	}
	return nil
}

// sound reports whether the header is of this version and the file has its size.
func (c *Cache) sound() bool {
	c.capacity = binary.BigEndian.Uint64(c.head[len(magic):])
	_, err := c.head.memory()
	return err == nil && string(c.head[:len(magic)]) == magic &&
		c.capacity >= 1 && c.capacity <= maxCapacity && c.st.Size == fileSize(c.capacity)
}

// create makes the file's content: a header, and zeros.
func (c *Cache) create(clock func() time.Time, lost bool) error {
	c.head, c.capacity = header{}, uint64(c.want)
	h := &c.head
	h.set(memory{lost: lost, began: c.since.moment(clock)})
	copy(h[:], magic)
	binary.BigEndian.PutUint64(h[len(magic):], c.capacity)
	_, _ = rand.Read(h[saltOffset:skewOffset]) // never fails
	if err := c.f.Truncate(0); err != nil {
		return fmt.Errorf("rcache: %w", err)
	}
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

// current reports whether the open file still has its name, its size and its
// header, which it reads. A process that gave up its privileges may not be able to
// look: it continues with its file until that has no name any more.
func (c *Cache) current() bool {
	var st unix.Stat_t
	err := unix.Lstat(c.f.Name(), &st)
	if errors.Is(err, unix.EACCES) {
		if err = unix.Fstat(int(c.f.Fd()), &st); st.Nlink == 0 {
			return false
		}
	}
	if err != nil {
		return false
	}
	if st.Dev != c.st.Dev || st.Ino != c.st.Ino || st.Size != fileSize(c.capacity) {
		return false
	}
	var h header
	if _, err := c.f.ReadAt(h[:], 0); err != nil || !bytes.Equal(h[:skewOffset], c.head[:skewOffset]) {
		return false
	}
	if _, err := h.memory(); err != nil {
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
