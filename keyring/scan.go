package keyring

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The functions of this file run with the ring's lock held for writing.

// stamp is when a directory last changed, and whether the clock behind that is
// fine enough to trust: a change within one tick of the last leaves no trace.
type stamp struct {
	sec, nsec int64
	settled   bool
}

// lockFresh takes the lock to write and brings the ring up to date. The caller
// must unlock if, and only if, the error is nil. ErrClosed is among the errors.
func (r *Ring) lockFresh(now time.Duration) error {
	r.mu.Lock()
	err := ErrClosed
	if !r.closed {
		err = r.refresh(now)
	}
	if err != nil {
		r.mu.Unlock()
	}
	return err
}

// refresh brings the ring up to date with the directory: drops retired epochs,
// adopts new ones and retires those whose time is over.
//
// What is gone goes first: its locked page may be what a new epoch needs, and
// its sequence number may by now be another epoch's.
func (r *Ring) refresh(now time.Duration) error {
	if err := r.prune(now); err != nil {
		return err
	}
	return r.adopt(now)
}

// adopt takes in what the directory has, after prune.
func (r *Ring) adopt(now time.Duration) error {
	// Of those just adopted some are over; and one that is gone since the first
	// look may have hidden another of its number.
	for range refreshTries {
		changed, err := r.readDir()
		if err != nil {
			return err
		}
		if !changed {
			break
		}
		before := len(r.epochs)
		if err := r.prune(now); err != nil {
			return err
		}
		if len(r.epochs) == before {
			break
		}
		r.stamp = stamp{}
	}
	return r.closeOlder()
}

// prune drops the epochs that are gone or damaged, retires those whose time is
// over, and finds the one that seals.
func (r *Ring) prune(now time.Duration) error {
	r.latest = nil
	for _, e := range r.sorted() {
		err := guard(e.present)
		switch {
		case errors.Is(err, ErrRetired) || e.over(now):
			err := e.retire() // again, should another process have died in it
			r.drop(e)
			if err != nil && !errors.Is(err, ErrDamaged) {
				return err
			}
		case err != nil:
			r.drop(e) // damaged: nothing of it is to be trusted
		case e.open():
			r.latest = e
		}
	}
	return nil
}

// sorted returns the ring's epochs, oldest first.
func (r *Ring) sorted() []*Epoch {
	all := make([]*Epoch, 0, len(r.epochs))
	for _, e := range r.epochs {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *Epoch) int { return cmp.Compare(a.seq, b.seq) })
	return all
}

// add puts an epoch into the ring, which takes over its first reference.
func (r *Ring) add(e *Epoch) {
	r.lastSeq = max(r.lastSeq, e.seq)
	r.epochs[e.id] = e
	r.seqs[e.seq] = e
	r.refs.Add(1) // until the epoch's last Release
}

// drop takes an epoch out. Its memory goes with the last reference.
func (r *Ring) drop(e *Epoch) {
	if r.epochs[e.id] != e {
		return
	}
	delete(r.epochs, e.id)
	delete(r.seqs, e.seq)
	if r.latest == e {
		r.latest = nil
	}
	e.Release()
}

// readDir adopts the epochs of the directory that the ring does not have yet,
// and reports whether it had to read it. It deletes no file. A damaged one is
// passed over, so that it cannot keep the host from sealing. One of another boot
// is remembered in r.foreign: see makeable.
func (r *Ring) readDir() (changed bool, err error) {
	if r.dir == nil {
		return false, nil
	}
	if changed, err = r.dirChanged(); err != nil || !changed {
		return false, err
	}
	defer func() {
		if err != nil {
			r.stamp = stamp{} // what could not be read now is to be read next time
		}
	}()
	if _, err := r.dir.Seek(0, io.SeekStart); err != nil {
		return false, fmt.Errorf("keyring: reading %s: %w", r.dir.Name(), err)
	}
	names, err := r.dir.Readdirnames(-1)
	if err != nil {
		return false, fmt.Errorf("keyring: reading %s: %w", r.dir.Name(), err)
	}
	r.foreign = nil
	for _, name := range names {
		seq, ok := parseFileName(name)
		if !ok || r.seqs[seq] != nil {
			continue
		}
		r.lastSeq = max(r.lastSeq, seq)
		e, err := loadFile(r, name)
		switch {
		case err == nil:
			r.add(e)
		case errors.Is(err, ErrOtherBoot):
			r.foreign = otherBootError(r.dir, name, err)
		case errors.Is(err, ErrDamaged), errors.Is(err, ErrRetired):
		default:
			return false, err
		}
	}
	return true, nil
}

// otherBootError says which epoch is of another boot, and what to do about it.
func otherBootError(dir *os.File, name string, err error) error {
	return fmt.Errorf("%s: %w; a container that shows a boot id of its own needs a directory of its own, named in %s; "+
		"if no process uses the file any more (fuser -v %s/%s, as root on the host), remove it", dir.Name(), err, DirVariable, dir.Name(), name)
}

// makeable returns an error that wraps ErrOtherBoot if this ring must not make an
// epoch: the directory has one of another boot and none of this boot. The processes
// that made it may be alive, in a namespace that shows another boot id, and neither
// side could open the other's tokens. A ring that has an epoch goes on.
func (r *Ring) makeable() error {
	if len(r.epochs) > 0 {
		return nil
	}
	return r.foreign
}

// dirChanged reports whether the directory may have changed since it was last
// read. A directory that was removed is looked for anew.
func (r *Ring) dirChanged() (bool, error) {
	s, links, err := r.look()
	if err != nil {
		return false, err
	}
	if links == 0 {
		if err := r.reopen(); err != nil {
			return false, err
		}
		return true, nil
	}
	if s == r.stamp && s.settled {
		return false, nil
	}
	r.stamp = s
	return true, nil
}

// unchanged is dirChanged for callers that hold the lock for reading only.
func (r *Ring) unchanged() bool {
	s, links, err := r.look()
	return err == nil && links != 0 && s == r.stamp && s.settled
}

// look asks the kernel when the directory last changed, and whether it is there.
func (r *Ring) look() (s stamp, links uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(r.dir.Fd()), &st); err != nil {
		return stamp{}, 0, fmt.Errorf("%w: %s: %w", ErrNoDir, r.dir.Name(), err)
	}
	modified := time.Unix(st.Mtim.Unix())
	s = stamp{modified.Unix(), int64(modified.Nanosecond()), time.Since(modified).Abs() > settleTime}
	return s, uint64(st.Nlink), nil
}

// reopen opens the directory that the ring was made for, or makes it again.
func (r *Ring) reopen() error {
	var dir *os.File
	var err error
	if r.place != "" {
		dir, err = openDir(r.place, &r.opts)
	} else {
		dir, err = findDir(&r.opts)
	}
	if err != nil {
		return err
	}
	if r.dir != nil {
		_ = r.dir.Close()
	}
	r.dir = dir
	r.stamp = stamp{}
	return nil
}

func (r *Ring) dirName() string {
	if r.dir == nil {
		return "memory"
	}
	return r.dir.Name()
}
