package keyring

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The list follows a reservation, a claim, a rotation and a retirement, and is
// no reason to make an epoch.
func TestEpochs(t *testing.T) {
	r, err := New(&Options{Capacity: 8, MaxLifetime: time.Minute})
	require.NoError(t, err)
	list := func() []Info {
		infos, err := r.Epochs()
		require.NoError(t, err)
		return infos
	}
	require.Empty(t, list())

	e, err := r.Current()
	require.NoError(t, err)
	defer e.Release()
	l, err := e.Reserve(time.Minute)
	require.NoError(t, err)
	one := list()
	require.Len(t, one, 1)
	require.Positive(t, one[0].Age)
	one[0].Age = 0
	require.Equal(t, Info{ID: e.ID(), Suite: e.Suite(), Seals: true, Outstanding: 1, Capacity: 8, MaxLifetime: time.Minute}, one[0])

	require.NoError(t, r.Rotate())
	two := list()
	require.Len(t, two, 2)
	require.Equal(t, e.ID(), two[0].ID)
	require.False(t, two[0].Seals)
	require.True(t, two[1].Seals)

	require.NoError(t, e.ClaimFresh(l.Slot))
	require.Zero(t, list()[0].Outstanding)
	require.NoError(t, r.Retire(e.ID()))
	require.Len(t, list(), 1)

	require.NoError(t, r.Close())
	_, err = r.Epochs()
	require.ErrorIs(t, err, ErrClosed)
}
