package token

import (
	"bytes"
	"crypto/rand"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/vectors"
	"github.com/stretchr/testify/require"
)

var (
	suites  = suite.All()
	testKey = randomBytes(32)

	errCommitment = errors.New("header not authentic")
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// testHeader is a header with everything in it, another one each time.
func testHeader(st suite.Suite) *Header {
	return &Header{
		Suite:     st,
		Epoch:     [16]byte(randomBytes(16)),
		Slot:      0x01020304,
		Word:      0x05060708090a0b0c,
		Salt:      [SaltSize]byte(randomBytes(SaltSize)),
		Issued:    time.Hour,
		Expires:   time.Hour + 2*time.Minute,
		Mechanism: []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02},
		Format:    []byte("mit/2/amd64"),
		Exporter:  1000,
		Audience:  Audience{1, []byte{0, 0, 3, 0xe8}},
	}
}

func sealToken(t testing.TB, h *Header, hostKey, plain []byte) []byte {
	t.Helper()
	bound, err := h.Append(nil)
	require.NoError(t, err)
	enc, com := deriveKeys(t, hostKey, bound)
	sealed, err := Seal(h.Suite, append(bound, com...), enc, plain, rand.Reader)
	require.NoError(t, err)
	return sealed
}

// TestHeaderLimits: Append and ParseHeader accept and refuse the same headers.
func TestHeaderLimits(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Header)
		ok   bool
	}{
		{"plain", func(*Header) {}, true},
		{"suite 0", func(h *Header) { h.Suite = 0 }, false},
		{"suite 2", func(h *Header) { h.Suite = 2 }, true},
		{"suite 3", func(h *Header) { h.Suite = 3 }, false},
		{"suite 255", func(h *Header) { h.Suite = 255 }, false},
		{"issued at boot", func(h *Header) { h.Issued = 0 }, true},
		{"issued before boot", func(h *Header) { h.Issued = -1 }, false},
		{"last instant", func(h *Header) { h.Expires = math.MaxInt64 }, true},
		{"expires before boot", func(h *Header) { h.Expires = math.MinInt64 }, false},
		{"expires at issue", func(h *Header) { h.Expires = h.Issued }, false},
		{"lives one nanosecond", func(h *Header) { h.Expires = h.Issued + 1 }, true},
		{"no mechanism", func(h *Header) { h.Mechanism = nil }, true},
		{"longest mechanism", func(h *Header) { h.Mechanism = make([]byte, 64) }, true},
		{"mechanism too long", func(h *Header) { h.Mechanism = make([]byte, 65) }, false},
		{"no format", func(h *Header) { h.Format = nil }, false},
		{"longest format", func(h *Header) { h.Format = bytes.Repeat([]byte("!"), 64) }, true},
		{"format too long", func(h *Header) { h.Format = bytes.Repeat([]byte("!"), 65) }, false},
		{"format with space", func(h *Header) { h.Format = []byte("a b") }, false},
		{"format with tilde", func(h *Header) { h.Format = []byte("~") }, true},
		{"format with delete", func(h *Header) { h.Format = []byte("\x7f") }, false},
		{"format with zero", func(h *Header) { h.Format = []byte("a\x00") }, false},
		{"format in Latin-1", func(h *Header) { h.Format = []byte("\xe4") }, false},
		{"no audience value", func(h *Header) { h.Audience = Audience{} }, true},
		{"longest audience", func(h *Header) { h.Audience.Value = make([]byte, 64) }, true},
		{"audience too long", func(h *Header) { h.Audience.Value = make([]byte, 65) }, false},
		{"audience of any kind", func(h *Header) { h.Audience.Kind = 255 }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := testHeader(suite.AES256GCM)
			c.set(h)
			require.Len(t, unchecked(h), h.Size())
			bound, err := h.Append([]byte("before"))
			got, rest, readErr := ParseHeader(append(unchecked(h), "after"...))
			if !c.ok {
				require.Equal(t, ErrMalformed, err)
				require.Equal(t, ErrMalformed, readErr)
				return
			}
			require.NoError(t, err)
			require.NoError(t, readErr)
			require.Equal(t, "before"+string(unchecked(h)), string(bound))
			require.Equal(t, "after", string(rest))
			again, err := got.Append(nil)
			require.NoError(t, err)
			require.Equal(t, unchecked(h), again)
		})
	}
}

