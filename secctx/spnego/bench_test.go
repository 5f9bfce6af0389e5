package spnego

import (
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
)

// BenchmarkAccept is an acceptor's part of a negotiation around a mechanism that
// does nothing: what SPNEGO costs by itself.
func BenchmarkAccept(b *testing.B) {
	r := newRig(b)
	p := r.over(&instant{r.acceptor}, nil)
	token := initOf(make([]byte, 1500), string(oidKrb5))
	b.ReportAllocs()
	for b.Loop() {
		sc, err := p.AcceptSecContext()
		if err != nil {
			b.Fatal(err)
		}
		if _, info, err := sc.Continue(token); err != nil || !info.FullyEstablished {
			b.Fatal(err)
		}
	}
}

// BenchmarkHalf seals a half-open negotiation and takes it up.
func BenchmarkHalf(b *testing.B) {
	r := newRig(b)
	s := host(b)
	sc := r.accept(r.acceptorP)
	_, _, err := sc.Continue(initOf([]byte(ntlmHead), ntlm, string(oidKrb5)))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		token, err := ExportHalf(sc, s, []byte("bind"))
		if err != nil {
			b.Fatal(err)
		}
		if sc, err = ImportHalf(r.acceptorP, s, token, []byte("bind")); err != nil {
			b.Fatal(err)
		}
	}
}

// instant is a mechanism that is established by any token.
type instant struct{ gssapi.Provider }

func (i *instant) AcceptSecContext(...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	return instantContext{}, nil
}

var instantToken = make([]byte, 150)

type instantContext struct{ gssapi.SecContext }

func (instantContext) Continue([]byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	return instantToken, gssapi.SecContextInfoPartial{FullyEstablished: true, Mech: gssapi.GSS_MECH_KRB5}, nil
}
func (instantContext) ContinueNeeded() bool { return false }

// TestAllocations bounds what SPNEGO allocates for a client of one token.
func TestAllocations(t *testing.T) {
	r := newRig(t)
	p := r.over(&instant{r.acceptor}, nil)
	token := initOf(make([]byte, 1500), string(oidKrb5))
	n := testing.AllocsPerRun(100, func() {
		sc, err := p.AcceptSecContext()
		require.NoError(t, err)
		_, _, err = sc.Continue(token)
		require.NoError(t, err)
	})
	require.LessOrEqual(t, n, 12.0)
}
