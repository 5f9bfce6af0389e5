package keyring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/memsafe"
)

// An Epoch is a host key and the register of the tokens sealed under it. It is
// counted by reference: whoever got it from a Ring must Release it. Safe for
// concurrent use. It prints no secret, and its value cannot be compared.
type Epoch struct {
	_ [0]func() // not comparable

	fixed
	vars
	reg    register
	record record
	ring   *Ring
	back   backing
	refs   atomic.Int64
	looked atomic.Int64 // when the file was last seen there, nanoseconds since boot
}

// backing is what holds an epoch: a mapped file, or memory of this process.
type backing interface {
	linked() error // ErrRetired when the file is gone
	unlink() error // takes the file's name away
	free() error   // unmaps
}

// ID returns the epoch's random id, which tokens carry in clear.
func (e *Epoch) ID() [16]byte { return e.id }

// Suite returns the suite that the epoch was born with.
func (e *Epoch) Suite() suite.Suite { return e.suite }

// MaxLifetime returns the longest lifetime that Reserve gives.
func (e *Epoch) MaxLifetime() time.Duration { return e.maxLifetime }

// Release gives the reference back. The epoch must not be used after it.
func (e *Epoch) Release() {
	if e.refs.Add(-1) == 0 {
		_ = e.back.free() // nothing to be done about a failing munmap
		_ = e.ring.release()
	}
}