// unchecked writes a header whatever stands in it.
func unchecked(h *Header) []byte { return parts(h).Bound() }

// parts are a header's fields for the vectors' writer.
func parts(h *Header) *vectors.Parts {
	return &vectors.Parts{
		HostKey: testKey, Magic: magic, Version: uint8(h.Suite), Suite: uint8(h.Suite),
		Epoch: h.Epoch[:], Slot: h.Slot, Word: h.Word, Salt: h.Salt[:],
		Issued: uint64(h.Issued), Expires: uint64(h.Expires),
		Mechanism: h.Mechanism, Format: h.Format, Exporter: h.Exporter,
		Kind: h.Audience.Kind, Audience: h.Audience.Value,
	}
}

func TestLongestToken(t *testing.T) {
	for _, st := range suites {
		h := testHeader(st)
		h.Mechanism = make([]byte, MaxMechanism)
		h.Format = bytes.Repeat([]byte("f"), MaxFormat)
		h.Audience.Value = make([]byte, MaxAudience)
		plain := randomBytes(MaxPlain)
		sealed := sealToken(t, h, testKey, plain)
		require.Len(t, sealed, MaxToken)
		got, err := open(testKey, sealed)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain, got))
		_, err = open(testKey, append(sealed, 0))
		require.Equal(t, ErrMalformed, err)
	}
}

func TestSealErrors(t *testing.T) {
	for _, st := range suites {
		_, err := Seal(st, nil, testKey, make([]byte, MaxPlain+1), rand.Reader)
		require.Equal(t, ErrTooLarge, err)
		_, err = Seal(st, nil, testKey[:7], nil, rand.Reader)
		require.Error(t, err, "a key of 7 bytes")
	}
	failing := errors.New("no entropy")
	_, err := Seal(suite.ChaCha20Poly1305, nil, testKey, nil, readerFunc(func([]byte) (int, error) { return 0, failing }))
	require.ErrorIs(t, err, failing)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestSealHides: a token starts with what was given, is as long as it must be,
// and has no plain byte in it.
func TestSealHides(t *testing.T) {
	for _, st := range suites {
		start := randomBytes(40)
		plain := bytes.Repeat([]byte{0xaa}, 700)
		sealed, err := Seal(st, start, testKey, plain, rand.Reader)
		require.NoError(t, err)
		require.Equal(t, start, sealed[:40])
		require.Len(t, sealed, 40+4+NonceSize+768+TagSize)
		require.NotContains(t, string(sealed), string(plain[:8]))
		require.Equal(t, bytes.Repeat([]byte{0xaa}, 700), plain, "the caller's to wipe")
	}
}

// TestOpenErrors: a body that is not authentic leaves zeros behind.
func TestOpenErrors(t *testing.T) {
	for _, st := range suites {
		sealed := sealToken(t, testHeader(st), testKey, bytes.Repeat([]byte{0xaa}, 100))
		for name, change := range map[string]func(*Token, *[]byte){
			"altered": func(tok *Token, _ *[]byte) { tok.Sealed[NonceSize+50] ^= 1 },
			"bad key": func(_ *Token, key *[]byte) { *key = (*key)[:31] },
		} {
			tok, err := Parse(bytes.Clone(sealed))
			require.NoError(t, err)
			key, _ := deriveKeys(t, testKey, tok.Bound)
			change(&tok, &key)
			dst := bytes.Repeat([]byte{0xbb}, tok.BodySize())
			_, err = tok.Open(dst, key)
			require.Error(t, err, name)
			require.Equal(t, make([]byte, len(dst)), dst, name)
		}
	}
}
