package keyring

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// The word of a slot; the package comment has the picture.
const (
	stateBits  = 2
	expiryBits = 22
	genShift   = stateBits + expiryBits

	maxExpiry = 1<<expiryBits - 1
	maxGen    = 1<<(64-genShift) - 1
)

const (
	slotFree  = 1
	slotOut   = 2
	slotSpent = 3
)

type word uint64

func makeWord(gen, expiry, state uint64) word {
	return word(gen<<genShift | expiry<<stateBits | state)
}

func (w word) gen() uint64    { return uint64(w) >> genShift }
func (w word) expiry() uint64 { return uint64(w) >> stateBits & maxExpiry }
func (w word) state() uint64  { return uint64(w) & (1<<stateBits - 1) }

// A Slot names one reservation: where it stands and the word that stands there.
// It is not secret; a token carries it.
type Slot struct {
	Index uint32
	Word  uint64
}

// A register is the slots of an epoch. All its methods are safe for concurrent
// use, between processes too; the caller keeps the memory mapped.
type register struct {
	slots []uint64      // the words, accessed atomically only
	limit int           // outstanding tokens allowed
	count *atomic.Int64 // outstanding tokens, too high after a crash, never for long
	swept *atomic.Int64 // when the count was last taken anew, nanoseconds since boot
}

// errNoWord is a slot of zeros: somebody punched a hole into the file.
var errNoWord = fmt.Errorf("%w: a slot of its register was zeroed", ErrDamaged)

// freshWord is what every slot of a new register holds.
var freshWord = uint64(makeWord(0, 0, slotFree))

// reserve takes a free or expired slot for a token that expires at the given
// second after the epoch's birth. second is now on the same clock.
func (r *register) reserve(second, expiry uint64, now time.Duration) (Slot, error) {
	if expiry > maxExpiry {
		return Slot{}, fmt.Errorf("%w: the epoch is too old for this lifetime", ErrNotOpen)
	}
	// The count is raised before the swap and lowered after the claim's: a
	// crash in between leaves it too high, which recount mends.
	if r.count.Add(1) > int64(r.limit) {
		r.count.Add(-1)
		r.recount(second, now)
		if r.count.Add(1) > int64(r.limit) {
			r.count.Add(-1)
			return Slot{}, fmt.Errorf("%w: %d tokens outstanding", ErrFull, r.limit)
		}
	}
	for range probes {
		i := rand.Uint32N(uint32(len(r.slots))) // a good spread; which slot is no secret
		w := word(atomic.LoadUint64(&r.slots[i]))
		if w.state() == 0 {
			r.count.Add(-1)
			return Slot{}, errNoWord
		}
		expired := w.state() == slotOut && w.expiry() < second
		if w.state() != slotFree && !expired || w.gen() == maxGen {
			continue
		}
		next := makeWord(w.gen()+1, expiry, slotOut)
		if atomic.CompareAndSwapUint64(&r.slots[i], uint64(w), uint64(next)) {
			if expired {
				r.count.Add(-1) // the token that was never claimed
			}
			return Slot{Index: i, Word: uint64(next)}, nil
		}
	}
	r.count.Add(-1)
	r.recount(second, now) // with so many taken, the count is too low
	return Slot{}, fmt.Errorf("%w: no free slot among %d", ErrFull, probes)
}

// claim is the one swap that decides who owns a context.
func (r *register) claim(s Slot) error {
	if int64(s.Index) >= int64(len(r.slots)) {
		return ErrSpent
	}
	w := word(s.Word)
	if w.state() != slotOut {
		return ErrSpent
	}
	if !atomic.CompareAndSwapUint64(&r.slots[s.Index], s.Word, uint64(makeWord(w.gen(), 0, slotFree))) {
		return ErrSpent
	}
	r.count.Add(-1)
	return nil
}

// holds reports whether the slot still holds its word, without claiming it.
func (r *register) holds(s Slot) bool {
	return int64(s.Index) < int64(len(r.slots)) && word(s.Word).state() == slotOut &&
		atomic.LoadUint64(&r.slots[s.Index]) == s.Word
}

// whole reports whether the last slot is there: whatever is cut off a file, and
// grown again as zeros, it is part of it.
func (r *register) whole() bool {
	return word(atomic.LoadUint64(&r.slots[len(r.slots)-1])).state() != 0
}

// sweep makes every outstanding token worthless, for good.
func (r *register) sweep() {
	for i := range r.slots {
		atomic.StoreUint64(&r.slots[i], uint64(makeWord(maxGen, 0, slotSpent)))
	}
	r.count.Store(0)
}

// outstanding counts the tokens that could still be claimed at a second.
func (r *register) outstanding(second uint64) int {
	n := 0
	for i := range r.slots {
		w := word(atomic.LoadUint64(&r.slots[i]))
		if w.state() == slotOut && w.expiry() >= second {
			n++
		}
	}
	return n
}

// recount frees what expired unclaimed and corrects the count by what the
// slots say, for processes that died between a swap and its counting.
// Reservations and claims that run meanwhile may leave the count off by their
// number until the next time.
func (r *register) recount(second uint64, now time.Duration) {
	last := r.swept.Load()
	if int64(now)-last < int64(recountEvery) || !r.swept.CompareAndSwap(last, int64(now)) {
		return
	}
	for i := range r.slots {
		w := word(atomic.LoadUint64(&r.slots[i]))
		if w.state() == slotOut && w.expiry() < second &&
			atomic.CompareAndSwapUint64(&r.slots[i], uint64(w), uint64(makeWord(w.gen(), 0, slotFree))) {
			r.count.Add(-1)
		}
	}
	before := r.count.Load()
	r.count.Add(int64(r.outstanding(second)) - before)
}
