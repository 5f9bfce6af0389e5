package permsg

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

var allIDs = []etype.ID{etype.AES128SHA1, etype.AES256SHA1, etype.AES128SHA256, etype.AES256SHA384}

func eachID(t *testing.T, f func(t *testing.T, id etype.ID)) {
	for _, id := range allIDs {
		t.Run(id.String(), func(t *testing.T) { f(t, id) })
	}
}

func newPool(t testing.TB) *memsafe.Pool {
	t.Helper()
	pool, err := memsafe.NewPool(64 << 10)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	return pool
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*11 + 3)
	}
	return b
}

// params are those of a context with all services on; sequence numbers start
// low from the initiator and high from the acceptor.
func params(id etype.ID, initiator bool) Params {
	p := Params{Initiator: initiator, AcceptorSubkey: true, Etype: id, Key: pattern(id.KeySize()),
		SendSeq: 1000, RecvSeq: 0xFFFFFFFF, Replay: true, Sequence: true}
	if !initiator {
		p.SendSeq, p.RecvSeq = p.RecvSeq, p.SendSeq
	}
	return p
}

// pair returns both ends of a context; change may alter each end's parameters.
func pair(t testing.TB, id etype.ID, change ...func(*Params)) (initiator, acceptor *Session) {
	t.Helper()
	pool := newPool(t)
	return one(t, pool, id, true, change...), one(t, pool, id, false, change...)
}

func one(t testing.TB, pool *memsafe.Pool, id etype.ID, initiator bool, change ...func(*Params)) *Session {
	t.Helper()
	p := params(id, initiator)
	for _, f := range change {
		f(&p)
	}
	s, err := New(pool, p)
	require.NoError(t, err)
	return s
}

func TestWrapUnwrap(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		a, b := pair(t, id)
		for _, way := range []struct{ from, to *Session }{{a, b}, {b, a}} {
			for _, conf := range []bool{false, true} {
				for _, n := range []int{0, 1, 15, 16, 17, 31, 32, 33, 1000, 65536} {
					msg := pattern(n)
					tok, err := way.from.Wrap(msg, conf)
					require.NoError(t, err)
					require.Equal(t, pattern(n), msg)
					if n > 16 {
						require.Equal(t, !conf, bytes.Contains(tok, msg), "conf %v", conf)
					}
					keep := bytes.Clone(tok)
					got, state, err := way.to.Unwrap(tok)
					require.NoError(t, err)
					require.Equal(t, conf, state)
					require.True(t, bytes.Equal(msg, got))
					require.Equal(t, len(got), cap(got), "what lies behind the message is within reach")
					require.Equal(t, keep, tok, "the token was written to")
				}
			}
		}
	})
}

func TestMIC(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		a, b := pair(t, id)
		for _, n := range []int{0, 1, 64, 5000} {
			tok, err := a.GetMIC(pattern(n))
			require.NoError(t, err)
			require.Len(t, tok, headerSize+id.MACSize())
			require.NoError(t, b.VerifyMIC(pattern(n), tok))
			tok, err = b.GetMIC(pattern(n))
			require.NoError(t, err)
			require.ErrorIs(t, a.VerifyMIC(pattern(n+1), tok), gssapi.ErrBadMic)
			require.NoError(t, a.VerifyMIC(pattern(n), tok), "a refused message must not move the window")
		}
	})
}

func TestAEAD(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		a, b := pair(t, id)
		for _, conf := range []bool{false, true} {
			tok, err := a.WrapAEAD(pattern(50), []byte("associated"), conf)
			require.NoError(t, err)
			for _, aad := range []string{"", "associate", "Associated", "associated\x00"} {
				_, _, err := b.UnwrapAEAD(tok, []byte(aad))
				require.ErrorIs(t, err, gssapi.ErrBadMic, "%q", aad)
			}
			got, state, err := b.UnwrapAEAD(tok, []byte("associated"))
			require.NoError(t, err)
			require.Equal(t, conf, state)
			require.Equal(t, pattern(50), got)

			tok, err = a.WrapAEAD(pattern(50), nil, conf)
			require.NoError(t, err)
			_, _, err = b.Unwrap(tok)
			require.NoError(t, err, "without associated data it is a plain Wrap token")
		}
	})
}

func TestWrapSizeLimit(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		a, _ := pair(t, id)
		for _, conf := range []bool{false, true} {
			empty, err := a.Wrap(nil, conf)
			require.NoError(t, err)
			for _, max := range []uint{0, 1, uint(len(empty)) - 1, uint(len(empty)), uint(len(empty)) + 1, 1500, 65536, ^uint(0)} {
				n, err := a.WrapSizeLimit(conf, max)
				require.NoError(t, err)
				if max < uint(len(empty)) {
					require.Zero(t, n)
					continue
				}
				require.Equal(t, max, n+uint(len(empty)))
				if max < 1<<20 {
					tok, err := a.Wrap(pattern(int(n)), conf)
					require.NoError(t, err)
					require.Len(t, tok, int(max))
				}
			}
		}
	})
}

