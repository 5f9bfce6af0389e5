package secctx

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/seal"
)

// TestAlteredTokens: whatever is done to a token's bytes, the error is one and
// the same value, the mechanism's import is not called, and the genuine token
// still opens afterwards. Only an epoch that is not here gets a text of its own.
func TestAlteredTokens(t *testing.T) {
	for _, st := range suite.All() {
		t.Run(st.String(), func(t *testing.T) {
			h := newHost(t, &seal.Options{Suite: st.String()})
			r, other := newRig(t, h), newRig(t, h)
			token, err := r.sc.Export()
			require.NoError(t, err)
			second, err := other.sc.Export()
			require.NoError(t, err)
			require.Len(t, second, len(token))

			genuine, err := seal.Inspect(token)
			require.NoError(t, err)
			refuse := func(bad []byte, how string, at int) {
				sc, err := r.p.ImportSecContext(bad)
				same := err == errDefective
				if head, none := seal.Inspect(bad); none == nil && head.Epoch != genuine.Epoch { // that much is told
					same = errors.Is(err, seal.ErrDefective) && errors.Is(err, gssapi.ErrDefectiveToken) &&
						strings.Contains(err.Error(), fmt.Sprintf("no living key %x in ", head.Epoch))
				}
				if sc != nil || !same || r.fake.imports.Load() != 0 {
					t.Fatalf("%s %d: context %v, error %v, mechanism asked %d times", how, at, sc, err, r.fake.imports.Load())
				}
			}
			for bit := range len(token) * 8 {
				bad := slices.Clone(token)
				bad[bit/8] ^= 1 << (bit % 8)
				refuse(bad, "bit", bit)
			}
			for n := range token {
				refuse(token[:n], "cut to", n)
				refuse(token[n+1:], "cut before", n)
			}
			for n := 1; n <= 64; n++ {
				refuse(append(slices.Clone(token), make([]byte, n)...), "trailing", n)
			}
			for at := 1; at < len(token); at++ {
				spliced := slices.Concat(token[:at], second[at:])
				if !slices.Equal(spliced, token) && !slices.Equal(spliced, second) {
					refuse(spliced, "spliced at", at)
				}
			}
			refuse(nil, "nothing", 0)

			imported, err := r.p.ImportSecContext(token)
			require.NoError(t, err)
			require.EqualValues(t, 1, r.fake.imports.Load(), "positive control: the mechanism is asked for a genuine one")
			r.talk(t, imported)
			imported, err = other.p.ImportSecContext(second)
			require.NoError(t, err)
			other.talk(t, imported)
		})
	}
}

// TestPlainTokenRefused: what the mechanism would take is no token here.
func TestPlainTokenRefused(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	plain, err := r.sc.(*secContext).inner.Export()
	require.NoError(t, err)
	_, err = r.p.ImportSecContext(plain)
	require.Equal(t, errDefective, err)
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	require.Zero(t, r.fake.imports.Load())

	sc, err := r.fake.ImportSecContext(plain)
	require.NoError(t, err, "positive control: the mechanism takes it")
	r.talk(t, sc)
}

// TestOtherFormat: a token of another implementation does not reach the parser
// and is not spent.
func TestOtherFormat(t *testing.T) {
	h := newHost(t, nil)
	r := newRigOf(t, &Config{Sealer: h, Format: "mit/1/amd64"}, &fakeProvider{})
	token, err := r.sc.Export()
	require.NoError(t, err)
	fake := &fakeProvider{name: "other"}
	p := (&Config{Sealer: h, Format: "heimdal/7/amd64"}).Wrap(fake.combine(0))
	_, err = p.ImportSecContext(token)
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	require.Zero(t, fake.imports.Load())
	sc, err := r.p.ImportSecContext(token)
	require.NoError(t, err)
	r.talk(t, sc)
}

// TestErrorsTellNoSecret: no error carries bytes of a token's plain form.
func TestErrorsTellNoSecret(t *testing.T) {
	for _, f := range exportFaults {
		b := newBench(t)
		key := bytes.Clone(b.sc.(*secContext).inner.(*fakeSecContext).key[:])
		f.cause(t, b)
		_, err := b.sc.Export()
		require.Error(t, err)
		require.False(t, tells(err, key), "%s: %v", f.name, err)
		for _, verb := range []string{"%s", "%q", "%x", "%X", "%v"} {
			require.True(t, tells(fmt.Errorf("lost: "+verb, key), key), "the control: %s", verb)
		}
	}
}

// tells reports whether eight bytes of a secret stand in an error, in any shape
// that fmt gives bytes.
func tells(err error, secret []byte) bool {
	text := fmt.Sprintf("%v %+v %#v", err, err, err)
	for i := range len(secret) - 7 {
		part := secret[i : i+8]
		for _, verb := range []string{"%s", "%q", "%x", "%X", "%v"} {
			if strings.Contains(text, strings.Trim(fmt.Sprintf(verb, part), `[]"`)) {
				return true
			}
		}
	}
	return false
}
