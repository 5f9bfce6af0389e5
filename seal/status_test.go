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
		state, err := h.Status(b)
		require.NoError(t, err)
		require.Equal(t, want, state)
	}
	expect(sealed, Outstanding)
	expect(sealed, Outstanding)
	requireOpens(t, h, sealed, []byte("plain"))
	expect(sealed, Gone)

	for i := range sealed { // no byte of it can be another
		altered := append([]byte(nil), sealed...)
		altered[i] ^= 1
		_, err := h.Status(altered)
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
	require.NoError(t, h.ring.Retire(head.Epoch))
	_, err = h.Status(sealed)
	require.ErrorIs(t, err, ErrDefective)
}

// A peer is told of its own tokens and of those for it.
func TestStatusFor(t *testing.T) {
	h := memHost(t, nil)
	req := testRequest
	req.Audience = User(2000)
	r, err := h.As(&peer{uid: 1000}, h.log).Reserve(req)
	require.NoError(t, err)
	sealed, err := r.Seal(nil)
	require.NoError(t, err)
	_, err = h.As(&peer{uid: 3000, admin: true}, h.log).Status(sealed)
	require.NoError(t, err)
	for uid, want := range map[uint32]error{1000: nil, 2000: nil, 3000: ErrUnauthorized} {
		_, err := h.As(&peer{uid: uid}, h.log).Status(sealed)
		require.ErrorIs(t, err, want)
	}
}

// A cancelled reservation cannot be opened, and only its maker cancels it.
func TestCancelFor(t *testing.T) {
	h := memHost(t, nil)
	maker, other := h.As(&peer{uid: 1000}, h.log), h.As(&peer{uid: 1001}, h.log)
	r, err := maker.Reserve(testRequest)
	require.NoError(t, err)
	start := append([]byte(nil), r.grant.Start...)
	sealed, err := r.Seal([]byte("plain"))
	require.NoError(t, err)

	require.ErrorIs(t, other.Cancel(start), ErrUnauthorized)
	for i := range start {
		altered := append([]byte(nil), start...)
		altered[i] ^= 1
		require.ErrorIs(t, maker.Cancel(altered), ErrDefective)
	}
	require.ErrorIs(t, maker.Cancel(start[:len(start)-1]), ErrDefective)
	require.ErrorIs(t, maker.Cancel(append(start, 0)), ErrDefective)
	require.Equal(t, 1, outstanding(t, h))

	require.NoError(t, maker.Cancel(start))
	require.Zero(t, outstanding(t, h))
	require.ErrorIs(t, maker.Cancel(start), ErrSpent)
	_, err = maker.Open(sealed, testFormat)
	require.ErrorIs(t, err, ErrSpent)
}

func TestAudienceBinary(t *testing.T) {
	service, err := Service("mail")
	require.NoError(t, err)
	for _, a := range []Party{{}, User(7), Group(8), service, process(10, 11)} {
		b, err := a.MarshalBinary()
		require.NoError(t, err)
		back := User(1)
		require.NoError(t, back.UnmarshalBinary(b))
		require.Equal(t, a, back)
	}
	for _, b := range []string{"", "\x00x", "\x01123", "\x0112345", "\x03", "\x03a b", "\x0412345678901", "\x09x"} {
		back := User(1)
		require.ErrorIs(t, back.UnmarshalBinary([]byte(b)), errAudience)
		require.Equal(t, User(1), back)
	}
	require.EqualValues(t, token.Audience{Kind: token.KindUser, Value: []byte{0, 0, 0, 7}}, User(7).wire())
}
