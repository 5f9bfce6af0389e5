package seal

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
)

// An opener is Host.Open, or what a control puts in its place.
type opener func(sealed []byte) (*memsafe.Secret, error)

// weaknesses counts the altered tokens that an opener does not answer with
// exactly ErrDefective, the same value each time, and no secret. Only a token whose
// epoch is not own gets a text, and that depends on nothing but the id that anyone
// can write there.
func weaknesses(open opener, own [16]byte, altered [][]byte) int {
	n := 0
	for _, b := range altered {
		s, err := open(b)
		if s != nil {
			s.Wipe()
		}
		switch {
		case s != nil:
			n++
		case err == ErrDefective: // the value itself: a wrapped one tells more
		case err == nil || len(b) < 21 || [16]byte(b[5:21]) == own || err.Error() != elsewhere(b):
			n++
		}
	}
	return n
}

// elsewhere is the text for a token of an epoch that a host in memory does not have.
func elsewhere(b []byte) string {
	return fmt.Sprintf("seal: defective token: no living key %x in the keyring in the memory of process %d of user %d; it was sealed elsewhere, or the key was retired",
		b[5:21], os.Getpid(), os.Geteuid())
}

// flips are all tokens one bit away.
func flips(sealed []byte) [][]byte {
	var all [][]byte
	for bit := range 8 * len(sealed) {
		b := bytes.Clone(sealed)
		b[bit/8] ^= 1 << (bit % 8)
		all = append(all, b)
	}
	return all
}

// truncations are all beginnings and all ends of a token.
func truncations(sealed []byte) [][]byte {
	var all [][]byte
	for n := range sealed {
		all = append(all, sealed[:n], sealed[n+1:])
	}
	return all
}

// extensions are tokens with something before or behind them.
func extensions(sealed []byte) [][]byte {
	var all [][]byte
	for c := range 256 {
		all = append(all, append(bytes.Clone(sealed), byte(c)), append([]byte{byte(c)}, sealed...))
	}
	for _, n := range []int{2, 12, 16, 256, 4096, token.MaxToken} {
		all = append(all, append(bytes.Clone(sealed), make([]byte, n)...))
	}
	return append(all, append(bytes.Clone(sealed), sealed...))
}

// parts cuts a token into its fields.
func parts(t *testing.T, sealed []byte) [][]byte {
	parsed, err := token.Parse(sealed)
	require.NoError(t, err)
	cuts := []int{5, 21, 25, 33, 65, 73, 81, len(parsed.Bound), len(parsed.Bound) + token.CommitmentSize,
		len(parsed.Prefix), len(parsed.Prefix) + token.NonceSize, len(sealed) - token.TagSize, len(sealed)}
	var all [][]byte
	from := 0
	for _, to := range cuts {
		all = append(all, sealed[from:to])
		from = to
	}
	return all
}

// swaps are all tokens that take each part from one of two genuine ones, and
// are neither.
func swaps(t *testing.T, a, b []byte) [][]byte {
	pa, pb := parts(t, a), parts(t, b)
	require.Len(t, pb, len(pa))
	var all [][]byte
	for mask := range 1 << len(pa) {
		var mixed []byte
		for i := range pa {
			if mask>>i&1 == 0 {
				mixed = append(mixed, pa[i]...)
			} else {
				mixed = append(mixed, pb[i]...)
			}
		}
		if !bytes.Equal(mixed, a) && !bytes.Equal(mixed, b) {
			all = append(all, mixed)
		}
	}
	return all
}

func TestAlteredTokens(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		h := memHost(t, &keyring.Options{Suite: st})
		open := func(b []byte) (*memsafe.Secret, error) { return h.Open(b, testFormat) }
		takeBack := func(b []byte) (*memsafe.Secret, error) { return h.TakeBack(b, testFormat) }

		plain := randomBytes(300)
		sealed := sealToken(t, h, testRequest, plain)
		req := testRequest
		req.Mechanism = bytes.Repeat([]byte{1}, len(req.Mechanism))
		req.Lifetime = time.Minute
		otherPlain := randomBytes(300)
		other := sealToken(t, h, req, otherPlain)

		own := current(t, h).ID()
		kinds := []struct {
			name    string
			altered [][]byte
		}{
			{"flipped bits", flips(sealed)},
			{"truncated", truncations(sealed)},
			{"extended", extensions(sealed)},
			{"mixed of two", swaps(t, sealed, other)},
		}
		for _, k := range kinds {
			require.Greater(t, len(k.altered), 500, k.name)
			require.Zero(t, weaknesses(open, own, k.altered), k.name)
			require.Zero(t, weaknesses(takeBack, own, k.altered), k.name)
		}
		require.Equal(t, 2, outstanding(t, h), "nothing may be spent")
		t.Logf("%d, %d, %d, %d altered tokens", len(kinds[0].altered), len(kinds[1].altered), len(kinds[2].altered), len(kinds[3].altered))

		// The controls: an opener that tells why, one that overlooks what stands
		// behind a token, one that overlooks a single bit, and one that takes the
		// nonce from elsewhere.
		require.Equal(t, len(kinds[0].altered), weaknesses(func(b []byte) (*memsafe.Secret, error) {
			s, err := open(b)
			return s, fmt.Errorf("because: %w", err)
		}, own, kinds[0].altered))
		require.NotZero(t, weaknesses(func(b []byte) (*memsafe.Secret, error) {
			return open(b[:min(len(b), len(sealed))])
		}, own, kinds[2].altered))
		sealed = sealToken(t, h, testRequest, plain)
		require.Equal(t, 1, weaknesses(func(b []byte) (*memsafe.Secret, error) {
			b = bytes.Clone(b)
			b[40] |= 0x04
			b[40] &^= ^sealed[40] & 0x04
			return open(b)
		}, own, flips(sealed)))
		sealed = sealToken(t, h, testRequest, plain)
		require.NotZero(t, weaknesses(func(b []byte) (*memsafe.Secret, error) {
			p := len(sealed) - token.TagSize - 512 - token.NonceSize
			b = bytes.Clone(b)
			copy(b[p:], sealed[p:p+token.NonceSize])
			return open(b)
		}, own, swaps(t, sealed, other)))

		requireOpens(t, h, other, otherPlain) // the genuine one is as good as before
	})
}

