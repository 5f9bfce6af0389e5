package seal

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/seal/internal/ask"
	"github.com/stretchr/testify/require"
)

// A peer is somebody for whom an agent would ask.
type peer struct {
	uid      uint32
	groups   []uint32
	services []string
	process  Party
	admin    bool
	exporter *peer // of the token that it opens
	imports  error
}

func (p *peer) User() uint32                   { return p.uid }
func (p *peer) Groups() []uint32               { return p.groups }
func (p *peer) Services() []string             { return p.services }
func (p *peer) Process() ([]byte, error)       { return []byte(p.process.value), nil }
func (p *peer) MayReserve(uint8, string) error { return nil }
func (p *peer) MayInspect() bool               { return p.admin }
func (p *peer) MayImport(token.Header) error   { return p.imports }
func (p *peer) Exporter(token.Header) (ask.Somebody, error) {
	if p.exporter == nil {
		return nil, ErrSpent
	}
	return p.exporter, nil
}

// What an agent asks of a host: tokens for any audience, opened for a peer that
// belongs to it and for no other.
func TestPeers(t *testing.T) {
	service, err := Service("mail")
	require.NoError(t, err)
	exporter := &peer{uid: 1000, process: process(10, 1)}
	worker := &peer{uid: 2000, groups: []uint32{7, 8}, services: []string{"web", "mail"}, process: process(20, 5)}
	stranger := &peer{uid: 3000, groups: []uint32{9}, services: []string{"web"}, process: process(20, 6)}
	nobody := &peer{uid: 3000}
	tests := []struct {
		name string
		to   Party
		may  *peer
		not  []*peer
	}{
		{"its own user", Party{}, &peer{uid: 1000}, []*peer{worker, stranger, nobody}},
		{"another user", User(2000), worker, []*peer{exporter, stranger, nobody}},
		{"the first group", Group(7), worker, []*peer{exporter, stranger, nobody}},
		{"the second group", Group(8), worker, []*peer{exporter, stranger, nobody}},
		{"service", service, worker, []*peer{exporter, stranger, nobody}},
		{"process", process(20, 5), worker, []*peer{exporter, stranger, nobody}},
		{"a group with the number of a user", Group(1000), &peer{groups: []uint32{1000}}, []*peer{exporter, worker, nobody}},
		{"a user with the number of a group", User(7), &peer{uid: 7}, []*peer{exporter, worker, nobody}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := memHost(t, nil)
			req := testRequest
			req.Audience = tt.to
			as := func(p *peer) *Host { return h.As(p, h.log) }
			r, err := as(exporter).Reserve(req)
			require.NoError(t, err)
			sealed, err := r.Seal([]byte("plain"))
			require.NoError(t, err)
			head, err := Inspect(sealed)
			require.NoError(t, err)
			require.EqualValues(t, 1000, head.Exporter)

			for _, p := range tt.not {
				s, err := as(p).Open(sealed, testFormat)
				require.ErrorIs(t, err, ErrUnauthorized)
				require.Nil(t, s)
			}
			for _, p := range []*peer{worker, stranger} {
				s, err := as(p).TakeBack(sealed, testFormat)
				require.ErrorIs(t, err, ErrUnauthorized)
				require.Nil(t, s)
			}
			s, err := as(tt.may).Open(sealed, testFormat)
			require.NoError(t, err)
			require.Equal(t, "plain", string(s.Bytes()))
			s.Wipe()
			_, err = as(exporter).TakeBack(sealed, testFormat)
			require.ErrorIs(t, err, ErrSpent)
		})
	}
}

// Forged kinds match no peer, not even one without a process.
func TestPeersUnknownKind(t *testing.T) {
	h := memHost(t, nil)
	for _, a := range []Party{{}, {9, "1234"}, {kind: token.KindProcess}, {kind: token.KindService}, {token.KindUser, ""}} {
		sealed := forge(t, h, nil, func(head *token.Header) { head.Audience = a.wire() })
		_, err := h.As(&peer{}, h.log).Open(sealed, testFormat)
		require.ErrorIs(t, err, ErrUnauthorized)
	}
}

