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

// live reports whether the word belongs to a token that can still be claimed.
func (w word) live(second uint64) bool { return w.state() == slotOut && w.expiry() >= second }

// reservable reports whether the word's slot can be reserved.
func (w word) reservable(second uint64) bool {
	return (w.state() == slotFree || w.state() == slotOut && w.expiry() < second) && w.gen() < maxGen
}

// A Slot names one reservation: where it stands and the word that stands there.
// It is not secret; a token carries it.
type Slot struct {
	Index uint32
	Word  uint64
}

// A register is the slots of an epoch. All its methods are safe for concurrent
// use, between processes too; the caller keeps the memory mapped.
type register struct {
	slots []uint64       // the words, accessed atomically only
	limit int            // outstanding tokens allowed
	count *atomic.Uint64 // a tally
	swept *atomic.Int64  // when the count was last taken anew, nanoseconds since boot
}

// errNoWord is a slot of zeros: a hole was punched into the file.
var errNoWord = fmt.Errorf("%w: a slot of its register was zeroed", ErrDamaged)

// freshWord is what every slot of a new register holds.
var freshWord = uint64(makeWord(0, 0, slotFree))

// reserve takes a free or expired slot for a token that expires at the given
// second after the epoch's birth. second is now on the same clock.
func (r *register) reserve(second, expiry uint64, now time.Duration) (Slot, error) {
	if expiry > maxExpiry {
		return Slot{}, fmt.Errorf("%w: the epoch is too old for this lifetime", errNotOpen)
	}
	for range reserveTries {
		counted := tally(r.count.Add(oneMore)) // step: count
		if counted.tokens() > r.limit {
			r.uncount(counted, oneMore)
			if r.recount(second, now) {
				continue
			}
			return Slot{}, r.errFull()
		}
		s, err := r.take(second, expiry)
		if err != nil {
			r.uncount(counted, oneMore)
			return Slot{}, err
		}
		if tally(r.count.Load()).turn() == counted.turn() { // step: counted
			return s, nil
		}
		_ = r.swap(s) // a recount may have passed the slot before it was taken
	}
	return Slot{}, r.errFull()
}

func (r *register) errFull() error { return fmt.Errorf("%w: %d tokens outstanding", ErrFull, r.limit) }

// take swaps a new word into a free or expired slot.
func (r *register) take(second, expiry uint64) (Slot, error) {
	for range probes {
		i := rand.Uint32N(uint32(len(r.slots))) // a good spread; which slot is no secret
		w := word(atomic.LoadUint64(&r.slots[i]))
		if w.state() == 0 {
			return Slot{}, errNoWord
		}
		if !w.reservable(second) {
			continue
		}
		next := uint64(makeWord(w.gen()+1, expiry, slotOut))
		if atomic.CompareAndSwapUint64(&r.slots[i], uint64(w), next) { // step: reserve
			return Slot{Index: i, Word: next}, nil
		}
	}
	return Slot{}, fmt.Errorf("%w: no free slot among %d", ErrFull, probes)
}

// claim is the one swap that decides who owns a context.
func (r *register) claim(s Slot) error {
	if int64(s.Index) >= int64(len(r.slots)) || word(s.Word).state() != slotOut {
		return ErrSpent
	}
	counted := tally(r.count.Load()) // step: turn
	if !r.swap(s) {
		return ErrSpent
	}
	r.uncount(counted, oneLess)
	return nil
}

// swap frees a slot if it holds the word that was reserved.
func (r *register) swap(s Slot) bool {
	free := uint64(makeWord(word(s.Word).gen(), 0, slotFree))
	return atomic.CompareAndSwapUint64(&r.slots[s.Index], s.Word, free) // step: claim
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
		atomic.StoreUint64(&r.slots[i], uint64(makeWord(maxGen, 0, slotSpent))) // step: sweep
	}
}

// outstanding counts the tokens that could still be claimed at a second.
func (r *register) outstanding(second uint64) int {
	n := 0
	for i := range r.slots {
		if word(atomic.LoadUint64(&r.slots[i])).live(second) {
			n++
		}
	}
	return n
}