// TestDirections: what one side sent it does not accept itself, in any
// combination, and a token under the other key is not accepted either.
func TestDirections(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		a, b := pair(t, id)
		c, d := pair(t, id, func(p *Params) { p.AcceptorSubkey = false })
		for _, v := range []struct {
			from, to *Session
			ok       bool
		}{
			{a, b, true}, {b, a, true}, {c, d, true}, {d, c, true},
			{a, a, false}, {b, b, false}, {a, d, false}, {c, b, false}, {b, c, false}, {d, a, false},
		} {
			for _, conf := range []bool{false, true} {
				tok, err := v.from.Wrap(pattern(20), conf)
				require.NoError(t, err)
				_, _, err = v.to.Unwrap(tok)
				require.Equal(t, v.ok, err == nil, "%v", err)
				if !v.ok {
					require.ErrorIs(t, err, gssapi.ErrBadMic)
					// Refused for its flags, before any key is tried.
					var status gssapi.FatalStatus
					require.ErrorAs(t, err, &status)
					require.NotContains(t, status.MechErrors, errNotEqual)
				}
			}
			tok, err := v.from.GetMIC(pattern(20))
			require.NoError(t, err)
			err = v.to.VerifyMIC(pattern(20), tok)
			require.Equal(t, v.ok, err == nil, "%v", err)
		}
	})
}

// TestSequenceNumbers reads them off the tokens: Wrap and GetMIC share one row,
// which goes round at 2^64.
func TestSequenceNumbers(t *testing.T) {
	a, b := pair(t, etype.AES256SHA1, func(p *Params) {
		if p.Initiator {
			p.SendSeq = ^uint64(0) - 1
		} else {
			p.RecvSeq = ^uint64(0) - 1
		}
	})
	want := ^uint64(0) - 1
	for i := range 8 {
		var tok []byte
		var err error
		var h header
		if i%2 == 0 {
			tok, err = a.GetMIC(nil)
			require.True(t, h.parse(tok, idMIC))
			require.NoError(t, b.VerifyMIC(nil, tok))
		} else {
			tok, err = a.Wrap(nil, i%4 == 1)
			require.True(t, h.parse(tok, idWrap))
			_, _, uerr := b.Unwrap(tok)
			require.NoError(t, uerr)
		}
		require.NoError(t, err)
		require.Equal(t, want, h.seq)
		want++
	}
}

func TestNewRefuses(t *testing.T) {
	pool := newPool(t)
	for _, p := range []Params{
		{},
		{Etype: 23, Key: pattern(16)},
		{Etype: etype.AES128SHA1, Key: pattern(32)},
		{Etype: etype.AES256SHA384, Key: pattern(24)},
		{Etype: etype.AES256SHA1},
	} {
		_, err := New(pool, p)
		require.ErrorIs(t, err, ErrParams)
	}
	require.Zero(t, pool.InUse())

	small, err := memsafe.NewPool(1)
	require.NoError(t, err)
	defer small.Close()
	for err == nil {
		_, err = New(small, params(etype.AES256SHA1, true))
	}
	require.ErrorIs(t, err, memsafe.ErrLimit)
}

// TestWipe: every call answers NO_CONTEXT, and the pool has its memory back.
func TestWipe(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		pool := newPool(t)
		a, b := one(t, pool, id, true), one(t, pool, id, false)
		tok, err := a.Wrap(pattern(9), true)
		require.NoError(t, err)
		b.Wipe()
		b.Wipe()
		requireGone(t, b, tok)
		got, err := a.Wrap(nil, true)
		require.NoError(t, err)
		require.NotEmpty(t, got)
		a.Wipe()
		require.Zero(t, pool.InUse())
	})
}

func requireGone(t *testing.T, s *Session, tok []byte) {
	t.Helper()
	_, err := s.Wrap(nil, true)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	_, _, err = s.Unwrap(tok)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	_, err = s.GetMIC(nil)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	require.ErrorIs(t, s.VerifyMIC(nil, tok), gssapi.ErrNoContext)
	_, err = s.WrapSizeLimit(true, 100)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	_, err = s.Export(make([]byte, 0, MaxStateSize))
	require.ErrorIs(t, err, gssapi.ErrNoContext)
}

// TestPoolClosed: a session whose pool is gone has no keys and says so.
func TestPoolClosed(t *testing.T) {
	pool, err := memsafe.NewPool(4096)
	require.NoError(t, err)
	s := one(t, pool, etype.AES256SHA1, true)
	require.NoError(t, pool.Close())
	requireGone(t, s, nil)
	s.Wipe()
}

// TestStatusCodes: go-gssapi keeps its numbers to itself, so ours are checked
// by what they match.
func TestStatusCodes(t *testing.T) {
	for code, want := range map[gssapi.FatalErrorCode]error{
		codeBadMIC: gssapi.ErrBadMic, codeNoContext: gssapi.ErrNoContext,
		codeDefectiveToken: gssapi.ErrDefectiveToken, codeFailure: gssapi.ErrFailure,
	} {
		require.ErrorIs(t, fatal(code, errForm), want)
		require.Contains(t, fmt.Sprint(fatal(code, errForm)), errForm.Error())
	}
	for code, want := range map[gssapi.InformationCode]error{
		infoDuplicate: gssapi.InfoDuplicateToken, infoOld: gssapi.InfoOldToken,
		infoUnseq: gssapi.InfoUnseqToken, infoGap: gssapi.InfoGapToken,
	} {
		require.Equal(t, []error{want}, info(code).(gssapi.InfoStatus).Unwrap())
	}
	require.NoError(t, info(0))
}

// TestLockedMemory: a session locks at most 256 bytes, used or not, so that
// 10,000 fit into a third of an 8 MiB limit.
func TestLockedMemory(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		pool := newPool(t)
		a, b := one(t, pool, id, true), one(t, pool, id, false)
		for _, conf := range []bool{true, false} {
			tok, err := a.Wrap(nil, conf)
			require.NoError(t, err)
			_, _, err = b.Unwrap(tok)
			require.NoError(t, err)
		}
		require.LessOrEqual(t, pool.InUse(), 2*256)
	})
}
