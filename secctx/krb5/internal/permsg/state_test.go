package permsg

import (
	"bytes"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// move exports a session into locked memory and restores it in another pool.
func move(t testing.TB, s *Session) *Session {
	t.Helper()
	buf, err := newPool(t).Alloc(s.StateSize())
	require.NoError(t, err)
	defer buf.Wipe()
	state, err := s.Export(buf.Bytes()[:0])
	require.NoError(t, err)
	require.Len(t, state, buf.Len())
	got, err := Restore(newPool(t), state)
	require.NoError(t, err)
	return got
}

// TestExport moves either end between any two messages; the stream goes on with
// its numbers and its window.
func TestExport(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		a, b := pair(t, id)
		var toks [][]byte
		for i := range 6 {
			tok, err := a.Wrap([]byte{byte(i)}, i%2 == 0)
			require.NoError(t, err)
			toks = append(toks, tok)
			a = move(t, a)
		}
		for _, v := range []struct {
			i    int
			want error
		}{
			{0, nil}, {3, gssapi.InfoGapToken}, {3, gssapi.InfoDuplicateToken}, {1, gssapi.InfoUnseqToken},
			{1, gssapi.InfoDuplicateToken}, {4, nil}, {0, gssapi.InfoDuplicateToken}, {2, gssapi.InfoUnseqToken},
		} {
			msg, _, err := b.Unwrap(toks[v.i])
			require.ErrorIs(t, err, v.want)
			require.Equal(t, []byte{byte(v.i)}, msg)
			gone := b
			b = move(t, b)
			requireGone(t, gone, toks[5])
		}
		tok, err := b.GetMIC([]byte("back"))
		require.NoError(t, err)
		require.NoError(t, move(t, a).VerifyMIC([]byte("back"), tok))
	})
}

// TestExportSettings: what Params said is what arrives.
func TestExportSettings(t *testing.T) {
	pool := newPool(t)
	for bits := range 16 {
		p := Params{Initiator: bits&1 != 0, AcceptorSubkey: bits&2 != 0, Replay: bits&4 != 0, Sequence: bits&8 != 0,
			Etype: etype.AES256SHA384, Key: pattern(32), SendSeq: 5, RecvSeq: 1 << 60}
		s, err := New(pool, p)
		require.NoError(t, err)
		first, err := s.Export(make([]byte, 0, MaxStateSize))
		require.NoError(t, err)
		r, err := Restore(pool, first)
		require.NoError(t, err)
		require.Equal(t, p.Initiator, r.Initiator())
		require.Equal(t, p.Etype, r.id)
		require.Equal(t, p.AcceptorSubkey, r.acceptorSubkey)
		require.Equal(t, window{next: p.RecvSeq, replay: p.Replay, sequence: p.Sequence}, r.in.win)
		second, err := r.Export([]byte("before")[:6:6])
		require.ErrorIs(t, err, ErrBuffer)
		require.Nil(t, second)
		second, err = r.Export(append(make([]byte, 0, MaxStateSize+6), "before"...))
		require.NoError(t, err, "an error leaves the session as it was")
		require.Equal(t, append([]byte("before"), first...), second)
	}
	require.Zero(t, pool.InUse())
}

// TestStateSize pins the format's sizes, which SPEC.md promises.
func TestStateSize(t *testing.T) {
	for id, want := range map[etype.ID]int{17: 154, 18: 282, 19: 154, 20: 234} {
		a, _ := pair(t, id)
		require.Equal(t, want, a.StateSize())
		require.LessOrEqual(t, want, MaxStateSize)
	}
	require.Equal(t, 282, MaxStateSize)
}

// TestStateLayout pins the format byte for byte.
func TestStateLayout(t *testing.T) {
	a := one(t, newPool(t), etype.AES128SHA256, true, func(p *Params) { p.Replay, p.SendSeq = false, 0x0102030405060708 })
	out := a.out.keys
	want := append([]byte{1 | 2 | 8, 19, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0}, out.ke...)
	want = append(append(append(want, out.ki...), out.kcSeal...), out.kcSign...)
	in := a.in.keys
	want = append(append(append(append(want, in.ke...), in.ki...), in.kcSeal...), in.kcSign...)
	got, err := a.Export(make([]byte, 0, MaxStateSize))
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.False(t, bytes.Contains(got, pattern(16)), "the context's key is in its state")
}

func TestRestoreRefuses(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		pool := newPool(t)
		state, err := one(t, pool, id, true).Export(make([]byte, 0, MaxStateSize))
		require.NoError(t, err)
		refused := func(b []byte, what string) {
			t.Helper()
			s, err := Restore(pool, b)
			require.ErrorIs(t, err, ErrState, what)
			require.Nil(t, s)
		}
		for n := range len(state) {
			refused(state[:n], "cut")
		}
		refused(append(bytes.Clone(state), 0), "trailing byte")
		for bit := range 8 { // each flag is known, and means something, or is refused
			other := bytes.Clone(state)
			other[0] ^= 1 << bit
			if 1<<bit&stateAll == 0 {
				refused(other, "unknown flag")
				continue
			}
			s, err := Restore(pool, other)
			require.NoError(t, err, "flag %d", bit)
			again, err := s.Export(make([]byte, 0, MaxStateSize))
			require.NoError(t, err)
			require.Equal(t, other, again, "flag %d", bit)
		}
		for _, v := range []struct{ at, xor byte }{{1, 1}, {1, 64}} {
			bad := bytes.Clone(state)
			bad[v.at] ^= v.xor
			if etype.ID(bad[1]).Valid() && stateSize(etype.ID(bad[1])) == len(bad) {
				continue // another type of the same size: as good as any state
			}
			refused(bad, "altered")
		}
		require.Zero(t, pool.InUse())

		full, err := memsafe.NewPool(1)
		require.NoError(t, err)
		defer full.Close()
		_, err = full.Alloc(full.Size())
		require.NoError(t, err)
		_, err = Restore(full, state)
		require.ErrorIs(t, err, memsafe.ErrLimit)
	})
}
