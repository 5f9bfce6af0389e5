package memsafe

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
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

// A span is a run of bytes outside of Go's heap. It holds an address and not a
// slice, so that a printer which walks unexported fields finds no bytes.
type span struct {
	base unsafe.Pointer
	size int
}

func (s span) bytes() []byte { return unsafe.Slice((*byte)(s.base), s.size) }

// lockMu lets one region be locked at a time. memguard's trial lock tells the truth only
// if this package takes no other memory in between.
var lockMu sync.Mutex

// newRegion takes the best memory that the kernel gives: memfd_secret, or memguard's if
// the kernel has no memfd_secret.
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
// dumps and of forked children. They stay locked until they are unmapped, which
// is the caller's to do after an error too. It returns an error that wraps
// ErrLimit where RLIMIT_MEMLOCK does not allow it. Safe for concurrent use.
func Lock(b []byte) error {
	lockMu.Lock()
	defer lockMu.Unlock()
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
	span
	whole span // guard page, the span, guard page
}

func newSecretRegion(size int) (*secretRegion, error) {
	lockMu.Lock()
	defer lockMu.Unlock()
	fd, err := memfdSecret()
	if err != nil {
		return nil, fmt.Errorf("memsafe: memfd_secret: %w", err)
	}
	defer unix.Close(fd) // the mapping keeps the memory
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, fmt.Errorf("memsafe: memfd_secret: %w", err)
	}
	// Placing the memory between the guard pages must not fail: the kernel takes
	// the reserved range apart first, and what it leaves free is soon another
	// thread's. So it is mapped anywhere once, for the limit to say no.
	trial, err := unix.MmapPtr(fd, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, limitError(size, err)
	}
	if err := unix.MunmapPtr(trial, uintptr(size)); err != nil {
		return nil, fmt.Errorf("memsafe: memfd_secret: %w", err)
	}
	page := os.Getpagesize()
	whole := size + 2*page
	base, err := unix.MmapPtr(-1, 0, nil, uintptr(whole), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("memsafe: reserving guard pages: %w", err)
	}
	r := &secretRegion{span: span{unsafe.Add(base, page), size}, whole: span{base, whole}}
	if _, err := unix.MmapPtr(fd, 0, r.base, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		return nil, errors.Join(limitError(size, err), r.freeGuards())
	}
	if err := unix.Madvise(r.bytes(), unix.MADV_DONTFORK); err != nil {
		return nil, errors.Join(fmt.Errorf("memsafe: keeping secret memory from children: %w", err), r.free())
	}
	if err := populate(r.bytes()); err != nil {
		return nil, errors.Join(limitError(size, err), r.free())
	}
	return r, nil
}

func (*secretRegion) backing() string { return "memfd_secret" }
func (r *secretRegion) free() error {
	return unix.MunmapPtr(r.whole.base, uintptr(r.whole.size))
}

// freeGuards unmaps the guard pages and leaves what is between them alone: it
// may be address space that is still reserved, or another thread's memory.
func (r *secretRegion) freeGuards() error {
	page := uintptr(os.Getpagesize())
	return errors.Join(unix.MunmapPtr(r.whole.base, page), unix.MunmapPtr(unsafe.Add(r.base, r.size), page))
}

// populate takes every page now, so that a lack of memory shows here. The
// kernel answers it with SIGBUS, which is returned.
func populate(b []byte) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("no memory behind it: %v", p)
		}
	}()
	Wipe(b)
	return nil
}

// guardRegion is a memguard buffer.
type guardRegion struct {
	span
	destroy func()
}

// newGuardRegion asks memguard only after a trial of the same steps: where one
// of them fails memguard wipes every buffer of the process and panics.
func newGuardRegion(size int) (*guardRegion, error) {
	lockMu.Lock()
	defer lockMu.Unlock()
	if err := tryLock(size); err != nil {
		return nil, err
	}
	buf := memguard.NewBuffer(size)
	if !buf.IsAlive() {
		return nil, errors.New("memsafe: memguard returned a null buffer")
	}
	b := buf.Bytes()
	_ = unix.Madvise(b, unix.MADV_WIPEONFORK) // a kernel before 4.14 has none
	return &guardRegion{span{unsafe.Pointer(&b[0]), size}, buf.Destroy}, nil
}

// tryLock does what memguard is about to do, and undoes it.
func tryLock(size int) error {
	page := os.Getpagesize()
	whole, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return limitError(size, err)
	}
	defer func() { _ = unix.Munmap(whole) }() // unlocks too
	err = errors.Join(unix.Mlock(whole[page:page+size]),
		unix.Mprotect(whole[:page], unix.PROT_NONE), unix.Mprotect(whole[page+size:], unix.PROT_NONE))
	if err != nil {
		return limitError(size, err)
	}
	return nil
}

func (*guardRegion) backing() string { return "memguard" }
func (r *guardRegion) free() error   { r.destroy(); return nil }
