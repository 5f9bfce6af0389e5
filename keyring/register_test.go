package keyring

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newRegister is a register in ordinary memory.
func newRegister(capacity, limit int) *register {
	r := &register{slots: make([]uint64, capacity), limit: limit, count: new(atomic.Uint64), swept: new(atomic.Int64)}
	for i := range r.slots {
		r.slots[i] = freshWord
	}
	return r
}

func TestWord(t *testing.T) {
	for _, c := range []struct{ gen, expiry, state uint64 }{
		{0, 0, slotFree}, {1, 2, slotOut}, {maxGen, maxExpiry, slotSpent}, {maxGen, 0, 0}, {0, maxExpiry, 0},
	} {
		w := makeWord(c.gen, c.expiry, c.state)
		require.Equal(t, c.gen, w.gen())
		require.Equal(t, c.expiry, w.expiry())
		require.Equal(t, c.state, w.state())
	}
	require.EqualValues(t, uint64(math.MaxUint64), makeWord(maxGen, maxExpiry, 3), "the three fields fill the word")
	require.NotZero(t, freshWord, "zeroed memory must not be a free slot")
}

// The transitions of the package comment: each word, each action, one slot.
func TestTransitions(t *testing.T) {
	const second, expiry = 100, 130
	free := func(gen uint64) uint64 { return uint64(makeWord(gen, 0, slotFree)) }
	out := func(gen, expiry uint64) uint64 { return uint64(makeWord(gen, expiry, slotOut)) }
	spent := uint64(makeWord(maxGen, 0, slotSpent))
	reserve := func(r *register) error { _, err := r.reserve(second, expiry, 0); return err }
	claim := func(index uint32, word uint64) func(*register) error {
		return func(r *register) error {
			held := r.holds(Slot{index, word})
			err := r.claim(Slot{index, word})
			if held != (err == nil) {
				return fmt.Errorf("holds said %v, claim %w", held, err)
			}
			return err
		}
	}
	for _, c := range []struct {
		name   string
		before uint64
		do     func(*register) error
		err    error
		after  uint64
		count  int // its change
	}{
		{"reserve a fresh slot", freshWord, reserve, nil, out(1, expiry), 1},
		{"reserve a used slot", free(7), reserve, nil, out(8, expiry), 1},
		{"reserve the last generation", free(maxGen - 1), reserve, nil, out(maxGen, expiry), 1},
		{"reserve beyond the last generation", free(maxGen), reserve, ErrFull, free(maxGen), 0},
		{"reserve one that is out", out(7, second+1), reserve, ErrFull, out(7, second+1), 0},
		{"reserve one in its last second", out(7, second), reserve, ErrFull, out(7, second), 0},
		{"reserve an expired one", out(7, second-1), reserve, nil, out(8, expiry), 1},
		{"reserve an expired one of the last generation", out(maxGen, second-1), reserve, ErrFull, out(maxGen, second-1), 0},
		{"reserve a spent slot", spent, reserve, ErrFull, spent, 0},
		{"reserve zeroed memory", 0, reserve, ErrDamaged, 0, 0},
		{"reserve a word without state", uint64(makeWord(7, 0, 0)), reserve, ErrDamaged, uint64(makeWord(7, 0, 0)), 0},
		{"reserve past the 22 bits", freshWord, func(r *register) error {
			_, err := r.reserve(second, maxExpiry+1, 0)
			return err
		}, errNotOpen, freshWord, 0},
		{"reserve to the end of the 22 bits", freshWord, func(r *register) error {
			_, err := r.reserve(second, maxExpiry, 0)
			return err
		}, nil, out(1, maxExpiry), 1},

		{"claim", out(7, 5), claim(0, out(7, 5)), nil, free(7), -1},
		{"claim an older generation", out(8, 5), claim(0, out(7, 5)), ErrSpent, out(8, 5), 0},
		{"claim a newer generation", out(6, 5), claim(0, out(7, 5)), ErrSpent, out(6, 5), 0},
		{"claim with another expiry", out(7, 6), claim(0, out(7, 5)), ErrSpent, out(7, 6), 0},
		{"claim what was claimed", free(7), claim(0, out(7, 5)), ErrSpent, free(7), 0},
		{"claim what was swept", spent, claim(0, out(7, 5)), ErrSpent, spent, 0},
		{"claim a free slot by its own word", free(7), claim(0, free(7)), ErrSpent, free(7), 0},
		{"claim a spent slot by its own word", spent, claim(0, spent), ErrSpent, spent, 0},
		{"claim zeroed memory", 0, claim(0, out(7, 5)), ErrSpent, 0, 0},
		{"claim zeroed memory by zero", 0, claim(0, 0), ErrSpent, 0, 0},
		{"claim behind the end", out(7, 5), claim(1, out(7, 5)), ErrSpent, out(7, 5), 0},
		{"claim far behind the end", out(7, 5), claim(math.MaxUint32, out(7, 5)), ErrSpent, out(7, 5), 0},

		{"sweep a free slot", free(7), func(r *register) error { r.sweep(); return nil }, nil, spent, 0},
		{"sweep one that is out", out(7, 5), func(r *register) error { r.sweep(); return nil }, nil, spent, 0},
		{"sweep again", spent, func(r *register) error { r.sweep(); return nil }, nil, spent, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegister(1, 8)
			r.count.Store(uint64(makeTally(0, 3)))
			r.slots[0] = c.before
			err := c.do(r)
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.err == nil, err == nil)
			require.Equal(t, c.after, r.slots[0])
			require.Equal(t, c.count, tally(r.count.Load()).tokens()-3)
		})
	}
}