// A demand of exporters is met by what the kernel and the policy say of the exporter. A
// policy can refuse an exporter that no opener demanded. No refusal spends anything.
func TestExporters(t *testing.T) {
	service, err := Service("front")
	require.NoError(t, err)
	h := memHost(t, nil)
	exporter := &peer{uid: 1000, groups: []uint32{7}, services: []string{"front"}}
	req := testRequest
	req.Audience = User(2000)
	r, err := h.As(exporter, h.log).Reserve(req)
	require.NoError(t, err)
	sealed, err := r.Seal([]byte("plain"))
	require.NoError(t, err)
	opener := &peer{uid: 2000, groups: []uint32{8}, services: []string{"web"}, exporter: exporter}
	open := func(p *peer, from ...Party) error {
		s, err := h.As(p, h.log).OpenFrom(from, sealed, testFormat)
		if err == nil {
			s.Wipe()
		}
		return err
	}
	other, err := Service("web")
	require.NoError(t, err)
	for _, p := range []Party{User(2000), Group(8), Group(1000), User(7), other} { // the opener's, and other kinds
		err := open(opener, p)
		require.ErrorIs(t, err, ErrUnauthorized)
		require.ErrorContains(t, err, "user 1000 exported it, and "+p.String()+" is demanded")
	}
	require.ErrorIs(t, open(opener, process(1, 1)), errAudience)
	require.ErrorIs(t, open(opener, User(1000), Party{}), errAudience)
	require.ErrorIs(t, open(opener), ErrRequest)
	require.ErrorIs(t, open(opener, make([]Party, token.MaxExporters+1)...), ErrRequest)
	require.ErrorIs(t, open(&peer{uid: 2000}, User(1000)), ErrSpent, "of whom nothing is known")
	refusing := *opener
	refusing.imports = fmt.Errorf("%w: line 7", ErrUnauthorized)
	require.ErrorContains(t, open(&refusing, User(1000)), "line 7")
	_, err = h.As(&refusing, h.log).Open(sealed, testFormat)
	require.ErrorContains(t, err, "line 7")
	require.Equal(t, 1, outstanding(t, h))

	for _, p := range []Party{User(1000), Group(7), service} {
		r, err := h.As(exporter, h.log).Reserve(req)
		require.NoError(t, err)
		sealed, err = r.Seal(nil)
		require.NoError(t, err)
		require.NoError(t, open(opener, other, p))
		require.ErrorIs(t, open(opener, p), ErrSpent)
	}
}

// Each kind of party has all of its entry. No process is of a kind that is not in the
// table.
func TestKinds(t *testing.T) {
	count := 0
	for k := range 256 {
		p := Party{uint8(k), string(bytes.Repeat([]byte("a"), 4))}
		if !known(uint8(k)) {
			require.False(t, p.valid())
			require.Equal(t, "nobody known to this version", p.String())
			is, err := isParty(&peer{}, p.wire())
			require.False(t, is)
			require.NoError(t, err)
			continue
		}
		count++
		e := kinds[k]
		require.NotNil(t, e.text, k)
		require.NotNil(t, e.is, k)
		require.Greater(t, e.least, 0, k)
		require.LessOrEqual(t, e.most, token.MaxAudience, k)
		for n := range token.MaxAudience + 2 {
			p.value = string(bytes.Repeat([]byte("a"), n))
			require.Equal(t, e.least <= n && n <= e.most, p.valid(), "%d: %d bytes", k, n)
			is, err := isParty(&peer{}, p.wire())
			require.NoError(t, err)
			require.False(t, is)
			require.NotEmpty(t, p.String())
		}
		p.value = string(bytes.Repeat([]byte("a"), e.most))
		require.NotContains(t, p.String(), "nobody")
		require.ErrorIs(t, memHost(t, nil).who.MayReserve(token.KindGroup, "1234"), errAudience)
	}
	require.Equal(t, 4, count)
	require.False(t, known(0))
}

// A grant put together again, as the agent's client does it.
func TestGrant(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		h := memHost(t, &keyring.Options{Suite: st})
		g := grantOf(t, h)
		start, key := g.Start, g.Key
		for _, bad := range []ask.Grant{
			{Start: nil, Key: key, Slot: g.Slot},
			{Start: start[:len(start)-1], Key: key, Slot: g.Slot},
			{Start: append(start[:len(start):len(start)], 0), Key: key, Slot: g.Slot},
			{Start: start[1:], Key: key, Slot: g.Slot},
			{Start: start, Key: nil, Slot: g.Slot},
		} {
			require.ErrorIs(t, new(Reservation).Adopt(bad), ErrRequest)
		}
		r := new(Reservation)
		require.NoError(t, r.Adopt(*g))
		sealed, err := r.Seal([]byte("plain"))
		require.NoError(t, err)
		requireOpens(t, h, sealed, []byte("plain"))
		_, err = r.Grant()
		require.ErrorIs(t, err, ErrRequest)

		req := testRequest
		req.Audience = Party{9, "x"}
		_, err = h.As(&peer{}, h.log).Reserve(req)
		require.ErrorIs(t, err, errAudience)
		req = testRequest
		req.Format = ""
		_, err = h.As(&peer{}, h.log).Reserve(req)
		require.ErrorIs(t, err, ErrRequest)
	})
}
