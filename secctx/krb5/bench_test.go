package krb5_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// BenchmarkExportImport is one plain export and import, the token wiped.
func BenchmarkExportImport(b *testing.B) {
	for _, id := range krb5test.Enctypes() {
		b.Run(fmt.Sprint("enctype=", id), func(b *testing.B) {
			bench := newBench(b, krb5.Config{}, krb5test.Ticket{Etype: id})
			_, sc := bench.establish(b, allFlags)
			b.ReportAllocs()
			for b.Loop() {
				tok, err := sc.Export()
				if err != nil {
					b.Fatal(err)
				}
				if sc, err = bench.p.ImportSecContext(tok); err != nil {
					b.Fatal(err)
				}
				memsafe.Wipe(tok)
			}
		})
	}
}

// BenchmarkWrapUnwrap is a sealed message there, at two sizes.
func BenchmarkWrapUnwrap(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		for _, id := range krb5test.Enctypes() {
			b.Run(fmt.Sprintf("size=%d/enctype=%d", size, id), func(b *testing.B) {
				bench := newBench(b, krb5.Config{}, krb5test.Ticket{Etype: id})
				init, acc := bench.establish(b, allFlags)
				msg := make([]byte, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					tok, _, err := init.Wrap(msg, true, 0)
					if err != nil {
						b.Fatal(err)
					}
					if _, _, _, err := acc.Unwrap(tok); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkEstablish is a whole handshake with mutual authentication, replay
// cache included.
func BenchmarkEstablish(b *testing.B) {
	bench := newBench(b, krb5.Config{})
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, quietHandshake(bench))
	}
}
