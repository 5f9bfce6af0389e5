package secctx

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
)

// TestExportWaits holds a message between its number and its return: until it
// is out, Export must not make a token.
func TestExportWaits(t *testing.T) {
	for _, tc := range []struct {
		name  string
		waits bool
		under func(gssapi.SecContext) gssapi.SecContext
	}{
		{"wrapped", true, func(sc gssapi.SecContext) gssapi.SecContext { return sc }},
		{"positive control: the mechanism alone", false, func(sc gssapi.SecContext) gssapi.SecContext { return sc.(*secContext).inner }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, newHost(t, nil))
			sc := tc.under(r.sc)
			entered, leave := make(chan bool), make(chan bool)
			r.fake.at = func(step string) error {
				if step == "wrap numbered" {
					entered <- true
					<-leave
				}
				return nil
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				_, _, err := sc.Wrap([]byte("m"), true, 0)
				require.NoError(t, err)
			})
			<-entered
			exported := make(chan error, 1)
			wg.Go(func() {
				_, err := sc.Export()
				exported <- err
			})
			select {
			case err := <-exported:
				require.NoError(t, err)
				require.False(t, tc.waits, "a token was made while a message was under way")
			case <-time.After(100 * time.Millisecond):
				require.True(t, tc.waits)
			}
			close(leave)
			wg.Wait()
			require.EqualValues(t, 1, r.fake.exports.Load())
		})
	}
}

// TestExportWhileUsed: 64 goroutines send while the context is exported. Each
// message went out before, or got NO_CONTEXT; the numbers have no hole and no
// repeat, and the importer goes on with the next.
func TestExportWhileUsed(t *testing.T) {
	const users, atLeast = 64, 500
	h := newHost(t, nil)
	for range 20 {
		r := newRig(t, h)
		var sent [users][]uint64 // the numbers that each got
		var last [users]error
		var count atomic.Int64
		var wg sync.WaitGroup
		for i := range users {
			wg.Go(func() {
				for {
					out, _, err := r.sc.Wrap([]byte("m"), true, 0)
					if err != nil {
						last[i] = err
						return
					}
					sent[i] = append(sent[i], binary.BigEndian.Uint64(out))
					count.Add(1)
				}
			})
		}
		for count.Load() < atLeast {
			time.Sleep(10 * time.Microsecond)
		}
		token, err := r.sc.Export()
		require.NoError(t, err)
		wg.Wait()
		for i := range users {
			require.Equal(t, errExported, last[i])
		}
		numbers := slices.Sorted(slices.Values(slices.Concat(sent[:]...)))
		for want, got := range numbers {
			require.EqualValues(t, want, got, "a hole or a repeat")
		}
		imported, err := r.p.ImportSecContext(token)
		require.NoError(t, err)
		out, _, err := imported.Wrap([]byte("m"), true, 0)
		require.NoError(t, err)
		require.EqualValues(t, len(numbers), binary.BigEndian.Uint64(out), "the importer's first number")
	}
}

// TestOneOwner: of many imports and take-backs of one token exactly one wins,
// and of many exports exactly one gets the token.
func TestOneOwner(t *testing.T) {
	h := newHost(t, nil)
	for range 200 {
		r := newRig(t, h)
		var tokens, owners atomic.Int32
		var token []byte
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				got, err := r.sc.Export()
				if err == nil {
					tokens.Add(1)
					token = got
				} else if !errors.Is(err, gssapi.ErrNoContext) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, tokens.Load())

		var winner atomic.Value
		for i := range 8 {
			wg.Go(func() {
				var err error
				sc := r.sc
				if i%2 == 0 {
					sc, err = r.p.ImportSecContext(token)
				} else {
					err = TakeBack(sc, token)
				}
				switch {
				case err == nil:
					owners.Add(1)
					winner.Store(&sc)
				case !errors.Is(err, seal.ErrSpent) && !errors.Is(err, errNotExported):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, owners.Load())
		r.talk(t, *winner.Load().(*gssapi.SecContext))
	}
}

// TestEverythingAtOnce: all calls, on one handle, that goes away and comes back
// under them. Besides the race detector's, the check is that the context ends
// up alive in one place.
func TestEverythingAtOnce(t *testing.T) {
	r := newRigOf(t, &Config{Sealer: newHost(t, nil)}, &fakeProvider{contextSet: 3, importSet: 3})
	var wg sync.WaitGroup
	var stop atomic.Bool
	var done atomic.Int64
	for name, call := range calls(r.sc) {
		if name == "Export" {
			continue
		}
		wg.Go(func() {
			for !stop.Load() {
				_, _ = call() // that it fails while the context is away is the rule
				done.Add(1)
				_ = r.sc.ContinueNeeded()
			}
		})
	}
	for range 50 {
		token, err := r.sc.Export()
		require.NoError(t, err)
		require.NoError(t, TakeBack(r.sc, token))
	}
	for done.Load() < 1000 {
		time.Sleep(time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	token, err := r.sc.Export()
	require.NoError(t, err)
	_, err = r.p.ImportSecContext(token)
	require.NoError(t, err)
	r.dead(t, r.sc)
}
