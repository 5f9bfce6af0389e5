package etype

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

var allIDs = []ID{AES128SHA1, AES256SHA1, AES128SHA256, AES256SHA384}

func eachID(t *testing.T, f func(t *testing.T, id ID, key []byte)) {
	for _, id := range allIDs {
		t.Run(id.String(), func(t *testing.T) {
			key := make([]byte, id.KeySize())
			require.NoError(t, RandomKey(key, id))
			f(t, id, key)
		})
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + 1)
	}
	return b
}

// TestEncryptDecryptEveryLength covers each number of bytes in the last block,
// one block alone, and long runs.
func TestEncryptDecryptEveryLength(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		for _, n := range []int{0, 1, 2, 14, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 1000, 4096, 65537} {
			plain := pattern(n)
			sealed, err := Encrypt([]byte("head"), id, key, 7, plain)
			require.NoError(t, err)
			require.Len(t, sealed, 4+n+id.Overhead())
			require.Equal(t, pattern(n), plain, "the plaintext was written to")

			keep := bytes.Clone(sealed)
			got, err := Decrypt([]byte("front"), id, key, 7, sealed[4:])
			require.NoError(t, err, "%d bytes", n)
			require.Equal(t, "front", string(got[:5]))
			require.True(t, bytes.Equal(plain, got[5:]), "%d bytes", n)
			require.Equal(t, keep, sealed, "the ciphertext was written to")
		}
	})
}

func TestEncryptTwiceDiffers(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		a, err := Encrypt(nil, id, key, 7, pattern(40))
		require.NoError(t, err)
		b, err := Encrypt(nil, id, key, 7, pattern(40))
		require.NoError(t, err)
		require.NotEqual(t, a[:BlockSize], b[:BlockSize])
	})
}

// TestDecryptRefuses flips every bit, cuts at every length, adds bytes, and
// changes key and usage. That the genuine one opens is the control.
func TestDecryptRefuses(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		sealed, err := Encrypt(nil, id, key, 7, pattern(37))
		require.NoError(t, err)
		refused := func(b []byte, k []byte, usage uint32, what string) {
			t.Helper()
			dst := make([]byte, 0, len(b)+8)
			_, err := Decrypt(dst, id, k, usage, b)
			require.ErrorIs(t, err, ErrIntegrity, what)
			require.Equal(t, make([]byte, cap(dst)), dst[:cap(dst)], "%s: something is left in dst", what)
		}
		for i := range len(sealed) * 8 {
			b := bytes.Clone(sealed)
			b[i/8] ^= 1 << (i % 8)
			refused(b, key, 7, fmt.Sprintf("bit %d", i))
		}
		for n := range len(sealed) {
			refused(sealed[:n], key, 7, fmt.Sprintf("cut to %d", n))
		}
		refused(append(bytes.Clone(sealed), 0), key, 7, "trailing byte")
		refused(sealed, key, 8, "usage")
		other := bytes.Clone(key)
		other[0] ^= 1
		refused(sealed, other, 7, "key")

		_, err = Decrypt(nil, id, key, 7, sealed)
		require.NoError(t, err)
	})
}

func TestBadArguments(t *testing.T) {
	for _, id := range []ID{0, 1, 3, 16, 21, 23, -17, 1 << 20} {
		require.False(t, id.Valid())
		require.Zero(t, id.KeySize()+id.MACKeySize()+id.MACSize()+id.Overhead())
		_, err := Encrypt(nil, id, make([]byte, 16), 1, pattern(50))
		require.ErrorIs(t, err, ErrUnsupported)
		_, err = Decrypt(nil, id, make([]byte, 16), 1, pattern(50))
		require.ErrorIs(t, err, ErrUnsupported)
		require.ErrorIs(t, RandomKey(make([]byte, 16), id), ErrUnsupported)
		_, err = NewCipher(id, make([]byte, 16), Sealing)
		require.ErrorIs(t, err, ErrUnsupported)
	}
	eachID(t, func(t *testing.T, id ID, key []byte) {
		require.True(t, id.Valid())
		for _, n := range []int{0, 1, 24, id.KeySize() - 1, id.KeySize() + 1} {
			_, err := Encrypt(nil, id, make([]byte, n), 1, pattern(50))
			require.ErrorIs(t, err, ErrKeySize)
			_, err = Decrypt(nil, id, make([]byte, n), 1, pattern(50))
			require.ErrorIs(t, err, ErrKeySize)
			require.ErrorIs(t, RandomKey(make([]byte, n), id), ErrKeySize)
			_, err = NewCipher(id, make([]byte, n), Opening)
			require.ErrorIs(t, err, ErrKeySize)
		}
	})
}

func FuzzDecrypt(f *testing.F) {
	for _, id := range allIDs {
		key := pattern(id.KeySize())
		for _, n := range []int{0, 1, 16, 40} {
			b, err := Encrypt(nil, id, key, 2, pattern(n))
			require.NoError(f, err)
			f.Add(int32(id), key, uint32(2), b)
		}
	}
	f.Add(int32(18), pattern(32), uint32(2), []byte{})
	f.Fuzz(func(t *testing.T, n int32, key []byte, usage uint32, b []byte) {
		id := ID(n)
		plain, err := Decrypt(nil, id, key, usage, b)
		if err != nil {
			require.Nil(t, plain)
			return
		}
		// What opens is as long as it claims, and opens again after sealing.
		require.Len(t, plain, len(b)-id.Overhead())
		again, err := Encrypt(nil, id, key, usage, plain)
		require.NoError(t, err)
		require.Len(t, again, len(b))
		back, err := Decrypt(nil, id, key, usage, again)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain, back))
	})
}
