package keyring

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"github.com/sealctx/sealctx/memsafe"
	"golang.org/x/sys/unix"
)

// mapped is the file of an epoch, mapped whole. The descriptor stays open: its
// link count tells when the file is gone.
type mapped struct {
	dir  *os.File
	name string
	fd   int
	base unsafe.Pointer
	size int
}

func (m *mapped) linked() error {
	var st unix.Stat_t
	if err := fstat(m.fd, &st); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if st.Size != int64(m.size) {
		return fmt.Errorf("%w: it has %d bytes and should have %d", ErrDamaged, st.Size, m.size)
	}
	if st.Nlink == 0 {
		return fmt.Errorf("%w: its file was removed", ErrRetired)
	}
	return nil
}

// unlink removes the epoch's name. It leaves the name alone if it is another file's by
// now: the epoch's file was renamed, or the directory was wiped.
func (m *mapped) unlink() error {
	var own, named unix.Stat_t
	if err := unix.Fstat(m.fd, &own); err != nil {
		return fmt.Errorf("keyring: removing %s: %w", m.name, err)
	}
	err := unix.Fstatat(int(m.dir.Fd()), m.name, &named, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		if own.Dev != named.Dev || own.Ino != named.Ino {
			return nil
		}
		err = unix.Unlinkat(int(m.dir.Fd()), m.name, 0)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return dirError(m.dir, "removing "+m.name, err)
	}
	return nil
}

func (m *mapped) free() error {
	return errors.Join(unix.MunmapPtr(m.base, uintptr(m.size)), unix.Close(m.fd))
}

func (m *mapped) bytes() []byte { return unsafe.Slice((*byte)(m.base), m.size) }

func (m *mapped) record() record { return record{m.base} }

func (m *mapped) slots(n int) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Add(m.base, pageSize)), n)
}

// fileName is the name of the epoch with a sequence number.
func fileName(seq uint64) string { return fmt.Sprintf("epoch-%016x", seq) }

func parseFileName(name string) (seq uint64, ok bool) {
	hex, ok := strings.CutPrefix(name, "epoch-")
	if !ok {
		return 0, false
	}
	seq, err := strconv.ParseUint(hex, 16, 64)
	return seq, err == nil && seq <= maxSeq && fileName(seq) == name
}

// mapFile maps size bytes of fd and locks the first page. It owns fd from now on.
func mapFile(dir *os.File, name string, fd, size int) (*mapped, error) {
	base, err := unix.MmapPtr(fd, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("keyring: mapping %s: %w", name, err)
	}
	m := &mapped{dir: dir, name: name, fd: fd, base: base, size: size}
	if err := memsafe.Lock(m.bytes()[:pageSize]); err != nil {
		if lost := m.linked(); errors.Is(lost, ErrDamaged) { // cut off meanwhile, which mlock calls a lack of memory
			err = lost
		}
		_ = m.free()
		return nil, err
	}
	if err := unix.Madvise(m.bytes(), unix.MADV_DONTFORK); err != nil {
		_ = m.free()
		return nil, fmt.Errorf("keyring: keeping %s from children: %w", name, err)
	}
	return m, nil
}

