package permsg

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

const (
	goroutines = 64
	each       = 200
)

// crowd runs f in 64 goroutines and returns when all have.
func crowd(f func(g int)) {
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() { f(g) })
	}
	wg.Wait()
}

// holes returns how many of the n numbers from first on are missing among the
// tokens, and how many come twice.
func holes(t *testing.T, toks [][]byte, first uint64, n int) (missing, twice int) {
	t.Helper()
	seen := make([]int, n)
	for _, tok := range toks {
		seq := binary.BigEndian.Uint64(tok[8:])
		require.Less(t, seq-first, uint64(n))
		seen[seq-first]++
	}
	for _, k := range seen {
		if k == 0 {
			missing++
		}
		if k > 1 {
			twice += k - 1
		}
	}
	return missing, twice
}

// TestConcurrentMessages: one session sends from many goroutines and one
// receives in many; no number is left out or used twice, no message lost.
func TestConcurrentMessages(t *testing.T) {
	for _, id := range []etype.ID{etype.AES256SHA1, etype.AES256SHA384} {
		a, b := pair(t, id, func(p *Params) { p.Sequence = false })
		toks := make([][]byte, goroutines*each)
		crowd(func(g int) {
			for i := range each {
				msg := binary.BigEndian.AppendUint32(nil, uint32(g*each+i))
				tok, err := a.Wrap(msg, i%2 == 0)
				if err != nil {
					t.Error(err)
					return
				}
				toks[g*each+i] = tok
			}
		})
		missing, twice := holes(t, toks, 1000, len(toks))
		require.Zero(t, missing)
		require.Zero(t, twice)
		// The control: one token in another's place is both.
		keep := toks[1]
		toks[1] = toks[0]
		missing, twice = holes(t, toks, 1000, len(toks))
		require.Equal(t, [2]int{1, 1}, [2]int{missing, twice})
		toks[1] = keep

		var mu sync.Mutex
		first, again := 0, 0
		crowd(func(g int) { // each token is presented by two goroutines
			for i := range each {
				n := (g/2*2*each + i*2 + g%2) % len(toks)
				for _, k := range []int{n, n ^ 1} {
					msg, _, err := b.Unwrap(toks[k])
					if binary.BigEndian.Uint32(msg) != uint32(k) {
						t.Error("another message than was sent")
					}
					mu.Lock()
					switch {
					case err == nil:
						first++
					case errors.Is(err, gssapi.InfoDuplicateToken), errors.Is(err, gssapi.InfoOldToken):
						again++
					default:
						t.Error(err)
					}
					mu.Unlock()
				}
			}
		})
		require.Equal(t, 2*len(toks), first+again)
		require.NotZero(t, first)
		require.LessOrEqual(t, first, len(toks), "a message was accepted twice")
		require.LessOrEqual(t, len(a.out.idle), maxIdleLanes)
		require.LessOrEqual(t, len(b.in.idle), maxIdleLanes)
	}
}

// TestExportUnderLoad: 64 goroutines use a session while it is exported. Each
// message went out before, with a number below the one in the state, or was
// answered NO_CONTEXT; the numbers go on without hole or repeat.
func TestExportUnderLoad(t *testing.T) {
	for round := range 20 {
		a, b := pair(t, etype.AES256SHA1, func(p *Params) { p.Sequence = false })
		var mu sync.Mutex
		var toks [][]byte
		refused := 0
		send := func(s **Session) func(int) {
			return func(g int) {
				for i := range 20 {
					var tok []byte
					var err error
					if (g+i)%3 == 0 {
						tok, err = (*s).GetMIC(nil)
					} else {
						tok, err = (*s).Wrap(nil, g%2 == 0)
					}
					mu.Lock()
					switch {
					case err == nil:
						toks = append(toks, tok)
					case errors.Is(err, gssapi.ErrNoContext):
						refused++
					default:
						t.Error(err)
					}
					mu.Unlock()
				}
			}
		}
		buf := make([]byte, 0, MaxStateSize)
		exported := make(chan []byte)
		go func() {
			for range round {
				runtime.Gosched()
			}
			state, err := a.Export(buf)
			if err != nil {
				t.Error(err)
			}
			exported <- state
		}()
		crowd(send(&a))
		state := <-exported
		require.Len(t, toks, goroutines*20-refused)
		before := len(toks)
		require.Equal(t, 1000+uint64(before), binary.BigEndian.Uint64(state[2:]))

		c, err := Restore(newPool(t), state)
		require.NoError(t, err)
		crowd(send(&c))
		missing, twice := holes(t, toks, 1000, before+goroutines*20)
		require.Zero(t, missing+twice)
		c.Wipe()
		b.Wipe()
	}
}

// TestWipeUnderLoad: Wipe waits for the messages under way and lets none begin.
func TestWipeUnderLoad(t *testing.T) {
	for range 20 {
		a, b := pair(t, etype.AES128SHA256)
		tok, err := a.Wrap(pattern(3000), true)
		require.NoError(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.Gosched()
			b.Wipe()
		}()
		crowd(func(int) {
			for range 10 {
				msg, _, err := b.Unwrap(tok)
				if errors.Is(err, gssapi.ErrNoContext) {
					continue
				}
				if len(msg) != 3000 || msg[2999] != pattern(3000)[2999] {
					t.Error("a message under way was spoilt")
				}
			}
		})
		<-done
		requireGone(t, b, tok)
		require.Empty(t, b.in.idle)
	}
}
