package keyring

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Many importers of one process that look for a new epoch at once all find it,
// whichever of them reads the directory.
func TestFoundByAll(t *testing.T) {
	dir := shmDir(t, false)
	maker, importer := openRing(t, dir, nil), openRing(t, dir, nil)
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		e := current(t, maker)
		time.Sleep(2 * settleTime)
		gate := make(chan bool)
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				<-gate
				found, err := importer.Epoch(e.ID())
				if err != nil {
					t.Error(err)
					return
				}
				found.Release()
			})
		}
		close(gate)
		all.Wait()
		require.False(t, t.Failed())
		require.NoError(t, maker.Retire(e.ID()))
	}
}
