package token

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// opener opens a token whose host key it knows.
type opener func(b []byte) ([]byte, error)

func realOpener(b []byte) ([]byte, error) { return open(testKey, b) }

// bodyOnly is a faulty opener: it decrypts with the genuine token's keys and
// additional data whatever the clear part says, and stops at the tag.
func bodyOnly(t *testing.T, genuine []byte) opener {
	g, err := Parse(genuine)
	require.NoError(t, err)
	enc, _ := deriveKeys(t, testKey, g.Bound)
	return func(b []byte) ([]byte, error) {
		if len(b) < len(genuine) {
			return nil, ErrMalformed
		}
		tok := g
		tok.Sealed = b[len(g.Prefix):len(genuine)]
		_, err := tok.Open(make([]byte, tok.BodySize()), enc)
		return nil, err
	}
}

// alterations calls f with every token that differs from b in one bit, every
// one that is cut short, and some with something behind.
func alterations(b []byte, f func(name string, altered []byte)) {
	for i := range len(b) * 8 {
		altered := bytes.Clone(b)
		altered[i/8] ^= 1 << (i % 8)
		f(fmt.Sprintf("bit %d of byte %d", i%8, i/8), altered)
	}
	for n := range len(b) {
		f(fmt.Sprintf("first %d bytes", n), b[:n:n])
	}
	for _, tail := range [][]byte{{0}, {0x80}, make([]byte, 256), b} {
		f(fmt.Sprintf("%d bytes behind", len(tail)), append(bytes.Clone(b), tail...))
	}
	for _, front := range [][]byte{{0}, b[:16]} {
		f(fmt.Sprintf("%d bytes before", len(front)), append(bytes.Clone(front), b...))
	}
}

// survivors returns the alterations that open.
func survivors(b []byte, open opener) (names []string) {
	alterations(b, func(name string, altered []byte) {
		if _, err := open(altered); err == nil {
			names = append(names, name)
		}
	})
	return names
}

func TestEveryAlteration(t *testing.T) {
	for _, st := range suites {
		sealed := sealToken(t, testHeader(st), testKey, randomBytes(100))
		require.Empty(t, survivors(sealed, realOpener))
		_, err := realOpener(sealed)
		require.NoError(t, err, "the genuine one still opens")

		clear := len(sealed) - NonceSize - 512 - TagSize
		require.Len(t, survivors(sealed, bodyOnly(t, sealed)), clear*8+4,
			"control: an opener that binds nothing takes any clear part, and anything behind")
	}
}

// TestEverySwap builds every token that takes each of its parts from one or the
// other of two genuine ones: only these two themselves open.
func TestEverySwap(t *testing.T) {
	for _, st := range suites {
		a := testHeader(st)
		b := *a // the same epoch
		b.Slot++
		b.Word += 1 << 24
		b.Salt = [SaltSize]byte(randomBytes(SaltSize))
		b.Issued++
		b.Expires++
		b.Mechanism = []byte{0x2b, 6, 1, 5, 5, 2, 3, 4, 5}
		b.Format = []byte("own/1/linux")
		b.Exporter++
		b.Audience = Audience{2, []byte{0, 0, 3, 0xe9}}
		tokens := [2][]byte{sealToken(t, a, testKey, randomBytes(100)), sealToken(t, &b, testKey, randomBytes(300))}
		require.Len(t, tokens[1], len(tokens[0]))

		opened := mixtures(tokens, realOpener)
		require.Equal(t, 2, opened)
		require.Greater(t, mixtures(tokens, bodyOnly(t, tokens[0])), 2, "control")
	}
}

// mixtures counts the tokens that open.
func mixtures(tokens [2][]byte, open opener) (opened int) {
	const size = headerSize + 1 + 9 + 1 + 11 + 4 + 1 + 1 + 4 // of header and context
	ends := []int{
		21, 25, 33, 65, 73, 81, // epoch and before, slot, word, salt, issued, expires
		91, 103, 107, size, // mechanism, format, exporter, audience
		size + 32, size + 36 + 12, len(tokens[0]) - 16, len(tokens[0]), // commitment, length and nonce, body, tag
	}
	mixed := make([]byte, len(tokens[0]))
	for choice := range 1 << (len(ends) - 1) { // the first part is the same in both
		from := ends[0]
		copy(mixed, tokens[0][:from])
		for i, to := range ends[1:] {
			copy(mixed[from:to], tokens[choice>>i&1][from:to])
			from = to
		}
		if _, err := open(mixed); err == nil {
			opened++
		}
	}
	return opened
}

// TestOtherKey: a token opens under no other host key, suite or derived key.
func TestOtherKey(t *testing.T) {
	for _, st := range suites {
		sealed := sealToken(t, testHeader(st), testKey, randomBytes(100))
		_, err := open(randomBytes(32), sealed)
		require.Equal(t, errCommitment, err)

		tok, err := Parse(sealed)
		require.NoError(t, err)
		enc, com := deriveKeys(t, testKey, tok.Bound)
		dst := make([]byte, tok.BodySize())
		_, err = tok.Open(dst, com)
		require.Equal(t, ErrOpen, err)
		other := tok
		other.Suite = suites[(slices.Index(suites, st)+1)%len(suites)]
		_, err = other.Open(dst, enc)
		require.Equal(t, ErrOpen, err)
		_, err = tok.Open(dst, enc)
		require.NoError(t, err, "control")
	}
}