// A slot whose generation is used up is never reserved again, and the others
// carry on.
func TestGenerationExhaustion(t *testing.T) {
	r := newRegister(8, 4)
	for i := range r.slots {
		r.slots[i] = uint64(makeWord(maxGen-2, 0, slotFree))
	}
	var got int
	for range 1000 {
		s, err := r.reserve(0, 1, 0)
		if errors.Is(err, ErrFull) {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, r.claim(s))
		got++
	}
	require.Equal(t, 2*len(r.slots), got, "each slot had two generations left")
	for _, w := range r.slots {
		require.EqualValues(t, makeWord(maxGen, 0, slotFree), w)
	}
}

func TestTally(t *testing.T) {
	for _, c := range []struct {
		turn         uint64
		made, tokens int
	}{{0, 0, 0}, {1, 2, 3}, {1<<19 - 1, maxMade, maxTokens}, {5, 0, maxCapacity}, {5, maxMade, 0}} {
		w := makeTally(c.turn, c.tokens) | tally(c.made<<tokenBits)
		require.Equal(t, c.turn, w.turn())
		require.Equal(t, c.made, w.made())
		require.Equal(t, c.tokens, w.tokens())
	}
	require.EqualValues(t, uint64(math.MaxUint64), makeTally(1<<19-1, maxTokens)|maxMade<<tokenBits, "the three fields fill the word")
	require.Equal(t, maxTokens, makeTally(0, 4*maxCapacity).tokens(), "more than fits is as many as fit")
	require.Equal(t, makeTally(7, 1)|1<<tokenBits, makeTally(7, 0)+oneMore)
	require.Greater(t, maxTokens, maxCapacity)
}

// count is how many tokens a register has counted.
func (r *register) tokens() int { return tally(r.count.Load()).tokens() }

func TestFull(t *testing.T) {
	r := newRegister(16, 8)
	var held []Slot
	for range 8 {
		s, err := r.reserve(0, 10, 0)
		require.NoError(t, err)
		held = append(held, s)
	}
	require.Equal(t, 8, r.outstanding(0))
	now := recountEvery
	_, err := r.reserve(0, 10, now)
	require.ErrorIs(t, err, ErrFull)
	require.Equal(t, 8, r.tokens())

	require.NoError(t, r.claim(held[3]))
	_, err = r.reserve(0, 10, now)
	require.NoError(t, err, "a claim makes room")

	// All expire unclaimed: one recount, at most every 100 ms, frees them.
	_, err = r.reserve(11, 20, now+recountEvery/2)
	require.ErrorIs(t, err, ErrFull, "counted anew too soon")
	_, err = r.reserve(11, 20, now+recountEvery)
	require.NoError(t, err)
	require.Equal(t, 1, r.tokens())
	require.Equal(t, 1, r.outstanding(11))
	for _, s := range held {
		require.ErrorIs(t, r.claim(s), ErrSpent)
	}
}

