package keyring

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sealctx/sealctx/memsafe"
	"golang.org/x/sys/unix"
)

// The functions of this file run with the ring's lock held for writing.

// closeOlder closes every epoch but the latest: for a process that died in the
// middle of a rotation, before it closed the one before or wrote down when.
func (r *Ring) closeOlder() error {
	if r.latest == nil {
		return nil
	}
	for _, e := range r.epochs {
		if e.seq < r.latest.seq {
			if err := e.close(); err != nil && !errors.Is(err, ErrDamaged) {
				return err
			}
		}
	}
	return nil
}

// relieve rotates because the latest epoch's age is up, or because there is no epoch. If
// there is no room for another, epochs without outstanding tokens are retired. If that
// makes no room, the latest epoch seals on for a while.
//
// The latest epoch is retired only if this process is short of locked memory. If the
// directory is full, retiring it might not free enough space for a new one, because
// another process may have it mapped; then nothing could be sealed.
func (r *Ring) relieve(now time.Duration) error {
	short := r.rotate(now)
	if short == nil || !crowded(short) {
		return short
	}
	freed := false
	for _, e := range r.sorted() {
		if e == r.latest && !errors.Is(short, memsafe.ErrLimit) {
			continue
		}
		idle, err := r.retireIdle(e)
		if err != nil {
			return err
		}
		freed = freed || idle
	}
	if freed {
		short = r.rotate(now)
	}
	if short != nil && crowded(short) && r.latest != nil && r.latest.open() {
		return nil
	}
	return short
}

// retireIdle retires an epoch without outstanding tokens and reports whether it did. It
// leaves an epoch that is in use in this process, because its page would stay locked. It
// counts again once the epoch is closed: from then on no token is reserved in it.
func (r *Ring) retireIdle(e *Epoch) (bool, error) {
	if e.refs.Load() > 1 {
		return false, nil
	}
	if n, err := e.Outstanding(); err != nil || n > 0 {
		return false, err
	}
	if err := e.close(); err != nil {
		return false, err
	}
	if n, err := e.Outstanding(); err != nil || n > 0 {
		return false, err
	}
	err := e.retire()
	r.drop(e)
	return true, err
}

// crowded reports whether err is a lack of room.
func crowded(err error) bool {
	return errors.Is(err, ErrFull) || errors.Is(err, ErrNoSpace) || errors.Is(err, memsafe.ErrLimit)
}

// rotate makes the next epoch, or adopts the one that another process was
// quicker to make, and closes those before it.
func (r *Ring) rotate(now time.Duration) error {
	if err := r.makeable(); err != nil {
		return err
	}
	if r.lastSeq >= maxSeq {
		return fmt.Errorf("%w: a file in %s has the last number that there is; remove it", ErrUnsafeDir, r.dirName())
	}
	if len(r.epochs) >= MaxEpochs {
		return fmt.Errorf("%w: %d epochs are alive; wait until one has ended, or retire one", ErrFull, len(r.epochs))
	}
	f := fixed{
		suite: r.opts.Suite, boot: r.boot, birth: now, seq: r.nextSeq(),
		outstanding: r.opts.Capacity, age: r.opts.Age, maxLifetime: r.opts.MaxLifetime,
	}
	if _, err := io.ReadFull(r.random, f.id[:]); err != nil {
		return fmt.Errorf("keyring: random source: %w", err)
	}
	create := createFile
	if r.dir == nil {
		create = createHeld
	}
	e, err := create(r, f)
	switch {
	case err == nil:
		r.add(e)
	case !errors.Is(err, unix.EEXIST):
		return err
	}
	r.stamp = stamp{} // read the directory again, whoever won
	if err := r.refresh(now); err != nil {
		return err
	}
	if r.latest == nil {
		return fmt.Errorf("%w: the epoch made for %s was retired at once, or an unusable file has its name", ErrRetired, r.dirName())
	}
	return nil
}

// nextSeq is the number of the next epoch. The first number in an empty directory is the
// time at which the directory last changed, which every process sees alike. A number that
// was used there before does not come again, so a process that was stopped while it
// retired an epoch does not remove the name of a later one.
func (r *Ring) nextSeq() uint64 {
	if r.lastSeq == 0 && r.stamp.sec > 0 {
		return uint64(r.stamp.sec)*uint64(time.Second) + uint64(r.stamp.nsec)
	}
	return r.lastSeq + 1
}