// acquire takes a reference unless the last one is already gone.
func (e *Epoch) acquire() bool {
	for {
		n := e.refs.Load()
		if n == 0 {
			return false
		}
		if e.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// alive returns ErrRetired for an epoch that is dead, and ErrDamaged for one
// whose state is none, or whose register was cut off: then its last word faults,
// or is zero if the file was grown again. The caller runs it inside guard.
func (e *Epoch) alive() error {
	switch s := e.state.Load(); s {
	case stateOpen, stateClosed:
		if !e.reg.whole() {
			return fmt.Errorf("%w: its register was cut off", ErrDamaged)
		}
		return nil
	case stateDead:
		return ErrRetired
	default:
		return fmt.Errorf("%w: its state is %d", ErrDamaged, s)
	}
}

// open reports whether the epoch seals.
func (e *Epoch) open() (open bool) {
	_ = guard(func() error { // a damaged epoch is not open; present says why
		open = e.state.Load() == stateOpen && e.alive() == nil
		return nil
	})
	return open
}

// present is alive, and ErrRetired also for an epoch whose file is gone: in a
// wiped runtime directory nothing is worth anything. The caller runs it inside
// guard.
func (e *Epoch) present() error {
	if err := e.alive(); err != nil {
		return err
	}
	return e.back.linked()
}

// lately is nil where the file was there when it was last looked at, unless that is
// as long ago as within: then it looks.
func (e *Epoch) lately(now, within time.Duration) error {
	if now-time.Duration(e.looked.Load()) < within {
		return nil
	}
	if err := e.back.linked(); err != nil {
		return err
	}
	e.looked.Store(int64(now))
	return nil
}

// Derive lends first, and then use unless that is nil, a key of 32 bytes:
// HKDF-Expand-SHA256 over the host key, with label and info, 448 bytes at most
// together, as its info (RFC 5869 2.3; doc/SPEC.md, section 3). The key lies in
// locked memory and is wiped in the end; neither function keeps it. first runs
// inside memsafe.Do, where the key was derived, and must neither allocate nor wait;
// use does not, and has to call memsafe.Do itself. They hold one of few buffers:
// they should be short, and must not derive. Derive returns the first error of the
// two, or, without having called either, ErrRetired, ErrDamaged, or an error of its
// own where label and info are too long. The epoch can be retired meanwhile: Valid
// and Claim tell.
func (e *Epoch) Derive(label string, info []byte, first, use func(key []byte) error) error {
	if n := len(label) + len(info); n > maxInfo {
		return fmt.Errorf("keyring: cannot derive a key from %d bytes of label and info", n)
	}
	return e.ring.scratch.work(func(scratch []byte) (err error) {
		key := scratch[:keySize]
		memsafe.Do(func() {
			err = guard(func() error {
				// Retirement sets the state before it clears the key: alive afterwards
				// means that the key was whole. The addition of nothing keeps the key's
				// loads before the state's, which a load alone does not everywhere.
				expand(e.record.key(), scratch, label, info) // step: derive
				e.state.Add(0)                               // step: derived
				return e.alive()
			})
			if err == nil {
				err = first(key)
			}
		})
		if err == nil && use != nil {
			err = use(key)
		}
		return err
	})
}

// A Lease is a slot reserved for one token and the token's time, as instants
// since the host booted (CLOCK_BOOTTIME, time namespaces taken out).
type Lease struct {
	Slot
	Issued, Expires time.Duration
}

// Reserve takes a slot for a token that lives for lifetime from now; it must be
// positive and at most MaxLifetime. It returns errNotOpen when the epoch was
// closed, ErrFull when too many tokens are outstanding, ErrRetired or
// ErrDamaged. On an error nothing is reserved.
func (e *Epoch) Reserve(lifetime time.Duration) (Lease, error) {
	now, err := e.ring.clock.Now()
	if err != nil {
		return Lease{}, err
	}
	return e.reserve(lifetime, now)
}

func (e *Epoch) reserve(lifetime, now time.Duration) (l Lease, err error) {
	if lifetime <= 0 || lifetime > e.maxLifetime {
		return Lease{}, fmt.Errorf("keyring: lifetime of %v is not between 0 and %v", lifetime, e.maxLifetime)
	}
	err = guard(func() error {
		if err := e.sealing(); err != nil { // step: look
			return err
		}
		expires := now + lifetime
		s, err := e.reg.reserve(e.second(now), e.second(expires)+1, now)
		// Either this sees the retirement, or the retirement's sweep sees the
		// slot; and nothing is sealed in an epoch closed by now, whose keepers
		// count its last token's life from the closing. A swept register looks
		// full, so the state's answer goes before the register's.
		if state := e.sealing(); state != nil { // step: look again
			if err == nil {
				_ = e.reg.claim(s) // swept already, or free again
			}
			return state
		}
		if err != nil {
			return err
		}
		l = Lease{Slot: s, Issued: now, Expires: expires}
		return nil
	})
	return l, err
}

// sealing is alive, and errNotOpen for an epoch that was closed.
func (e *Epoch) sealing() error {
	if e.state.Load() == stateClosed {
		return errNotOpen
	}
	return e.alive()
}

// second returns the whole seconds from the epoch's birth to t.
func (e *Epoch) second(t time.Duration) uint64 {
	return uint64(max(t-e.birth, 0) / time.Second)
}

// ClaimFresh is the one compare-and-swap that decides who owns a context. Claim, cancel
// and take-back are all this swap. It first looks whether the epoch's file is still
// there. It returns nil to exactly one caller on the host for each reservation, ErrSpent
// to all others, and ErrRetired or ErrDamaged if the register is not to be trusted.
func (e *Epoch) ClaimFresh(s Slot) error {
	return guard(func() error {
		if err := e.present(); err != nil { // step: alive
			return err
		}
		return e.swap(s)
	})
}

// ClaimRecent is ClaimFresh at a moment that the ring's clock has just told, and takes
// the word of a recent look: of claims that follow each other closely, one in 20 us
// looks whether the epoch's file is still there. So a claim can succeed up to 20 us
// after its directory was wiped.
func (e *Epoch) ClaimRecent(s Slot, now time.Duration) error {
	return guard(func() error {
		if err := e.alive(); err != nil { // step: alive
			return err
		}
		if err := e.lately(now, claimCheck); err != nil {
			return err
		}
		return e.swap(s)
	})
}

func (e *Epoch) swap(s Slot) error {
	err := e.reg.claim(s)
	if err == nil {
		return nil
	}
	if state := e.alive(); state != nil { // swept this moment, not claimed
		return state
	}
	return err
}

// Holds reports whether the slot is still outstanding, without claiming it.
// Errors: ErrRetired, ErrDamaged.
func (e *Epoch) Holds(s Slot) (held bool, err error) {
	err = guard(func() error {
		held = e.reg.holds(s)
		return e.alive()
	})
	return held && err == nil, err
}

// Valid checks that the epoch is alive and the clock before expires. It is to be
// asked once more before a token or a plain context leaves the process.
// It returns ErrExpired when the time is up, ErrRetired or ErrDamaged.
func (e *Epoch) Valid(expires time.Duration) error {
	now, err := e.ring.clock.Now()
	if err != nil {
		return err
	}
	return e.validAt(expires, now)
}

func (e *Epoch) validAt(expires, now time.Duration) error {
	if now >= expires {
		return ErrExpired
	}
	return guard(e.alive) // step: check again
}

// Outstanding counts the tokens that can still be claimed: none of a retired
// epoch. It reads the whole register. Errors: ErrDamaged.
func (e *Epoch) Outstanding() (n int, err error) {
	now, err := e.ring.clock.Now()
	if err != nil {
		return 0, err
	}
	err = guard(func() error {
		n = e.reg.outstanding(e.second(now))
		return nil
	})
	return n, err
}

// close ends sealing; what is outstanding can still be opened. The clock is read
// after the swap: no token of the epoch was issued later than that.
func (e *Epoch) close() error {
	if err := guard(func() error {
		e.state.CompareAndSwap(stateOpen, stateClosed) // step: close
		return nil
	}); err != nil {
		return err
	}
	now, err := e.ring.clock.Now()
	if err != nil {
		return err
	}
	return guard(func() error {
		e.closedAt.CompareAndSwap(0, max(int64(now), 1))
		return nil
	})
}

// over reports whether the epoch was closed so long ago that no token of it can
// be alive.
func (e *Epoch) over(now time.Duration) bool {
	var over bool
	_ = guard(func() error { // a damaged epoch is found by alive
		closed := e.closedAt.Load()
		over = e.state.Load() == stateClosed && closed != 0 && now > time.Duration(closed)+e.maxLifetime
		return nil
	})
	return over
}

// retire ends the epoch: key and register in one act, which can be repeated
// after a crash in the middle.
func (e *Epoch) retire() error {
	swept := guard(func() error {
		e.state.Swap(stateDead) // step: dead. Not Store: nothing after it may come before it
		e.reg.sweep()
		return nil
	})
	wiped := guard(func() error { // also where the slots were cut off
		// step: wipe
		memsafe.Wipe(e.record.key())
		return nil
	})
	return errors.Join(swept, wiped, e.back.unlink())
}
