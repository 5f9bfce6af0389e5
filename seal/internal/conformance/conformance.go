// Package conformance is the one suite of tests that every seal.Sealer passes:
// the one in the process and the agent's client.
package conformance

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	tokens "github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

const format = "test/1/any"

// Suite is what the tests need of an implementation.
type Suite struct {
	// Sealer returns a new sealer with keys of its own; the test's end closes it.
	Sealer func(t *testing.T) seal.Sealer

	// Another returns a sealer over the same keys as the one given: what another
	// process of this user would have.
	Another func(t *testing.T, s seal.Sealer) seal.Sealer

	// Retire makes the epoch of a token end.
	Retire func(t *testing.T, s seal.Sealer, epoch [16]byte)
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	for name, test := range map[string]func(*testing.T, Suite){
		"Sizes":      testSizes,
		"Once":       testOnce,
		"TakeBack":   testTakeBack,
		"Race":       testRace,
		"Cancel":     testCancel,
		"Use":        testUse,
		"Altered":    testAltered,
		"Foreign":    testForeign,
		"Expired":    testExpired,
		"Retired":    testRetired,
		"Audience":   testAudience,
		"BadRequest": testBadRequest,
		"Order":      testOrder,
		"Exporters":  testExporters,
		"Formats":    testFormats,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

var request = seal.Request{Format: format, Mechanism: []byte{42, 134, 72}}

func sealed(t *testing.T, s seal.Sealer, req seal.Request, plain []byte) []byte {
	t.Helper()
	r, err := s.Reserve(req)
	require.NoError(t, err)
	token, err := r.Seal(plain)
	require.NoError(t, err)
	return token
}

func opens(t *testing.T, s seal.Sealer, token, plain []byte) {
	t.Helper()
	secret, err := s.Open(token, format)
	require.NoError(t, err)
	require.True(t, bytes.Equal(plain, secret.Bytes()))
	secret.Wipe()
}

// An opening is Open or TakeBack of a sealer.
type opening = func(token []byte, formats ...string) (*memsafe.Secret, error)

func refuses(t *testing.T, want error, open opening, token []byte, format string) {
	t.Helper()
	secret, err := open(token, format)
	require.ErrorIs(t, err, want)
	require.Nil(t, secret)
}

// Every size up to the longest comes out as it went in, and says so in its header.
func testSizes(t *testing.T, s Suite) {
	a := s.Sealer(t)
	b := s.Another(t, a)
	for _, n := range []int{0, 1, 511, 512, 1165, 4096, 30000, tokens.MaxPlain} {
		plain := make([]byte, n)
		rand.Read(plain)
		token := sealed(t, a, request, plain)
		head, err := seal.Inspect(token)
		require.NoError(t, err)
		require.Equal(t, format, head.Format)
		require.Equal(t, request.Mechanism, head.Mechanism)
		require.EqualValues(t, os.Geteuid(), head.Exporter)
		require.Equal(t, 2*time.Minute, head.Expires-head.Issued)
		if n >= 16 {
			require.NotContains(t, string(token), string(plain[:16])) // never in clear
		}
		opens(t, b, token, plain)
	}
	r, err := a.Reserve(request)
	require.NoError(t, err)
	_, err = r.Seal(make([]byte, tokens.MaxPlain+1))
	require.ErrorIs(t, err, seal.ErrRequest)
}

func testOnce(t *testing.T, s Suite) {
	a := s.Sealer(t)
	b := s.Another(t, a)
	token := sealed(t, a, request, []byte("once"))
	opens(t, b, token, []byte("once"))
	for _, x := range []seal.Sealer{a, b} {
		refuses(t, seal.ErrSpent, x.Open, token, format)
		refuses(t, seal.ErrSpent, x.TakeBack, token, format)
	}
}

func testTakeBack(t *testing.T, s Suite) {
	a := s.Sealer(t)
	token := sealed(t, a, request, []byte("back"))
	secret, err := a.TakeBack(token, format)
	require.NoError(t, err)
	require.Equal(t, "back", string(secret.Bytes()))
	secret.Wipe()
	refuses(t, seal.ErrSpent, a.Open, token, format)
}

// Of openers and takers-back one wins each token.
func testRace(t *testing.T, s Suite) {
	a := s.Sealer(t)
	b := s.Another(t, a)
	for range 20 {
		token := sealed(t, a, request, []byte("race"))
		var wins atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			open := []opening{a.Open, b.Open, a.TakeBack, b.TakeBack}[i%4]
			wg.Go(func() {
				secret, err := open(token, format)
				if err == nil {
					wins.Add(1)
					secret.Wipe()
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, wins.Load())
	}
}

func testCancel(t *testing.T, s Suite) {
	a := s.Sealer(t)
	r, err := a.Reserve(request)
	require.NoError(t, err)
	require.NoError(t, r.Cancel())
	require.ErrorIs(t, r.Cancel(), seal.ErrRequest)
	_, err = r.Seal(nil)
	require.ErrorIs(t, err, seal.ErrRequest)
}

func testUse(t *testing.T, s Suite) {
	a := s.Sealer(t)
	r, err := a.Reserve(request)
	require.NoError(t, err)
	token, err := r.Seal([]byte("used"))
	require.NoError(t, err)
	_, err = r.Seal([]byte("used"))
	require.ErrorIs(t, err, seal.ErrRequest)
	require.ErrorIs(t, r.Cancel(), seal.ErrRequest)
	opens(t, a, token, []byte("used"))
}

// Whatever is wrong with a token's bytes, the error is one and the same value,
// and the genuine token is still good. Only an epoch that is not here gets a text,
// which says nothing but that, and where it was looked for.
func testAltered(t *testing.T, s Suite) {
	a := s.Sealer(t)
	token := sealed(t, a, request, []byte("genuine"))
	for i := range token {
		if i > 200 && i%16 != 0 {
			continue
		}
		bad := bytes.Clone(token)
		bad[i] ^= 0x80
		for _, open := range []opening{a.Open, a.TakeBack} {
			_, err := open(bad, format)
			if 5 <= i && i < 21 { // the epoch's id, SPEC section 2
				require.ErrorIs(t, err, seal.ErrDefective, "byte %d", i)
				require.ErrorContains(t, err, fmt.Sprintf("no living key %x in ", bad[5:21]))
				continue
			}
			require.Equal(t, seal.ErrDefective, err, "byte %d", i)
		}
	}
	for _, bad := range [][]byte{nil, {}, {0}, []byte("plain"), token[:len(token)-1], append(bytes.Clone(token), 0), make([]byte, tokens.MaxToken+1)} {
		_, err := a.Open(bad, format)
		require.Equal(t, seal.ErrDefective, err, "%d bytes", len(bad))
	}
	opens(t, a, token, []byte("genuine"))
}

// A token of other keys is defective.
func testForeign(t *testing.T, s Suite) {
	token := sealed(t, s.Sealer(t), request, []byte("elsewhere"))
	refuses(t, seal.ErrDefective, s.Sealer(t).Open, token, format)
}

func testExpired(t *testing.T, s Suite) {
	a := s.Sealer(t)
	short := request
	short.Lifetime = 500 * time.Millisecond // to be sealed in, on a busy machine too
	token := sealed(t, a, short, []byte("late"))
	r, err := a.Reserve(short)
	require.NoError(t, err)
	time.Sleep(short.Lifetime)
	refuses(t, seal.ErrExpired, a.Open, token, format)
	refuses(t, seal.ErrExpired, a.TakeBack, token, format)
	_, err = r.Seal([]byte("late"))
	require.ErrorIs(t, err, seal.ErrExpired)
}

func testRetired(t *testing.T, s Suite) {
	a := s.Sealer(t)
	token := sealed(t, a, request, []byte("gone"))
	head, err := seal.Inspect(token)
	require.NoError(t, err)
	s.Retire(t, a, head.Epoch)
	refuses(t, seal.ErrDefective, a.Open, token, format)
	opens(t, a, sealed(t, a, request, []byte("next")), []byte("next"))
}

// A token for another user does not open here. Its exporter can take it back. A sealer may
// also refuse to make it.
func testAudience(t *testing.T, s Suite) {
	a := s.Sealer(t)
	own := request
	own.Audience = seal.User(uint32(os.Geteuid()))
	opens(t, a, sealed(t, a, own, []byte("own")), []byte("own"))

	self, err := seal.Process(os.Getpid())
	require.NoError(t, err)
	one := request
	one.Audience = self
	opens(t, a, sealed(t, a, one, []byte("process")), []byte("process"))

	other := request
	other.Audience = seal.User(uint32(os.Geteuid()) + 1)
	r, err := a.Reserve(other)
	if err != nil {
		require.Nil(t, r)
		return
	}
	token, err := r.Seal([]byte("other"))
	require.NoError(t, err)
	refuses(t, seal.ErrUnauthorized, a.Open, token, format)
	secret, err := a.TakeBack(token, format)
	require.NoError(t, err)
	secret.Wipe()
}

func testBadRequest(t *testing.T, s Suite) {
	a := s.Sealer(t)
	for name, req := range map[string]seal.Request{
		"no format":         {},
		"space in format":   {Format: "a b"},
		"long format":       {Format: string(bytes.Repeat([]byte("x"), 65))},
		"long mechanism":    {Format: format, Mechanism: make([]byte, 65)},
		"huge mechanism":    {Format: format, Mechanism: make([]byte, 1<<17)},
		"negative lifetime": {Format: format, Lifetime: -1},
	} {
		r, err := a.Reserve(req)
		require.ErrorIs(t, err, seal.ErrRequest, name)
		require.Nil(t, r)
	}
	long := request
	long.Lifetime = 1000 * time.Hour
	head, err := seal.Inspect(sealed(t, a, long, nil))
	require.NoError(t, err)
	require.Less(t, head.Expires-head.Issued, long.Lifetime)
}

// The format is asked last before the claim, and a wrong one spends nothing.
func testOrder(t *testing.T, s Suite) {
	a := s.Sealer(t)
	token := sealed(t, a, request, []byte("order"))
	refuses(t, seal.ErrFormat, a.Open, token, "test/2/any")
	refuses(t, seal.ErrFormat, a.Open, token, "")
	refuses(t, seal.ErrFormat, a.Open, token, string(bytes.Repeat([]byte("x"), 1<<17)))
	opens(t, a, token, []byte("order"))
	refuses(t, seal.ErrSpent, a.Open, token, format)
	refuses(t, seal.ErrFormat, a.Open, token, "test/2/any")
}

// An opener that demands an exporter gets no other's token. What it cannot ask for
// it is told, and no refusal spends anything.
func testExporters(t *testing.T, s Suite) {
	a := s.Sealer(t)
	b := s.Another(t, a)
	own, other := seal.User(uint32(os.Geteuid())), seal.User(uint32(os.Geteuid())+1)
	self, err := seal.Process(os.Getpid())
	require.NoError(t, err)
	token := sealed(t, a, request, []byte("whose"))
	for _, tt := range []struct {
		name string
		from []seal.Party
		want error
	}{
		{"another user", []seal.Party{other}, seal.ErrUnauthorized},
		{"nobody", nil, seal.ErrRequest},
		{"too many", make([]seal.Party, 17), seal.ErrRequest},
		{"a process", []seal.Party{own, self}, ask.ErrAudience},
		{"no party", []seal.Party{own, {}}, ask.ErrAudience},
	} {
		secret, err := b.OpenFrom(tt.from, token, format)
		require.ErrorIs(t, err, tt.want, tt.name)
		require.Nil(t, secret, tt.name)
	}
	_, err = b.OpenFrom([]seal.Party{other}, token, format)
	require.ErrorContains(t, err, own.String()+" exported it")
	require.ErrorContains(t, err, other.String()+" is demanded")
	_, err = b.OpenFrom([]seal.Party{own}, token[:len(token)-1], format)
	require.Equal(t, seal.ErrDefective, err)
	_, err = b.OpenFrom([]seal.Party{own}, token, "test/2/any")
	require.ErrorIs(t, err, seal.ErrFormat)

	secret, err := b.OpenFrom([]seal.Party{other, own}, token, format)
	require.NoError(t, err)
	require.Equal(t, "whose", string(secret.Bytes()))
	secret.Wipe()
	_, err = b.OpenFrom([]seal.Party{own}, token, format)
	require.ErrorIs(t, err, seal.ErrSpent)
}

// An opener may read several formats, and gets a token of any of them.
func testFormats(t *testing.T, s Suite) {
	a := s.Sealer(t)
	for _, formats := range [][]string{{format, "test/2/any"}, {"test/2/any", "a b", format}, {"", format}} {
		secret, err := a.Open(sealed(t, a, request, nil), formats...)
		require.NoError(t, err)
		secret.Wipe()
		secret, err = a.TakeBack(sealed(t, a, request, nil), formats...)
		require.NoError(t, err)
		secret.Wipe()
	}
	token := sealed(t, a, request, nil)
	for _, formats := range [][]string{nil, {""}, {"test/2/any", "test/3/any"}} {
		_, err := a.Open(token, formats...)
		require.ErrorIs(t, err, seal.ErrFormat)
	}
	opens(t, a, token, nil)
}
