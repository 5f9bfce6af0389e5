package keyring

import (
	"sync/atomic"
	"time"
)

// A tally is the count of a register's outstanding tokens, in one word:
//
//	bit 63      45 44                        25 24       0
//	turn : 19     | reserved in this turn : 20 | tokens : 25
//
// It is never below the number of tokens that are outstanding and whose reservation
// has returned, so that the limit holds whichever processes stop or die. It may be
// above: processes that died had counted a token, and tokens expired. A recount mends
// that. It changes the turn, once before it looks at the slots and once after:
//
//   - A reservation counts its token before it takes a slot. If the turn has changed
//     when it has the slot, the recount may have passed the slot before that and
//     forgotten the token; the reservation gives the slot back and begins anew.
//   - A claim lowers the count after it has freed the slot. If the turn has changed
//     since it looked, before that, the recount may have found the slot free already;
//     the claim leaves the count alone.
//   - A recount sets the count to the slots that it found taken, and all reservations
//     since it began.
//
// The turn comes round after 2^18 recounts, which takes seven hours at least. A process
// that is stopped for exactly that long may leave the count one too low, until the next
// recount.
type tally uint64

const (
	tokenBits = 25 // maxCapacity, and as many again that are about to be refused
	madeBits  = 20 // more than can be reserved during a recount; what overflows changes the turn

	maxTokens = 1<<tokenBits - 1
	maxMade   = 1<<madeBits - 1

	turnShift = tokenBits + madeBits
	oneMore   = 1<<tokenBits | 1 // a token that is reserved in this turn
	oneLess   = 1                // a token of whatever turn
)

func makeTally(turn uint64, tokens int) tally {
	return tally(turn<<turnShift | uint64(min(tokens, maxTokens)))
}

func (t tally) turn() uint64 { return uint64(t) >> turnShift }
func (t tally) made() int    { return int(t >> tokenBits & maxMade) }
func (t tally) tokens() int  { return int(t & maxTokens) }

// uncount takes oneLess or oneMore off the count, unless the turn has changed since
// counted was read.
func (r *register) uncount(counted tally, off uint64) {
	for {
		now := tally(r.count.Load())
		if now.turn() != counted.turn() || now.tokens() == 0 {
			return
		}
		if r.count.CompareAndSwap(uint64(now), uint64(now)-off) { // step: uncount
			return
		}
	}
}

// recount sets the count to what the slots say, and frees those of tokens that expired
// unclaimed. It reports whether it did: at most once every recountEvery, and not beside
// another.
func (r *register) recount(second uint64, now time.Duration) bool {
	last := r.swept.Load()
	if int64(now)-last < int64(recountEvery) || !r.swept.CompareAndSwap(last, int64(now)) {
		return false
	}
	turn := r.nextTurn()
	return r.recounted(turn, r.tidy(second))
}

// recounted ends the recount of a turn, which found so many tokens. It reports whether
// that was the turn still.
func (r *register) recounted(turn uint64, tokens int) bool {
	for {
		t := tally(r.count.Load())
		if t.turn() != turn {
			return false
		}
		if r.count.CompareAndSwap(uint64(t), uint64(makeTally(turn+1, tokens+t.made()))) { // step: recounted
			return true
		}
	}
}

// nextTurn begins a recount and returns its turn.
func (r *register) nextTurn() uint64 {
	for {
		t := tally(r.count.Load())
		next := makeTally(t.turn()+1, t.tokens())
		if r.count.CompareAndSwap(uint64(t), uint64(next)) { // step: recount
			return next.turn()
		}
	}
}

// tidy frees the slots of expired tokens and returns how many tokens are left.
func (r *register) tidy(second uint64) (n int) {
	for i := range r.slots {
		w := word(atomic.LoadUint64(&r.slots[i]))
		if w.state() == slotOut && w.expiry() < second {
			if atomic.CompareAndSwapUint64(&r.slots[i], uint64(w), uint64(makeWord(w.gen(), 0, slotFree))) { // step: tidy
				continue
			}
			w = word(atomic.LoadUint64(&r.slots[i])) // another token took it over
		}
		if w.live(second) {
			n++
		}
	}
	return n
}
