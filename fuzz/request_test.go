package fuzz

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
	"github.com/stretchr/testify/require"
)

// FuzzRequest reserves with any request and seals any plain token: what is
// accepted stands in the token and opens to the same bytes.
func FuzzRequest(f *testing.F) {
	f.Add("mit/2/amd64", []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}, int64(time.Minute), []byte("plain"), uint16(1))
	f.Add("", []byte{}, int64(0), []byte{}, uint16(1))
	f.Add("a b", []byte{}, int64(1), []byte{0}, uint16(1))
	f.Add("~", make([]byte, 64), int64(-1), []byte{0x80}, uint16(512))
	f.Add("!", make([]byte, 65), int64(time.Hour), []byte{0x80, 0}, uint16(1000))
	f.Add("x", []byte{}, int64(1), []byte{}, uint16(1))
	f.Add("x", []byte{}, int64(time.Minute), bytes.Repeat([]byte("x"), 1000), uint16(50))
	pool := newPool(f)
	h, err := seal.OpenHost(&seal.Options{Private: true, Pool: pool})
	require.NoError(f, err)
	f.Cleanup(func() { _ = h.Close() })
	f.Fuzz(func(t *testing.T, format string, mechanism []byte, lifetime int64, plain []byte, times uint16) {
		plain = bytes.Repeat(plain, min(int(times), 1+(token.MaxPlain+100)/max(len(plain), 1)))
		r, err := h.Reserve(seal.Request{Format: format, Mechanism: mechanism, Lifetime: time.Duration(lifetime)})
		if err != nil {
			require.ErrorIs(t, err, seal.ErrRequest)
			return
		}
		sealed, err := r.Seal(plain)
		require.Zero(t, pool.InUse(), "a used reservation holds no key")
		require.ErrorIs(t, r.Cancel(), seal.ErrRequest)
		if len(plain) > token.MaxPlain {
			require.ErrorIs(t, err, seal.ErrRequest)
			return
		}
		if err != nil {
			require.ErrorIs(t, err, seal.ErrExpired)
			require.Less(t, lifetime, int64(10*time.Second), "no test takes that long")
			return
		}
		header, err := seal.Inspect(sealed)
		require.NoError(t, err)
		require.Equal(t, format, header.Format)
		require.True(t, bytes.Equal(mechanism, header.Mechanism))
		require.Positive(t, header.Expires-header.Issued)
		require.LessOrEqual(t, header.Expires-header.Issued, time.Hour)
		secret, err := h.Open(sealed, format)
		if errors.Is(err, seal.ErrExpired) && lifetime > 0 && lifetime < int64(10*time.Second) {
			require.NoError(t, cancelled(h, sealed, format))
			return
		}
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain, secret.Bytes()))
		secret.Wipe()
	})
}

// cancelled checks that a token that expired does not open another way.
func cancelled(h *seal.Host, sealed []byte, format string) error {
	if _, err := h.TakeBack(sealed, format); !errors.Is(err, seal.ErrExpired) {
		return errors.Join(errors.New("an expired token was not refused"), err)
	}
	return nil
}
