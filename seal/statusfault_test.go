package seal

import (
	"log/slog"
	"os"
	"testing"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal/internal/ask"
	"github.com/stretchr/testify/require"
)

func TestStateNames(t *testing.T) {
	require.Len(t, stateNames, int(Expired)+1)
	for s, is := range map[State]ask.State{Unknown: ask.Unknown, Outstanding: ask.Outstanding, Gone: ask.Gone, Expired: ask.Expired} {
		require.EqualValues(t, is, s)
	}
	for s, want := range map[State]string{Unknown: "unknown", Outstanding: "outstanding", Gone: "gone", Expired: "expired", 9: "state 9", -1: "state -1"} {
		require.Equal(t, want, s.String())
	}
}

// grantOf is a reservation taken apart.
func grantOf(t *testing.T, h *Host) *ask.Grant {
	t.Helper()
	g, err := reserve(t, h, testRequest).Grant()
	require.NoError(t, err)
	return g
}

// An epoch that goes away under Status and CancelFor: retired, truncated, or
// unknown from the beginning.
func TestStatusWithoutEpoch(t *testing.T) {
	dir := shmDir(t) + "/ring"
	h := dirHost(t, dir, nil)
	g := grantOf(t, h)
	sealed := sealToken(t, h, testRequest, nil)
	parsed, err := token.Parse(sealed)
	require.NoError(t, err)
	both := func(want error) {
		t.Helper()
		state, err := h.Status(sealed)
		require.ErrorIs(t, err, want)
		require.Zero(t, state)
		require.ErrorIs(t, h.Cancel(g.Start), want)
		require.Zero(t, h.pool.InUse()-64, "all but the key of the reservation")
	}
	require.NoError(t, h.Cancel(g.Start))
	require.ErrorIs(t, h.Cancel(g.Start), ErrSpent)
	require.ErrorIs(t, h.As(&peer{uid: h.who.User() + 1}, h.log).Cancel(g.Start), ErrUnauthorized)
	for _, bad := range [][]byte{nil, g.Start[:len(g.Start)-1], sealed} {
		require.ErrorIs(t, h.Cancel(bad), ErrDefective)
	}

	drain := fill(t, h.pool, 0)
	_, err = h.Status(sealed)
	require.ErrorIs(t, err, memsafe.ErrLimit)
	require.ErrorIs(t, h.Cancel(g.Start), ErrSpent, "it needs none of that memory")
	drain()

	damaged := current(t, h)
	require.NoError(t, os.Truncate(epochFiles(t, dir)[0], 0))
	_, err = h.Status(sealed)
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, keyring.ErrDamaged)
	require.Error(t, h.Cancel(g.Start)) // by now the ring may have let go of it
	_, err = state(damaged, &parsed)
	require.ErrorIs(t, err, ErrUnavailable)

	stranger := memHost(t, nil)
	_, err = stranger.Status(sealed)
	require.ErrorIs(t, err, ErrDefective)
	require.ErrorIs(t, stranger.Cancel(g.Start), ErrDefective)
	g.Key.Wipe()
	g.Slot.Release()

	h = memHost(t, nil)
	retired := current(t, h)
	g = grantOf(t, h)
	sealed = sealToken(t, h, testRequest, nil)
	require.NoError(t, h.ring.Retire(retired.ID()))
	both(ErrDefective)
	_, err = state(retired, &parsed)
	require.True(t, err == ErrDefective)
	g.Key.Wipe()
	g.Slot.Release()
}

// The events of what a peer asks go to the peer's log, and to no other.
func TestPeerLog(t *testing.T) {
	h := memHost(t, nil)
	mine, theirs := &recorder{}, &recorder{}
	h = hookedHost(t, h, mine)
	p := h.As(&peer{uid: h.who.User()}, slog.New(theirs))
	r, err := p.Reserve(testRequest)
	require.NoError(t, err)
	sealed, err := r.Seal(nil)
	require.NoError(t, err)
	s, err := p.Open(sealed, testFormat)
	require.NoError(t, err)
	s.Wipe()
	_, err = p.TakeBack(sealed, testFormat)
	require.ErrorIs(t, err, ErrSpent)
	require.Empty(t, mine.events)
	require.Len(t, theirs.events, 3)
	requireRefused(t, h, sealed, ErrSpent)
	require.Len(t, mine.events, 1)
}
