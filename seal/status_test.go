package seal

import (
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/stretchr/testify/require"
)

// Status tells how a token stands and spends nothing.
func TestStatus(t *testing.T) {
	h := memHost(t, nil)
	r, err := h.Reserve(testRequest)
	require.NoError(t, err)
	sealed, err := r.Seal([]byte("plain"))
	require.NoError(t, err)

	expect := func(b []byte, want State) {
		t.Helper()
		head, state, err := h.Status(b)
		require.NoError(t, err)
		require.Equal(t, want, state)
		require.Equal(t, testFormat, head.Format)
	}
	expect(sealed, Outstanding)
	expect(sealed, Outstanding)
	requireOpens(t, h, sealed, []byte("plain"))
	expect(sealed, Spent)

	for i := range sealed { // no byte of it can be another
		altered := append([]byte(nil), sealed...)
		altered[i] ^= 1
		_, _, err := h.Status(altered)
		require.ErrorIs(t, err, ErrDefective)
	}

	req := testRequest
	req.Lifetime = 500 * time.Millisecond // to be sealed in, on a busy machine too
	r, err = h.Reserve(req)
	require.NoError(t, err)
	sealed, err = r.Seal(nil)
	require.NoError(t, err)
	time.Sleep(req.Lifetime)
	expect(sealed, Expired)
	head, err := Inspect(sealed)
	require.NoError(t, err)
	require.NoError(t, h.Ring().Retire(head.Epoch))
	_, _, err = h.Status(sealed)
	require.ErrorIs(t, err, ErrDefective)
}

// A peer is told of its own tokens and of those for it.
func TestStatusFor(t *testing.T) {
	h := memHost(t, nil)
	req := testRequest
	req.Audience = User(2000)
	g, err := h.ReserveFor(Peer{UID: 1000}, req)
	require.NoError(t, err)
	r, err := g.Reservation()
	require.NoError(t, err)
	sealed, err := r.Seal(nil)
	require.NoError(t, err)
	for uid, want := range map[uint32]error{1000: nil, 2000: nil, 3000: ErrUnauthorized} {
		_, _, err := h.StatusFor(Peer{UID: uid}, sealed)
		require.ErrorIs(t, err, want)
	}
}

// A cancelled reservation cannot be opened, and only its maker cancels it.
func TestCancelFor(t *testing.T) {
	h := memHost(t, nil)
	g, err := h.ReserveFor(Peer{UID: 1000}, testRequest)
	require.NoError(t, err)
	start := append([]byte(nil), g.Start...)
	r, err := g.Reservation()
	require.NoError(t, err)
	sealed, err := r.Seal([]byte("plain"))
	require.NoError(t, err)

	require.ErrorIs(t, h.CancelFor(Peer{UID: 1001}, start), ErrUnauthorized)
	for i := range start {
		altered := append([]byte(nil), start...)
		altered[i] ^= 1
		require.ErrorIs(t, h.CancelFor(Peer{UID: 1000}, altered), ErrDefective)
	}
	require.ErrorIs(t, h.CancelFor(Peer{UID: 1000}, start[:len(start)-1]), ErrDefective)
	require.ErrorIs(t, h.CancelFor(Peer{UID: 1000}, append(start, 0)), ErrDefective)
	require.Equal(t, 1, outstanding(t, h))

	require.NoError(t, h.CancelFor(Peer{UID: 1000}, start))
	require.Zero(t, outstanding(t, h))
	require.ErrorIs(t, h.CancelFor(Peer{UID: 1000}, start), ErrSpent)
	_, err = h.OpenFor(Peer{UID: 1000}, nil, sealed, testFormat)
	require.ErrorIs(t, err, ErrSpent)
}

func TestAudienceBinary(t *testing.T) {
	service, err := Service("mail")
	require.NoError(t, err)
	for _, a := range []Audience{{}, User(7), Group(8), service, process(10, 11)} {
		b, err := a.MarshalBinary()
		require.NoError(t, err)
		back := User(1)
		require.NoError(t, back.UnmarshalBinary(b))
		require.Equal(t, a, back)
	}
	for _, b := range []string{"", "\x00x", "\x01123", "\x0112345", "\x03", "\x03a b", "\x0412345678901", "\x09x"} {
		back := User(1)
		require.ErrorIs(t, back.UnmarshalBinary([]byte(b)), ErrAudience)
		require.Equal(t, User(1), back)
	}
	require.EqualValues(t, token.Audience{Kind: token.KindUser, Value: []byte{0, 0, 0, 7}}, User(7).wire())
}