// Tokens that are no token at all.
func TestRubbish(t *testing.T) {
	h := memHost(t, nil)
	plainMIT := append([]byte{0, 0, 0, 9}, append(bytes.Clone(testRequest.Mechanism), randomBytes(1165)...)...)
	for _, b := range [][]byte{nil, {}, {0}, []byte("SLCX"), []byte("SLCX\x01"), plainMIT,
		make([]byte, 700), make([]byte, token.MaxToken), make([]byte, token.MaxToken+1), bytes.Repeat([]byte{0xff}, 4096)} {
		requireRefused(t, h, b, ErrDefective)
	}
}

// Authentic tokens, made under the right key, that do not open. The reason is
// one that the caller may know, and nothing is spent.
func TestForgedHeaders(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		h := memHost(t, &keyring.Options{Suite: st})
		tests := []struct {
			name   string
			change func(*token.Header)
			want   error
		}{
			{"as it should be", func(*token.Header) {}, nil},
			{"word of the generation before", func(h *token.Header) { h.Word -= 1 << 24 }, ErrSpent},
			{"word of the generation after", func(h *token.Header) { h.Word += 1 << 24 }, ErrSpent},
			{"word that expires later", func(h *token.Header) { h.Word += 1 << 2 }, ErrSpent},
			{"word FREE", func(h *token.Header) { h.Word = h.Word&^3 | 1 }, ErrSpent},
			{"word SPENT", func(h *token.Header) { h.Word |= 3 }, ErrSpent},
			{"word zero", func(h *token.Header) { h.Word = 0 }, ErrSpent},
			{"the next slot", func(h *token.Header) { h.Slot++ }, ErrSpent},
			{"a slot past the end", func(h *token.Header) { h.Slot = 1<<32 - 1 }, ErrSpent},
			{"expired", func(h *token.Header) { h.Expires = h.Issued + 1 }, ErrExpired},
			{"issued later than now", func(h *token.Header) { h.Issued += time.Second }, nil},
			{"another format", func(h *token.Header) { h.Format = []byte(otherForm) }, ErrFormat},
			{"the other suite", func(h *token.Header) { h.Suite = otherThan(h.Suite) }, ErrDefective},
			{"another epoch", func(h *token.Header) { h.Epoch[7]++ }, ErrDefective},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				plain := randomBytes(50)
				before := outstanding(t, h)
				sealed := forge(t, h, plain, tt.change)
				if tt.want == nil {
					requireOpens(t, h, sealed, plain)
					return
				}
				requireRefused(t, h, sealed, tt.want)
				require.Equal(t, before+1, outstanding(t, h), "the slot must stay as it was")
			})
		}
	})
}

// What is refused for its format, its audience or its bytes is not spent.
func TestRefusalsSpendNothing(t *testing.T) {
	h := memHost(t, nil)
	plain := randomBytes(50)
	sealed := sealToken(t, h, testRequest, plain)
	for range 3 {
		s, err := h.Open(sealed, otherForm)
		require.ErrorIs(t, err, ErrFormat)
		require.Nil(t, s)
		requireRefused(t, h, flips(sealed)[len(sealed)], ErrDefective)
	}
	requireOpens(t, h, sealed, plain)
}

// The order of refusals. A process that is not the audience learns no more than that. An
// expired token is expired to every process.
func TestOrderOfRefusals(t *testing.T) {
	h := memHost(t, nil)
	make := func(expired, stranger, format bool) []byte {
		return forge(t, h, nil, func(head *token.Header) {
			if expired {
				head.Expires = head.Issued + 1
			}
			if stranger {
				head.Audience = User(h.who.User() + 1).wire()
			}
			if format {
				head.Format = []byte(otherForm)
			}
			head.Word = 0 // spent, too
		})
	}
	requireRefused(t, h, make(true, true, true), ErrExpired)
	requireRefused(t, h, make(false, true, true), ErrUnauthorized)
	requireRefused(t, h, make(false, false, true), ErrFormat)
	requireRefused(t, h, make(false, false, false), ErrSpent)
}

// otherThan is another suite.
func otherThan(st suite.Suite) suite.Suite {
	all := suite.All()
	return all[(slices.Index(all, st)+1)%len(all)]
}
