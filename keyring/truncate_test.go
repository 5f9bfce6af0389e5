//go:build !race

// The race detector looks at a word in C before the program does, and a fault
// there is the end of the process.

package keyring

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTruncatedUnderWay while others are at it, again and again.
func TestTruncatedUnderLoad(t *testing.T) {
	dir := shmDir(t, false)
	r := openRing(t, dir, nil)
	for range 20 {
		e := current(t, r)
		genuine := mustDerive(t, e)
		var derived atomic.Int64
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					key, err := derive(e)
					switch {
					case errors.Is(err, ErrDamaged):
						return
					case err != nil:
						t.Error(err)
						return
					case string(key) != string(genuine):
						t.Error("a key was derived from zeroes")
						return
					}
					derived.Add(1)
					_, _ = e.Reserve(time.Minute)
					_ = e.ClaimFresh(Slot{Index: 5, Word: uint64(makeWord(1, 1, slotOut))})
					_, _ = e.Outstanding()
				}
			})
		}
		eventually(t, "work to be under way", func() bool { return derived.Load() > 10 })
		require.NoError(t, os.Truncate(epochFile(dir, e), 0))
		require.NoError(t, os.Truncate(epochFile(dir, e), int64(e.fileSize())))
		all.Wait()
		require.NoError(t, os.Remove(epochFile(dir, e)))
		time.Sleep(linkCheck)
	}
}
