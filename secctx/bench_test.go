package secctx

import (
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
)

// BenchmarkExportImport is a whole hop, sealed and as the mechanism alone does
// it. The difference is the sealer's work and this package's.
func BenchmarkExportImport(b *testing.B) {
	hop := func(b *testing.B, p gssapi.Provider, sc gssapi.SecContext) {
		b.ReportAllocs()
		for b.Loop() {
			token, err := sc.Export()
			if err != nil {
				b.Fatal(err)
			}
			if sc, err = p.ImportSecContext(token); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("sealed", func(b *testing.B) {
		r := newRig(b, newHost(b, nil))
		hop(b, r.p, r.sc)
	})
	b.Run("plain", func(b *testing.B) {
		r := newRig(b, newHost(b, nil))
		hop(b, r.fake, r.sc.(*secContext).inner)
	})
}

// BenchmarkGate is what a per-message call pays for being wrapped.
func BenchmarkGate(b *testing.B) {
	r := newRig(b, newHost(b, nil))
	for name, sc := range map[string]gssapi.SecContext{"wrapped": r.sc, "plain": r.sc.(*secContext).inner} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := sc.WrapSizeLimit(true, 100, 0)
				require.NoError(b, err)
			}
		})
	}
}
