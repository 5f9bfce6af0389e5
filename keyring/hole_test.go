package keyring

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A hole that is punched into a file under way is zeroes: no key, no slots.
func TestHoleUnderWay(t *testing.T) {
	const slots = 16 * defaultCapacity // bytes
	for name, hole := range map[string]struct{ from, size int64 }{
		"all":        {0, pageSize + slots},
		"first page": {0, pageSize},
		"slots":      {pageSize, slots - 8}, // the last word stays
	} {
		t.Run(name, func(t *testing.T) {
			dir := shmDir(t, false)
			r := openRing(t, dir, nil)
			e := current(t, r)
			genuine := mustDerive(t, e)
			l, err := e.Reserve(time.Minute)
			for err == nil && int64(l.Index)*8 == slots-8 { // not in the hole
				l, err = e.Reserve(time.Minute)
			}
			require.NoError(t, err)
			f, err := os.OpenFile(epochFile(dir, e), os.O_RDWR, 0)
			require.NoError(t, err)
			defer f.Close()
			require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, hole.from, hole.size))

			errs := ops(t, e, l, genuine)
			require.Error(t, errs["Claim"])
			require.ErrorIs(t, errs["Reserve"], ErrDamaged)
			if hole.from == 0 {
				require.ErrorIs(t, errs["Claim"], ErrDamaged)
				require.ErrorIs(t, errs["Derive"], ErrDamaged)
				require.NotEqual(t, e.ID(), current(t, r).ID())
			}
		})
	}
}
