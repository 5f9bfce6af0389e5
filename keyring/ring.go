package keyring

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/sealctx/sealctx/memsafe"
)

// A Ring holds the epochs of this host: one that seals, and those that it has
// taken over from until their last token has expired. Safe for concurrent use,
// by any number of processes of one user. It has no goroutine of its own:
// rotation and retirement by age happen in its calls.
type Ring struct {
	_ [0]func() // not comparable

	opts    Options
	clock   *boottime.Clock
	boot    [16]byte
	random  io.Reader
	scratch *scratchpad
	pool    *memsafe.Pool // epochs of New; nil for those of Open
	refs    atomic.Int64  // the ring's own, until Close, and one for each epoch

	mu      sync.RWMutex
	place   string   // the directory as the caller named it; empty: find it
	dir     *os.File // nil for New
	epochs  map[[16]byte]*Epoch
	seqs    map[uint64]*Epoch
	latest  *Epoch // the one that seals, or nil
	lastSeq uint64 // the highest sequence number seen, of unusable files too
	stamp   stamp  // of the directory when it was last read
	foreign error  // ErrOtherBoot if the directory has an epoch of another boot
	closed  bool
}

// Open opens the ring of this host's user in a runtime directory. If dir is empty it
// is the first of these that is on tmpfs:
//
//	$SEALCTX_DIR (an absolute path; an error if it is not on tmpfs)
//	$RUNTIME_DIRECTORY/sealctx (systemd)
//	$XDG_RUNTIME_DIR/sealctx
//	/run/sealctx-root (root; the agent's socket is in /run/sealctx)
//	/dev/shm/sealctx-UID
//
// Open makes the directory with mode 0700 if it does not exist. It makes no epoch. It
// locks one page of memory, and a few on machines with many processors; each epoch
// needs one more.
//
// The variables count for nothing in a program that has more rights than its caller's,
// see internal/secureenv. The directory that RUNTIME_DIRECTORY or XDG_RUNTIME_DIR
// names is passed over unless it is the effective user's (or root's, for
// RUNTIME_DIRECTORY) and only root and that user can put another in its place.
//
// Errors:
//   - ErrUnsafeDir if the directory does not belong to the effective user, gives others
//     rights, is a symbolic link or not on tmpfs, or if another user can put another in
//     the place of the one that SEALCTX_DIR names;
//   - ErrNoDir if there is no place for it;
//   - memsafe.ErrLimit if RLIMIT_MEMLOCK does not allow the locked memory.
func Open(dir string, o *Options) (*Ring, error) {
	r, err := newRing(o)
	if err != nil {
		return nil, err
	}
	if dir != "" {
		if r.place, err = filepath.Abs(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrNoDir, err), r.release())
		}
	}
	if err := r.reopen(); err != nil {
		return nil, errors.Join(err, r.release())
	}
	return r, nil
}

// New returns a ring in the memory of this process, which ends with it. It locks
// 1 KiB for each of MaxEpochs, and a page or a few to work in: else
// memsafe.ErrLimit.
func New(o *Options) (*Ring, error) {
	r, err := newRing(o)
	if err != nil {
		return nil, err
	}
	r.pool, err = memsafe.NewPool(MaxEpochs * recordSize)
	if err != nil {
		return nil, errors.Join(err, r.release())
	}
	return r, nil
}

func newRing(o *Options) (*Ring, error) {
	opts, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Ring{opts: opts, random: rand.Reader, epochs: map[[16]byte]*Epoch{}, seqs: map[uint64]*Epoch{}}
	if r.clock, err = boottime.New(); err != nil {
		return nil, err
	}
	if r.boot, err = boottime.BootID(); err != nil {
		return nil, err
	}
	if r.scratch, err = newScratchpad(); err != nil {
		return nil, err
	}
	r.refs.Store(1)
	return r, nil
}

// Dir returns the path of the runtime directory; empty for a ring of New.
func (r *Ring) Dir() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.dir == nil {
		return ""
	}
	return r.dir.Name()
}

// Now returns the time since this host booted, on the clock of leases
// (doc/SPEC.md, section 6). Its error means that the clock cannot be trusted.
func (r *Ring) Now() (time.Duration, error) { return r.clock.Now() } // step: clock

// Current returns the epoch that seals, made or rotated if need be, and retires
// those whose time is over. The caller must Release it. Besides the errors of
// making an epoch (ErrNoSpace, ErrUnsafeDir, ErrOtherBoot, memsafe.ErrLimit, ...)
// it returns ErrClosed.
func (r *Ring) Current() (*Epoch, error) {
	now, err := r.clock.Now()
	if err != nil {
		return nil, err
	}
	if e := r.sealing(now); e != nil {
		return e, nil
	}
	return r.renew(now)
}

// Reserve reserves a slot in the current epoch. It cuts lifetime to the longest that
// the epoch allows. The caller must Release the epoch. It returns the errors of Current
// and of Epoch.Reserve.
func (r *Ring) Reserve(lifetime time.Duration) (*Epoch, Lease, error) {
	for try := 1; ; try++ {
		e, l, err := r.reserve(lifetime)
		if !errors.Is(err, errNotOpen) || try == rotationTries {
			return e, l, err
		}
	}
}