// Processes that died between a swap and its counting, tokens that expired, and
// recounts that were begun and not ended leave the count too high. The next recount
// mends it.
func TestRecountAfterCrashes(t *testing.T) {
	for name, crash := range map[string]func(r *register){
		"counted, not reserved":  func(r *register) { r.count.Add(oneMore) },
		"five of them":           func(r *register) { r.count.Add(5 * oneMore) },
		"a thousand":             func(r *register) { r.count.Add(1000 * oneMore) },
		"recount begun":          func(r *register) { r.nextTurn() },
		"recount begun, tidied":  func(r *register) { r.nextTurn(); r.tidy(0) },
		"reserved, not counted":  func(r *register) { _, _ = r.take(0, 2) },
		"more than fits is made": func(r *register) { r.count.Add(maxMade << tokenBits) },
	} {
		r := newRegister(16, 8)
		var held []Slot
		for range 4 {
			s, err := r.reserve(0, 10, 0)
			require.NoError(t, err)
			held = append(held, s)
		}
		crash(r)
		now, second := time.Duration(0), uint64(3)
		for range 4 {
			now += recountEvery
			s, err := r.reserve(second, 10, now)
			require.NoError(t, err, name)
			held = append(held, s)
		}
		for range 3 {
			now += recountEvery
			_, err := r.reserve(second, 10, now)
			require.ErrorIs(t, err, ErrFull, name)
		}
		require.Equal(t, 8, r.tokens(), name)
		for _, s := range held {
			require.NoError(t, r.claim(s))
		}
		require.Zero(t, r.tokens(), name)
	}
}

// recounting is a recount in its parts, for what happens in between.
func recounting(r *register, between ...func()) {
	turn := r.nextTurn()
	between[0]()
	n := r.tidy(0)
	between[1]()
	r.recounted(turn, n)
}

// What happens beside a recount leaves the count too high and never too low, and the
// next recount mends it.
func TestBesideRecount(t *testing.T) {
	nothing := func() {}
	const limit = 8
	setup := func() (r *register, held []Slot) {
		r = newRegister(2*limit, limit)
		for range limit / 2 {
			s, err := r.reserve(0, 10, 0)
			require.NoError(t, err)
			held = append(held, s)
		}
		return r, held
	}
	reserve := func(r *register, n int) func() {
		return func() {
			for range n {
				_, err := r.reserve(0, 10, 0)
				require.NoError(t, err)
			}
		}
	}
	claim := func(r *register, held []Slot) func() {
		return func() {
			for _, s := range held {
				require.NoError(t, r.claim(s))
			}
		}
	}
	check := func(name string, r *register, high int) {
		t.Helper()
		out := r.outstanding(0)
		require.Equal(t, out+high, r.tokens(), name)
		recounting(r, nothing, nothing)
		require.Equal(t, out, r.tokens(), name)
	}
	r, held := setup()
	recounting(r, claim(r, held[:2]), nothing)
	check("claimed before the slots are looked at", r, 0)
	r, held = setup()
	recounting(r, nothing, claim(r, held[:2]))
	check("claimed after the slots were looked at", r, 2)
	r, _ = setup()
	recounting(r, reserve(r, 2), nothing)
	check("reserved before the slots are looked at", r, 2)
	r, _ = setup()
	recounting(r, nothing, reserve(r, 2))
	check("reserved after the slots were looked at", r, 0)
	r, held = setup()
	recounting(r, func() { claim(r, held)(); reserve(r, limit/2)() }, nothing)
	check("all claimed and as many reserved", r, limit/2)

	// A claim that looked at the count before the recount, and freed its slot, ends
	// after it.
	r, held = setup()
	counted := tally(r.count.Load())
	require.True(t, r.swap(held[0]))
	recounting(r, nothing, nothing)
	r.uncount(counted, oneLess)
	check("claim over a recount", r, 0)
	// The same within the recount.
	r, held = setup()
	recounting(r, func() {
		counted = tally(r.count.Load())
		require.True(t, r.swap(held[0]))
	}, nothing)
	r.uncount(counted, oneLess)
	check("claim out of a recount", r, 0)
	// A reservation that counted its token before the recount, and took its slot after
	// the slots were looked at, finds another turn than it counted in.
	r, _ = setup()
	counted = tally(r.count.Add(oneMore))
	recounting(r, nothing, func() {
		_, err := r.take(0, 10)
		require.NoError(t, err)
		require.NotEqual(t, counted.turn(), tally(r.count.Load()).turn(), "it would be forgotten")
	})
	// Of two recounts the one that began later counts.
	r, held = setup()
	turn := r.nextTurn()
	n := r.tidy(0)
	claim(r, held)()
	recounting(r, nothing, nothing)
	require.False(t, r.recounted(turn, n))
	check("recount overtaken", r, 0)
}