// createFile makes an epoch's file, complete, and then gives it its name: no
// other process ever sees half of one. It returns an error that wraps EEXIST
// when another epoch has the name.
func createFile(r *Ring, f fixed) (*Epoch, error) {
	fd, err := unix.Openat(int(r.dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, dirError(r.dir, "a file for an epoch", err)
	}
	// Every page now: a sparse one on a full tmpfs would be a SIGBUS later.
	if err := allocate(fd, int64(f.fileSize())); err != nil {
		_ = unix.Close(fd)
		return nil, dirError(r.dir, fmt.Sprintf("%d KiB for an epoch", (f.fileSize()+1023)>>10), err)
	}
	m, err := mapFile(r.dir, fileName(f.seq), fd, f.fileSize())
	if err != nil {
		return nil, err
	}
	e, err := fillFile(r, f, m)
	if err != nil {
		_ = guard(func() error { memsafe.Wipe(m.record().bytes()); return nil })
		_ = m.free()
		return nil, err
	}
	return e, nil
}

// allocate takes size bytes for a file, in steps: tmpfs gives up, and takes
// nothing, when a signal comes in the middle of one.
func allocate(fd int, size int64) error {
	for off := int64(0); off < size; {
		n := min(size-off, allocateStep)
		switch err := unix.Fallocate(fd, 0, off, n); {
		case err == nil:
			off += n
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
	return nil
}

func fillFile(r *Ring, f fixed, m *mapped) (*Epoch, error) {
	var st unix.Stat_t
	if err := unix.Fstat(m.fd, &st); err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	f.dev, f.ino = uint64(st.Dev), st.Ino
	e := &Epoch{fixed: f, record: m.record(), ring: r, back: m}
	err := guard(func() error { return e.fill(m.slots(f.capacity())) })
	if err != nil {
		return nil, err
	}
	err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(m.fd), int(r.dir.Fd()), m.name, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return nil, dirError(r.dir, "linking "+m.name, err)
	}
	return e, nil
}

// fill writes a new epoch's record and slots: key, fixed part, MAC, state.
func (e *Epoch) fill(slots []uint64) error {
	if _, err := io.ReadFull(e.ring.random, e.record.key()); err != nil {
		return fmt.Errorf("keyring: random source: %w", err)
	}
	e.fixed.marshal(e.record.bytes())
	sum, err := e.ring.scratch.mac(e.record)
	if err != nil {
		return err
	}
	copy(e.record.bytes()[offMAC:], sum[:])
	for i := range slots {
		slots[i] = freshWord
	}
	e.vars = recordVars(e.record)
	e.reg = recordRegister(e.record, slots, e.outstanding)
	e.state.Store(stateOpen)
	e.refs.Store(1)
	return nil
}

// loadFile maps the epoch of a name and checks all there is to check.
func loadFile(r *Ring, name string) (*Epoch, error) {
	fd, err := unix.Openat(int(r.dir.Fd()), name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%w: %s is a symbolic link", ErrUnsafeDir, name)
	}
	if err != nil {
		return nil, dirError(r.dir, name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("keyring: %s: %w", name, err)
	}
	if err := checkFile(&st, name); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	m, err := mapFile(r.dir, name, fd, int(st.Size))
	if err != nil {
		return nil, err
	}
	var e *Epoch
	err = guard(func() error {
		e, err = adopt(r, m, &st)
		return err
	})
	if err != nil {
		_ = m.free()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return e, nil
}

func checkFile(st *unix.Stat_t, name string) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%w: %s is not a regular file", ErrUnsafeDir, name)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%w: %s belongs to user %d", ErrUnsafeDir, name, st.Uid)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%w: %s has mode %04o", ErrUnsafeDir, name, st.Mode&0o7777)
	case st.Nlink == 0:
		return ErrRetired
	case st.Nlink != 1:
		return fmt.Errorf("%w: %s has %d links", ErrUnsafeDir, name, st.Nlink)
	case st.Size < pageSize || st.Size > pageSize+8*2*maxCapacity:
		return fmt.Errorf("%w: %s has %d bytes", ErrDamaged, name, st.Size)
	}
	return nil
}

// adopt checks a mapped record against its file, its own MAC and this boot. The
// boot id is last: only of an authentic record does it say that a process which
// sees another boot made the epoch.
func adopt(r *Ring, m *mapped, st *unix.Stat_t) (*Epoch, error) {
	f, err := parseFixed(m.record().bytes())
	if err != nil {
		return nil, err
	}
	switch {
	case f.dev != uint64(st.Dev) || f.ino != st.Ino || fileName(f.seq) != m.name:
		return nil, fmt.Errorf("%w: it was copied or renamed", ErrDamaged)
	case int64(f.fileSize()) != st.Size:
		return nil, fmt.Errorf("%w: it has %d bytes and should have %d", ErrDamaged, st.Size, f.fileSize())
	}
	e := &Epoch{fixed: *f, vars: recordVars(m.record()), record: m.record(), ring: r, back: m}
	e.reg = recordRegister(e.record, m.slots(f.capacity()), f.outstanding)
	e.refs.Store(1)
	// A dead epoch has no key to authenticate it with; it is loaded so that
	// its retirement can be finished.
	if e.state.Load() == stateDead {
		if f.boot != r.boot {
			return nil, ErrRetired // for those who see that boot to finish
		}
		return e, nil
	}
	if err := r.scratch.authentic(m.record()); err != nil {
		return nil, err
	}
	if err := e.alive(); err != nil {
		return nil, err
	}
	if f.boot != r.boot {
		return nil, fmt.Errorf("%w (%x, and this process sees %x)", ErrOtherBoot, f.boot, r.boot)
	}
	return e, nil
}

// Errors of a directory that no user's act explains.
var (
	errDenied   = errors.New("keyring: runtime directory cannot be used")
	errReadOnly = errors.New("keyring: runtime directory is read-only")

	// errNoDescriptor is of the process, or the host, and not of the directory.
	errNoDescriptor = errors.New("keyring: no file descriptor left; raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE= in a unit)")
)

// dirError says what a call in the directory returned, and what mends it.
func dirError(dir *os.File, what string, err error) error {
	kind, remedy := ErrNoDir, ""
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		kind, remedy = ErrNoSpace, "; give it more (mount -o remount,size=... or, where inodes lack, nr_inodes=...)"
	case errors.Is(err, unix.ENOENT):
		kind = ErrRetired
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		kind, remedy = errDenied, "; make its mode 0700, and 0600 that of what is in it"
	case errors.Is(err, unix.EROFS):
		kind, remedy = errReadOnly, "; remount it (mount -o remount,rw), or name another in "+DirVariable
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		kind = errNoDescriptor
	}
	return fmt.Errorf("%w: %s: %s: %w%s", kind, dir.Name(), what, err, remedy)
}