// reserve takes the current epoch once. It returns an error wrapping errNotOpen if the
// epoch was closed at this moment.
func (r *Ring) reserve(lifetime time.Duration) (*Epoch, Lease, error) {
	now, err := r.clock.Now()
	if err != nil {
		return nil, Lease{}, err
	}
	e := r.sealing(now)
	if e == nil { // which takes its time
		if e, err = r.renew(now); err != nil {
			return nil, Lease{}, err
		}
		if now, err = r.clock.Now(); err != nil {
			e.Release()
			return nil, Lease{}, err
		}
	}
	l, err := e.reserve(min(lifetime, e.maxLifetime), now)
	if err != nil {
		e.Release()
		return nil, Lease{}, err
	}
	return e, l, nil
}

// sealing returns the epoch that seals, or nil where something is to be done first.
func (r *Ring) sealing(now time.Duration) *Epoch {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if e := r.latest; e != nil && r.young(e, now) && !r.anyOver(now) && e.acquire() {
		return e
	}
	return nil
}

// renew brings the ring up to date, makes an epoch if need be, and returns it.
func (r *Ring) renew(now time.Duration) (*Epoch, error) {
	if err := r.lockFresh(now); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	if r.latest == nil || !r.young(r.latest, now) {
		if err := r.relieve(now); err != nil {
			return nil, err
		}
	}
	r.latest.acquire() // the ring holds a reference, so this cannot fail
	return r.latest, nil
}

// young reports whether e still seals.
func (r *Ring) young(e *Epoch, now time.Duration) bool {
	// A token sealed in vain is the same as one whose directory was wiped just after.
	return now-e.birth < e.age && e.lately(now, linkCheck) == nil && e.open()
}

// anyOver reports whether the time of an epoch is over.
func (r *Ring) anyOver(now time.Duration) bool {
	if len(r.epochs) == 1 { // nearly always: it is the one that seals
		return false
	}
	for _, e := range r.epochs {
		if e != r.latest && e.over(now) {
			return true
		}
	}
	return false
}

// Epoch returns the epoch with an id. The caller must Release it. Errors:
// ErrUnknown if there is none, or ErrOtherBoot if only epochs of another boot are
// there; ErrRetired, ErrDamaged, ErrClosed, and those of reading the directory.
func (r *Ring) Epoch(id [16]byte) (*Epoch, error) {
	r.mu.RLock()
	e, closed := r.epochs[id], r.closed
	ok := e != nil && e.acquire()
	r.mu.RUnlock()
	if closed {
		return nil, ErrClosed
	}
	if !ok {
		var err error
		if e, err = r.discover(id); err != nil {
			return nil, err
		}
	}
	if err := guard(e.alive); err != nil { // step: find
		r.forget(e)
		e.Release()
		return nil, err
	}
	return e, nil
}

// forget drops an epoch that is no more, and finishes its retirement should the
// process that began it have died.
func (r *Ring) forget(e *Epoch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(guard(e.alive), ErrRetired) {
		_ = e.retire() // the caller is told that it is retired, however far that went
	}
	r.drop(e)
}

// discover looks for an epoch that another process made.
func (r *Ring) discover(id [16]byte) (*Epoch, error) {
	if r.pool != nil { // a ring of New has no other's
		return nil, ErrUnknown
	}
	now, err := r.clock.Now()
	if err != nil {
		return nil, err
	}
	// Anyone can send a token with an unknown id. It must not stop sealing, so the lock
	// for writing is taken only if the directory has changed.
	r.mu.RLock()
	e := r.epochs[id] // another goroutine may have found it meanwhile
	found := e != nil && e.acquire()
	unchanged := !found && !r.closed && r.unchanged()
	missing := r.missing()
	r.mu.RUnlock()
	switch {
	case found:
		return e, nil
	case unchanged:
		return nil, missing
	}
	if err := r.lockFresh(now); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	if e = r.epochs[id]; e == nil {
		return nil, r.missing()
	}
	e.acquire()
	return e, nil
}

// missing is the error for an id that no epoch of the ring has.
func (r *Ring) missing() error {
	if err := r.makeable(); err != nil {
		return err
	}
	return ErrUnknown
}

// Rotate makes the next epoch and closes the one before it, which still opens
// its outstanding tokens. It returns ErrFull when MaxEpochs are alive, and else
// the errors of Current.
func (r *Ring) Rotate() error {
	now, err := r.clock.Now()
	if err != nil {
		return err
	}
	if err := r.lockFresh(now); err != nil {
		return err
	}
	defer r.mu.Unlock()
	return r.rotate(now)
}

// Retire ends an epoch now: every outstanding token of it becomes worthless and
// the key is gone. Errors: those of Epoch.
func (r *Ring) Retire(id [16]byte) error {
	e, err := r.Epoch(id)
	if err != nil {
		return err
	}
	defer e.Release()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	r.drop(e)
	return e.retire()
}

// Close takes the ring out of use; its epochs stay for other processes, and
// those of New are retired. An epoch that is still in use, and the memory
// it needs, is freed by its last Release. A second Close does nothing.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	var errs []error
	for _, e := range slices.Collect(maps.Values(r.epochs)) {
		if r.pool != nil {
			errs = append(errs, e.retire())
		}
		r.drop(e)
	}
	if r.dir != nil {
		errs = append(errs, r.dir.Close())
	}
	return errors.Join(append(errs, r.release())...)
}

// release gives one reference back, and with the last the ring's own memory.
func (r *Ring) release() error {
	if r.refs.Add(-1) > 0 {
		return nil
	}
	var err error
	if r.pool != nil {
		err = r.pool.Close()
	}
	return errors.Join(err, r.scratch.pool.Close())
}
