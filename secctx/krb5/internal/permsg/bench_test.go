package permsg

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

var sizes = []struct {
	name string
	n    int
}{{"1KiB", 1 << 10}, {"64KiB", 64 << 10}}

// BenchmarkWrapUnwrap is a message sealed by one end and opened by the other.
func BenchmarkWrapUnwrap(b *testing.B) {
	for _, id := range allIDs {
		for _, size := range sizes {
			b.Run(id.String()+"/"+size.name, func(b *testing.B) {
				from, to := pair(b, id)
				msg := pattern(size.n)
				b.ReportAllocs()
				b.SetBytes(int64(size.n))
				for b.Loop() {
					tok, err := from.Wrap(msg, true)
					if err != nil {
						b.Fatal(err)
					}
					if _, _, err := to.Unwrap(tok); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkMIC is a MIC made by one end and verified by the other.
func BenchmarkMIC(b *testing.B) {
	for _, id := range allIDs {
		b.Run(id.String()+"/1KiB", func(b *testing.B) {
			from, to := pair(b, id)
			msg := pattern(1 << 10)
			b.ReportAllocs()
			for b.Loop() {
				tok, err := from.GetMIC(msg)
				if err != nil {
					b.Fatal(err)
				}
				if err := to.VerifyMIC(msg, tok); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWrapParallel is many goroutines sending on one session.
func BenchmarkWrapParallel(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			from, _ := pair(b, etype.AES256SHA1)
			msg := pattern(size.n)
			b.SetBytes(int64(size.n))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := from.Wrap(msg, true); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkExportRestore is a session that moves, without its first message
// afterwards, which expands the keys: see BenchmarkFirstMessage.
func BenchmarkExportRestore(b *testing.B) {
	for _, id := range allIDs {
		b.Run(id.String(), func(b *testing.B) {
			pool := newPool(b)
			s := one(b, pool, id, true)
			buf, err := pool.Alloc(MaxStateSize)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				state, err := s.Export(buf.Bytes()[:0])
				if err != nil {
					b.Fatal(err)
				}
				if s, err = Restore(pool, state); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFirstMessage is a session that moves and then sends a MIC.
func BenchmarkFirstMessage(b *testing.B) {
	pool := newPool(b)
	s := one(b, pool, etype.AES256SHA1, true)
	buf, err := pool.Alloc(MaxStateSize)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		state, err := s.Export(buf.Bytes()[:0])
		if err != nil {
			b.Fatal(err)
		}
		if s, err = Restore(pool, state); err != nil {
			b.Fatal(err)
		}
		if _, err := s.GetMIC(nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNew derives the keys of a context.
func BenchmarkNew(b *testing.B) {
	for _, id := range allIDs {
		b.Run(id.String(), func(b *testing.B) {
			pool := newPool(b)
			p := params(id, true)
			b.ReportAllocs()
			for b.Loop() {
				s, err := New(pool, p)
				if err != nil {
					b.Fatal(err)
				}
				s.Wipe()
			}
		})
	}
}

// TestAllocations: the budget of a message is three.
func TestAllocations(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		a, b := pair(t, id)
		msg := pattern(1024)
		for _, conf := range []bool{true, false} {
			var tok []byte
			require.Equal(t, 1.0, testing.AllocsPerRun(100, func() { tok, _ = a.Wrap(msg, conf) }), "Wrap")
			_, _, err := b.Unwrap(tok)
			require.NotErrorIs(t, err, errNotEqual)
			b.in.win.replay, b.in.win.sequence = false, false // a status would be an allocation
			require.Equal(t, 1.0, testing.AllocsPerRun(100, func() { _, _, _ = b.Unwrap(tok) }), "Unwrap")
		}
		var mic []byte
		require.Equal(t, 1.0, testing.AllocsPerRun(100, func() { mic, _ = a.GetMIC(msg) }), "GetMIC")
		require.NoError(t, b.VerifyMIC(msg, mic))
		require.Zero(t, testing.AllocsPerRun(100, func() { _ = b.VerifyMIC(msg, mic) }), "VerifyMIC")
	})
}