// Processes reserve and claim as fast as they can beside recounts: never do more than
// the limit have a token.
func TestNeverBeyondLimit(t *testing.T) {
	rounds := 4000
	if testing.Short() {
		rounds = 500
	}
	for _, limit := range []int{1, 2, 5, 64} {
		r := newRegister(2*limit, limit)
		var have, worst, full, recounts atomic.Int64
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for i := range rounds {
					var mine []Slot
					for range 1 + limit/2 {
						s, err := r.reserve(0, 1000, 0)
						if err != nil {
							full.Add(1)
							break
						}
						mine = append(mine, s)
						n := have.Add(1)
						for w := worst.Load(); n > w && !worst.CompareAndSwap(w, n); w = worst.Load() {
						}
					}
					for k, s := range mine {
						have.Add(-1)
						if err := r.claim(s); err != nil {
							t.Error(err)
						}
						if k == i%(1+limit/2) && r.recount(0, time.Duration(r.swept.Load())+recountEvery) {
							recounts.Add(1)
						}
					}
				}
			})
		}
		all.Wait()
		require.LessOrEqual(t, worst.Load(), int64(limit))
		t.Logf("limit %d: at most %d outstanding, %d recounts, %d times full", limit, worst.Load(), recounts.Load(), full.Load())
		require.Positive(t, recounts.Load())
		require.True(t, r.recount(0, time.Duration(r.swept.Load())+recountEvery))
		require.Zero(t, r.tokens())
	}
}

// slotTable is what the model is compared with: the register, or a broken one.
type slotTable interface {
	reserve(second, expiry uint64, now time.Duration) (Slot, error)
	claim(Slot) error
	words() []uint64
}

func (r *register) words() []uint64 { return r.slots }

// A naive model of the register: every token ever made, with what became of it.
type modelToken struct {
	slot   Slot
	expiry uint64
	over   bool // claimed, or its slot taken over
}

