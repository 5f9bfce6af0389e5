package negotiate

import (
	"net/http"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/spnego"
)

// instant is a mechanism that is established by any token: what is left is the cost
// of the handler and of SPNEGO.
type instant struct{ gssapi.Provider }

func (i *instant) AcceptSecContext(...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	return instantContext{}, nil
}

var (
	instantToken = make([]byte, 150)
	instantInfo  = gssapi.SecContextInfoPartial{FullyEstablished: true, Mech: gssapi.GSS_MECH_KRB5,
		InitiatorName: &scriptedName{text: "alice@EXAMPLE.TEST"}}
)

type instantContext struct{ gssapi.SecContext }

func (instantContext) Continue([]byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	return instantToken, instantInfo, nil
}
func (instantContext) ContinueNeeded() bool    { return false }
func (instantContext) Delete() ([]byte, error) { return nil, nil }

// discard is a response that goes nowhere.
type discard http.Header

func (d discard) Header() http.Header         { return http.Header(d) }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// bare is a handler over a mechanism that does nothing, and a request for it.
func bare(t testing.TB) (http.Handler, *http.Request) {
	r := newRig(t)
	p, err := spnego.New(&instant{r.mech}, nil)
	require.NoError(t, err)
	a, err := New(p, &Options{Service: service})
	require.NoError(t, err)
	t.Cleanup(func() { _ = a.Close() })
	_, token := r.token()
	req, err := http.NewRequest(http.MethodGet, "/", nil) //nolint:noctx // of the test
	require.NoError(t, err)
	req.Header.Set("Authorization", token)
	next := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, ok := From(r); !ok {
			t.Error("nobody is authenticated")
		}
	})
	return a.Handler(next), req
}

// TestAllocations bounds what the handler and SPNEGO allocate for a request.
func TestAllocations(t *testing.T) {
	h, req := bare(t)
	n := testing.AllocsPerRun(100, func() { h.ServeHTTP(discard{}, req) })
	require.LessOrEqual(t, n, 60.0)
}

// BenchmarkHandler is a request without the mechanism's work.
func BenchmarkHandler(b *testing.B) {
	h, req := bare(b)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(discard{}, req)
	}
}
