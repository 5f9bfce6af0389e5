package fuzz

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/internal/vectors"
	"github.com/sealctx/sealctx/seal"
	"github.com/stretchr/testify/require"
)

// addTokens seeds a target with the vectors that this side of the keys can tell
// apart, but for the longest, which take more time than they bring.
func addTokens(f *testing.F) {
	f.Helper()
	for _, v := range readVectors(f) {
		if (v.Expect == vectors.Success || v.Expect == vectors.Malformed) && len(v.Token) < 4096 {
			f.Add(v.Token)
		}
	}
}

// FuzzParse: what parses marshals to the same bytes, points into them, and is
// the same through ParseHeader; all else is ErrMalformed.
func FuzzParse(f *testing.F) {
	addTokens(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, headErr := token.ParseHeader(b)
		tok, err := token.Parse(b)
		if err != nil {
			require.Equal(t, token.ErrMalformed, err)
			require.Zero(t, tok)
		}
		if headErr != nil {
			require.Equal(t, token.ErrMalformed, headErr)
			require.Error(t, err, "parses, but its header does not")
			return
		}
		again, err2 := h.Append(nil)
		require.NoError(t, err2)
		require.Equal(t, b, append(again, rest...))
		if err != nil {
			return
		}
		require.Equal(t, h, tok.Header)
		require.Equal(t, b, append(bytes.Clone(tok.Prefix), tok.Sealed...))
		require.Equal(t, tok.Prefix[:len(tok.Prefix)-4], append(bytes.Clone(tok.Bound), tok.Commitment...))
		require.Equal(t, binary.BigEndian.Uint32(tok.Prefix[len(tok.Prefix)-4:]), uint32(tok.BodySize()))
		require.LessOrEqual(t, len(b), token.MaxToken)
	})
}

// FuzzInspect: what Inspect reads, written by the vectors' writer, is the clear
// part of the token.
func FuzzInspect(f *testing.F) {
	addTokens(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		h, err := seal.Inspect(b)
		require.Equal(t, before, b)
		if err != nil {
			require.Equal(t, seal.ErrDefective, err)
			require.Zero(t, h)
			return
		}
		require.NotEmpty(t, h.Audience.String())
		st := map[string]uint8{"AES-256-GCM": 1, "ChaCha20-Poly1305": 2}[h.Suite]
		head := vectors.Parts{
			Magic: "SLCX", Version: st, Epoch: h.Epoch[:], Slot: h.Slot,
			Word: binary.BigEndian.Uint64(b[25:]), Salt: b[33:65], // not in a Header
			Issued: uint64(h.Issued), Expires: uint64(h.Expires),
			Mechanism: h.Mechanism, Format: []byte(h.Format),
		}
		clear := head.Bound() // up to the audience, of which a Header has no bytes
		clear = clear[:len(clear)-6]
		require.Equal(t, clear, b[:len(clear)])
		require.Equal(t, h.Exporter, binary.BigEndian.Uint32(b[len(clear):]))
	})
}

// FuzzAlter changes a genuine token of a key that nobody knows: bytes of it are
// XORed, it is cut and something put behind it. Whatever that makes, unless it
// is the same token, is the one error; the genuine token opens afterwards.
func FuzzAlter(f *testing.F) {
	f.Add(uint8(1), uint16(100), uint16(0), []byte{1}, uint16(0), []byte{})
	f.Add(uint8(2), uint16(511), uint16(120), []byte{}, uint16(1), []byte{0})
	f.Add(uint8(1), uint16(512), uint16(4), []byte{3}, uint16(0), []byte{})
	f.Add(uint8(2), uint16(0), uint16(115), []byte{0xff, 0xff}, uint16(700), []byte{})
	f.Add(uint8(1), uint16(9), uint16(5), bytes.Repeat([]byte{0}, 16), uint16(0), []byte{})
	pool := newPool(f)
	hosts := map[uint8]*seal.Host{}
	for _, st := range []uint8{vectors.GCM, vectors.ChaCha} {
		h, err := seal.OpenHost(&seal.Options{Private: true, Suite: suite.Suite(st).String(), Pool: pool})
		require.NoError(f, err)
		f.Cleanup(func() { _ = h.Close() })
		hosts[st] = h
	}
	f.Fuzz(func(t *testing.T, st uint8, size, at uint16, xor []byte, cut uint16, tail []byte) {
		h := hosts[1+st&1]
		plain := bytes.Repeat([]byte{0xa5}, min(int(size), token.MaxPlain))
		r, err := h.Reserve(seal.Request{Format: anyFormat})
		require.NoError(t, err)
		genuine, err := r.Seal(plain)
		require.NoError(t, err)
		altered := alter(genuine, int(at), xor, int(cut), tail)
		if !bytes.Equal(altered, genuine) {
			for _, open := range openers(h) {
				secret, err := open(altered, anyFormat)
				require.Nil(t, secret)
				requireDefective(t, genuine, altered, err)
			}
		}
		secret, err := h.Open(genuine, anyFormat)
		require.NoError(t, err)
		require.Equal(t, plain, secret.Bytes())
		secret.Wipe()
		require.Zero(t, pool.InUse())
		_, err = h.Open(genuine, anyFormat)
		require.ErrorIs(t, err, seal.ErrSpent)
	})
}

func alter(b []byte, at int, xor []byte, cut int, tail []byte) []byte {
	b = bytes.Clone(b)
	for i, x := range xor {
		b[(at+i)%len(b)] ^= x
	}
	return append(b[:len(b)-cut%len(b)], tail...)
}

// requireDefective checks that the error of an altered token is the one value, and
// only for an epoch that is not here a text that anyone could have written.
func requireDefective(t *testing.T, genuine, altered []byte, err error) {
	t.Helper()
	is, inspected := seal.Inspect(altered)
	was, _ := seal.Inspect(genuine)
	if inspected != nil || is.Epoch == was.Epoch {
		require.Equal(t, seal.ErrDefective, err)
		return
	}
	require.ErrorIs(t, err, seal.ErrDefective)
	require.ErrorContains(t, err, fmt.Sprintf("no living key %x in ", is.Epoch))
}