// againstModel runs random reservations, claims of live, spent and forged
// tokens, and leaps of the clock, and says where table departs from the model.
func againstModel(table slotTable, limit int, rng *rand.Rand, steps int) error {
	second, now := uint64(0), time.Duration(0)
	var tokens []*modelToken
	holder := map[uint32]*modelToken{} // whose word the slot holds, claimed or not
	live := func() (n int) {
		for _, h := range holder {
			if !h.over && h.expiry >= second {
				n++
			}
		}
		return n
	}
	for step := range steps {
		now += recountEvery
		switch rng.IntN(8) {
		case 0:
			second += rng.Uint64N(4)
		case 1, 2, 3:
			expiry := second + 1 + rng.Uint64N(5)
			s, err := table.reserve(second, expiry, now)
			if live() >= limit {
				if !errors.Is(err, ErrFull) {
					return fmt.Errorf("step %d: reserved beyond the limit: %v", step, err)
				}
				continue
			}
			if err != nil {
				return fmt.Errorf("step %d: %d of %d live: %w", step, live(), limit, err)
			}
			gen := uint64(1)
			if old := holder[s.Index]; old != nil {
				if !old.over && old.expiry >= second {
					return fmt.Errorf("step %d: slot %d was taken from a live token", step, s.Index)
				}
				old.over = true
				gen = word(old.slot.Word).gen() + 1
			}
			if want := makeWord(gen, expiry, slotOut); word(s.Word) != want || table.words()[s.Index] != uint64(want) {
				return fmt.Errorf("step %d: word is %x, token has %x, model %x", step, table.words()[s.Index], s.Word, want)
			}
			holder[s.Index] = &modelToken{slot: s, expiry: expiry}
			tokens = append(tokens, holder[s.Index])
		case 4, 5, 6:
			if len(tokens) == 0 {
				continue
			}
			// Of late ones rather: those are still alive.
			tok := tokens[len(tokens)-1-rng.IntN(min(len(tokens), 3*limit))]
			freed := !tok.over && tok.expiry < second // a recount may have got it
			err := table.claim(tok.slot)
			switch {
			case tok.over && !errors.Is(err, ErrSpent):
				return fmt.Errorf("step %d: a token that was over opened: %v", step, err)
			case !tok.over && !freed && err != nil:
				return fmt.Errorf("step %d: a live token was lost: %w", step, err)
			}
			tok.over = true
		case 7:
			forged := Slot{rng.Uint32N(uint32(len(table.words()))), rng.Uint64()}
			if len(tokens) > 0 {
				near := tokens[rng.IntN(len(tokens))].slot
				forged = Slot{near.Index, near.Word ^ 1<<rng.IntN(64)}
			}
			if h := holder[forged.Index]; h != nil && h.slot == forged && !h.over {
				continue // not forged after all
			}
			if err := table.claim(forged); !errors.Is(err, ErrSpent) {
				return fmt.Errorf("step %d: a forged word opened: %v", step, err)
			}
		}
	}
	return nil
}

func TestAgainstModel(t *testing.T) {
	runs := 2000
	if testing.Short() {
		runs = 200
	}
	for seed := range uint64(runs) {
		limit := 1 + int(seed%9)
		require.NoError(t, againstModel(newRegister(2*limit, limit), limit, rand.New(rand.NewPCG(seed, 1)), 300), "seed %d", seed)
	}

	// The control: each of these faults is found.
	for name, broken := range map[string]func(*register) slotTable{
		"a generation that stays":       func(r *register) slotTable { return staleGeneration{r} },
		"a claim that compares no word": func(r *register) slotTable { return carelessClaim{r} },
		"a claim that frees nothing":    func(r *register) slotTable { return idleClaim{r} },
		"a limit that is off by one":    func(r *register) slotTable { r.limit++; return r },
	} {
		found := 0
		for seed := range uint64(50) {
			limit := 2 + int(seed%5)
			if againstModel(broken(newRegister(2*limit+2, limit)), limit, rand.New(rand.NewPCG(seed, 2)), 300) != nil {
				found++
			}
		}
		require.NotZero(t, found, "not found: %s", name)
	}
}

type staleGeneration struct{ *register }

func (r staleGeneration) reserve(second, expiry uint64, now time.Duration) (Slot, error) {
	s, err := r.register.reserve(second, expiry, now)
	if err == nil {
		w := word(s.Word)
		s.Word = uint64(makeWord(max(w.gen(), 2)-1, w.expiry(), slotOut))
		r.slots[s.Index] = s.Word
	}
	return s, err
}

type carelessClaim struct{ *register }

func (r carelessClaim) claim(s Slot) error {
	s.Word = r.slots[s.Index]
	return r.register.claim(s)
}

type idleClaim struct{ *register }

func (r idleClaim) claim(s Slot) error {
	if !r.holds(s) {
		return ErrSpent
	}
	return nil
}
