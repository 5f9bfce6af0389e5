package seal

import (
	"testing"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/stretchr/testify/require"
)

// What an agent asks of a host: tokens for any audience, opened for a peer that
// belongs to it and for no other.
func TestPeers(t *testing.T) {
	service, err := Service("mail")
	require.NoError(t, err)
	exporter := Peer{UID: 1000, Process: process(10, 1)}
	worker := Peer{UID: 2000, Groups: []uint32{7, 8}, Services: []string{"web", "mail"}, Process: process(20, 5)}
	stranger := Peer{UID: 3000, Groups: []uint32{9}, Services: []string{"web"}, Process: process(20, 6)}
	nobody := Peer{UID: 3000}
	tests := []struct {
		name string
		to   Audience
		may  Peer
		not  []Peer
	}{
		{"its own user", Audience{}, Peer{UID: 1000}, []Peer{worker, stranger, nobody}},
		{"another user", User(2000), worker, []Peer{exporter, stranger, nobody}},
		{"the first group", Group(7), worker, []Peer{exporter, stranger, nobody}},
		{"the second group", Group(8), worker, []Peer{exporter, stranger, nobody}},
		{"service", service, worker, []Peer{exporter, stranger, nobody}},
		{"process", process(20, 5), worker, []Peer{exporter, stranger, nobody}},
		{"a group with the number of a user", Group(1000), Peer{Groups: []uint32{1000}}, []Peer{exporter, worker, nobody}},
		{"a user with the number of a group", User(7), Peer{UID: 7}, []Peer{exporter, worker, nobody}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := memHost(t, nil)
			req := testRequest
			req.Audience = tt.to
			g, err := h.ReserveFor(exporter, req)
			require.NoError(t, err)
			r, err := g.Reservation()
			require.NoError(t, err)
			sealed, err := r.Seal([]byte("plain"))
			require.NoError(t, err)
			head, err := Inspect(sealed)
			require.NoError(t, err)
			require.EqualValues(t, 1000, head.Exporter)

			for _, p := range tt.not {
				s, err := h.OpenFor(p, nil, sealed, testFormat)
				require.ErrorIs(t, err, ErrUnauthorized)
				require.Nil(t, s)
			}
			for _, p := range []Peer{worker, stranger} {
				s, err := h.TakeBackFor(p, sealed, testFormat)
				require.ErrorIs(t, err, ErrUnauthorized)
				require.Nil(t, s)
			}
			s, err := h.OpenFor(tt.may, nil, sealed, testFormat)
			require.NoError(t, err)
			require.Equal(t, "plain", string(s.Bytes()))
			s.Wipe()
			_, err = h.TakeBackFor(exporter, sealed, testFormat)
			require.ErrorIs(t, err, ErrSpent)
		})
	}
}

// Forged kinds match no peer, not even one without a process.
func TestPeersUnknownKind(t *testing.T) {
	h := memHost(t, nil)
	for _, a := range []Audience{{}, {9, "1234"}, {kind: token.KindProcess}, {kind: token.KindService}, {token.KindUser, ""}} {
		sealed := forge(t, h, nil, func(head *token.Header) { head.Audience = a.wire() })
		_, err := h.OpenFor(Peer{}, nil, sealed, testFormat)
		require.ErrorIs(t, err, ErrUnauthorized)
	}
}

// A grant put together again, as the agent's client does it.
func TestGrant(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		h := memHost(t, &keyring.Options{Suite: st})
		g, err := h.ReserveFor(Peer{UID: h.self.uid}, testRequest)
		require.NoError(t, err)
		start, key := g.Start, g.Key
		for _, bad := range []*Grant{
			{Start: nil, Key: key, Slot: g.Slot},
			{Start: start[:len(start)-1], Key: key, Slot: g.Slot},
			{Start: append(start[:len(start):len(start)], 0), Key: key, Slot: g.Slot},
			{Start: start[1:], Key: key, Slot: g.Slot},
			{Start: start, Key: nil, Slot: g.Slot},
		} {
			r, err := bad.Reservation()
			require.ErrorIs(t, err, ErrRequest)
			require.Nil(t, r)
		}
		r, err := (&Grant{Start: start, Key: key, Slot: g.Slot}).Reservation()
		require.NoError(t, err)
		sealed, err := r.Seal([]byte("plain"))
		require.NoError(t, err)
		requireOpens(t, h, sealed, []byte("plain"))

		req := testRequest
		req.Audience = Audience{9, "x"}
		_, err = h.ReserveFor(Peer{}, req)
		require.ErrorIs(t, err, ErrAudience)
		req = testRequest
		req.Format = ""
		_, err = h.ReserveFor(Peer{}, req)
		require.ErrorIs(t, err, ErrRequest)
	})
}
