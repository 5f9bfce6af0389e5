package memsafe

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"github.com/awnumar/memguard"
	"golang.org/x/sys/unix"
)

// A region is a run of whole, locked pages between two that fault.
type region interface {
	bytes() []byte
	backing() string
	free() error
}

// newRegion takes the best memory that the kernel gives: memfd_secret, else
// memguard.
func newRegion(size int) (region, error) {
	r, err := newSecretRegion(size)
	if err == nil {
		return r, nil
	}
	return newGuardRegion(size)
}

// limitError says why size bytes could not be locked, and what to do.
func limitError(size int, cause error) error {
	var rl unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_MEMLOCK, &rl)
	locked := 0
	if st, err := procStatus(); err == nil {
		locked = st.locked
	}
	return fmt.Errorf("%w: %d KiB wanted, RLIMIT_MEMLOCK allows %s with %d KiB in use (%w); raise it with ulimit -l, or LimitMEMLOCK= in a unit",
		ErrLimit, (size+1023)/1024, limitText(rl.Cur), locked/1024, cause)
}

func limitText(cur uint64) string {
	if cur == unix.RLIM_INFINITY {
		return "everything"
	}
	return fmt.Sprintf("%d KiB", cur/1024)
}

// Lock locks the pages of b, which the caller mapped, and keeps them out of core
// dumps and of forked children. They stay locked until they are unmapped. It
// returns an error that wraps ErrLimit where RLIMIT_MEMLOCK does not allow it.
func Lock(b []byte) error {
	if err := unix.Mlock(b); err != nil {
		return limitError(len(b), err)
	}
	if err := errors.Join(unix.Madvise(b, unix.MADV_DONTDUMP), unix.Madvise(b, unix.MADV_DONTFORK)); err != nil {
		return fmt.Errorf("memsafe: keeping locked memory out of dumps and children: %w", err)
	}
	return nil
}

// secretRegion is memory of memfd_secret(2), which the kernel removes from its
// own direct map: ptrace, /proc/PID/mem, core dumps and swap never see it.
type secretRegion struct {
	base unsafe.Pointer // guard page, pages, guard page
	size int
	page int
}

func newSecretRegion(size int) (*secretRegion, error) {
	fd, err := memfdSecret()
	if err != nil {
		return nil, fmt.Errorf("memsafe: memfd_secret: %w", err)
	}
	defer unix.Close(fd) // the mapping keeps the memory
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, fmt.Errorf("memsafe: memfd_secret: %w", err)
	}
	page := os.Getpagesize()
	whole := uintptr(size + 2*page)
	base, err := unix.MmapPtr(-1, 0, nil, whole, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("memsafe: reserving guard pages: %w", err)
	}
	r := &secretRegion{base: base, size: size, page: page}
	inner := unsafe.Add(base, page)
	if _, err := unix.MmapPtr(fd, 0, inner, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		_ = unix.MunmapPtr(base, whole)
		return nil, limitError(size, err)
	}
	if err := unix.Madvise(r.bytes(), unix.MADV_DONTFORK); err != nil {
		_ = r.free()
		return nil, fmt.Errorf("memsafe: keeping secret memory from children: %w", err)
	}
	Wipe(r.bytes()) // take every page now, so that a lack of memory shows here
	return r, nil
}

func (r *secretRegion) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Add(r.base, r.page)), r.size)
}
func (*secretRegion) backing() string { return "memfd_secret" }
func (r *secretRegion) free() error {
	return unix.MunmapPtr(r.base, uintptr(r.size+2*r.page))
}

// guardRegion is a memguard buffer.
type guardRegion struct{ buf *memguard.LockedBuffer }

// guardMu makes the trial lock and memguard's own one step.
var guardMu sync.Mutex

// newGuardRegion asks memguard only after a trial lock of the same size: where
// mlock fails memguard wipes every buffer of the process and panics.
func newGuardRegion(size int) (*guardRegion, error) {
	guardMu.Lock()
	defer guardMu.Unlock()
	if err := tryLock(size); err != nil {
		return nil, err
	}
	buf := memguard.NewBuffer(size)
	if buf.Size() != size {
		return nil, errors.New("memsafe: memguard returned a null buffer")
	}
	// Errors ignored: an old kernel knows neither, and the memory is locked.
	_ = unix.Madvise(buf.Bytes(), unix.MADV_WIPEONFORK)
	return &guardRegion{buf}, nil
}

func tryLock(size int) error {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return limitError(size, err)
	}
	defer func() { _ = unix.Munmap(b) }() // unlocks too
	if err := unix.Mlock(b); err != nil {
		return limitError(size, err)
	}
	return nil
}

func (r *guardRegion) bytes() []byte { return r.buf.Bytes() }
func (*guardRegion) backing() string { return "memguard" }
func (r *guardRegion) free() error   { r.buf.Destroy(); return nil }
