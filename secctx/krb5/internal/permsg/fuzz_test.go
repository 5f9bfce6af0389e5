package permsg

import (
	"bytes"
	"runtime/metrics"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// fuzzSessions are receivers for every type and both roles, whose window
// accepts everything, so that they serve for all inputs.
func fuzzSessions(f *testing.F) []*Session {
	f.Helper()
	pool := newPool(f)
	var all []*Session
	for _, id := range allIDs {
		for _, initiator := range []bool{false, true} {
			all = append(all, one(f, pool, id, initiator, func(p *Params) { p.Replay, p.Sequence = false, false }))
		}
	}
	return all
}

func pick(all []*Session, n byte) *Session { return all[int(n)%len(all)] }

// seedTokens adds the captured tokens, and for each receiver genuine ones.
func seedTokens(f *testing.F, add func(n byte, tok, msg, aad []byte)) {
	f.Helper()
	for i, c := range readCaptured(f) {
		add(byte(i), c.token, c.msg, c.aad)
	}
	for i, id := range allIDs {
		a, b := pair(f, id)
		for j, s := range []*Session{a, b} {
			for _, conf := range []bool{true, false} {
				tok, err := s.WrapAEAD(pattern(20), []byte("aad"), conf)
				require.NoError(f, err)
				add(byte(2*i+j), tok, pattern(20), []byte("aad"))
			}
			tok, err := s.GetMIC(pattern(20))
			require.NoError(f, err)
			add(byte(2*i+j), tok, pattern(20), nil)
		}
	}
}

// inProportion is the most that a call may allocate for n bytes of input: one
// copy, rounded up to the allocator's classes, and an error.
func inProportion(n int) uint64 { return uint64(n+n/4) + 16<<10 }

func FuzzUnwrap(f *testing.F) {
	all := fuzzSessions(f)
	seedTokens(f, func(n byte, tok, _, _ []byte) { f.Add(n, tok) })
	f.Fuzz(func(t *testing.T, n byte, tok []byte) {
		checkUnwrap(t, pick(all, n), tok, nil)
	})
}

func FuzzUnwrapAEAD(f *testing.F) {
	all := fuzzSessions(f)
	seedTokens(f, func(n byte, tok, _, aad []byte) { f.Add(n, tok, aad) })
	f.Fuzz(func(t *testing.T, n byte, tok, aad []byte) {
		checkUnwrap(t, pick(all, n), tok, aad)
	})
}

// FuzzSealedInside gets past the MAC: plaintext and outer header are the
// fuzzer's, encrypted under the real key.
func FuzzSealedInside(f *testing.F) {
	all := fuzzSessions(f)
	for i := range all {
		g := genuine(i)
		plain := append(append([]byte{}, g.msg...), make([]byte, g.filler+headerSize)...)
		g.inside.put(plain[len(plain)-headerSize:])
		f.Add(byte(i), byte(flagAcceptorSubkey), uint16(g.filler), uint16(0), plain)
		f.Add(byte(i), byte(flagAcceptorSubkey), uint16(0), uint16(28), plain)
	}
	f.Fuzz(func(t *testing.T, n, flags byte, ec, rrc uint16, plain []byte) {
		s := pick(all, n)
		usage := uint32(usageInitiatorSeal)
		if s.initiator {
			usage, flags = usageAcceptorSeal, flags|flagSentByAcceptor
		}
		var out [headerSize]byte
		h := header{id: idWrap, flags: flags | flagSealed, ec: ec, seq: 7}
		h.put(out[:])
		tok, err := etype.Encrypt(out[:], s.id, pattern(s.id.KeySize()), usage, plain)
		require.NoError(t, err)
		checkUnwrap(t, s, rotate(tok, rrc), nil)
	})
}

func checkUnwrap(t *testing.T, s *Session, tok, aad []byte) {
	t.Helper()
	keep := bytes.Clone(tok)
	var msg []byte
	var conf bool
	var err error
	require.True(t, within(inProportion(len(tok)), func() { msg, conf, err = s.UnwrapAEAD(tok, aad) }))
	require.True(t, bytes.Equal(keep, tok), "the token was written to")
	if err != nil {
		require.True(t, isRefusal(err), "%v", err)
		require.Nil(t, msg)
		return
	}
	require.Less(t, len(msg), len(tok))
	require.Equal(t, tok[2]&flagSealed != 0, conf)
}

func FuzzVerifyMIC(f *testing.F) {
	all := fuzzSessions(f)
	seedTokens(f, func(n byte, tok, msg, _ []byte) { f.Add(n, tok, msg) })
	f.Fuzz(func(t *testing.T, n byte, tok, msg []byte) {
		s := pick(all, n)
		var err error
		require.True(t, within(inProportion(0), func() { err = s.VerifyMIC(msg, tok) }))
		if err != nil {
			require.True(t, isRefusal(err), "%v", err)
			return
		}
		require.Len(t, tok, headerSize+s.id.MACSize())
	})
}

// FuzzRestore: what is taken is written again byte for byte, and works.
func FuzzRestore(f *testing.F) {
	for _, id := range allIDs {
		for _, s := range func() []*Session { a, b := pair(f, id); return []*Session{a, b} }() {
			state, err := s.Export(make([]byte, 0, MaxStateSize))
			require.NoError(f, err)
			f.Add(state)
		}
	}
	pool := newPool(f)
	f.Fuzz(func(t *testing.T, state []byte) {
		var s *Session
		var err error
		require.True(t, within(inProportion(0), func() {
			if s != nil {
				s.Wipe()
			}
			s, err = Restore(pool, state)
		}))
		if err != nil {
			require.ErrorIs(t, err, ErrState)
			require.Zero(t, pool.InUse())
			return
		}
		seq := s.out.next
		tok, err := s.Wrap([]byte("message"), true)
		require.NoError(t, err)
		_, _, err = s.Unwrap(tok)
		require.Error(t, err, "its own message")
		require.Equal(t, seq+1, s.out.next)
		s.out.next = seq
		again, err := s.Export(make([]byte, 0, MaxStateSize))
		require.NoError(t, err)
		require.True(t, bytes.Equal(state, again))
		require.Zero(t, pool.InUse())
	})
}

// TestWithin is the control of the fuzz targets' bound.
func TestWithin(t *testing.T) {
	require.False(t, within(inProportion(64<<10), func() { sink = make([]byte, 1<<20) }))
	require.True(t, within(inProportion(64<<10), func() { sink = make([]byte, 64<<10) }))
}

var sink []byte

// within reports whether f, which is called until it does and a few times at
// most, allocates no more than limit bytes. The runtime counts the whole
// process, and other goroutines of a fuzzing worker allocate too.
func within(limit uint64, f func()) bool {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for range 8 {
		metrics.Read(sample)
		before := sample[0].Value.Uint64()
		f()
		metrics.Read(sample)
		if sample[0].Value.Uint64()-before <= limit {
			return true
		}
	}
	return false
}
