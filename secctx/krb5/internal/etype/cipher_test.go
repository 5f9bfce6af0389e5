package etype

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"reflect"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func derived(t testing.TB, id ID, key []byte, kind Kind) []byte {
	t.Helper()
	k := make([]byte, kind.Size(id))
	require.NoError(t, Derive(k, id, key, 22, kind))
	return k
}

func newCipher(t testing.TB, id ID, key []byte, dir Direction) *Cipher {
	t.Helper()
	c, err := NewCipher(id, derived(t, id, key, Ke), dir)
	require.NoError(t, err)
	return c
}

// TestCipherReuse runs many messages through one pair of Ciphers: nothing of
// one message may leak into the next. The one-shot functions are the reference.
func TestCipherReuse(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		ki := derived(t, id, key, Ki)
		seal, open := newCipher(t, id, key, Sealing), newCipher(t, id, key, Opening)
		for n := range 80 {
			b := pattern(BlockSize + n + id.MACSize())
			require.NoError(t, seal.Seal(ki, b, nil))
			plain, err := Decrypt(nil, id, key, 22, b)
			require.NoError(t, err)
			require.Equal(t, pattern(BlockSize + n)[BlockSize:], append([]byte{}, plain...))
			require.NoError(t, open.Open(ki, b, nil))
			require.Equal(t, pattern(BlockSize+n), b[:BlockSize+n])
		}
	})
}

func TestCipherAssociatedData(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		ki := derived(t, id, key, Ki)
		seal, open := newCipher(t, id, key, Sealing), newCipher(t, id, key, Opening)
		sealed := pattern(BlockSize + 50 + id.MACSize())
		require.NoError(t, seal.Seal(ki, sealed, []byte("associated")))
		for _, aad := range []string{"", "associatee", "associate", "associated "} {
			b := bytes.Clone(sealed)
			require.ErrorIs(t, open.Open(ki, b, []byte(aad)), ErrIntegrity)
			if id.suite().etm {
				require.Equal(t, sealed, b, "it was decrypted before it was authenticated")
			} else {
				require.Equal(t, make([]byte, len(b)), b, "plaintext that is not authentic is left")
			}
		}
		require.NoError(t, open.Open(ki, sealed, []byte("associated")))
	})
}

func TestCipherMisuse(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		ki := derived(t, id, key, Ki)
		seal, open := newCipher(t, id, key, Sealing), newCipher(t, id, key, Opening)
		b := pattern(100)
		require.ErrorIs(t, open.Seal(ki, b, nil), ErrKeySize)
		require.ErrorIs(t, seal.Open(ki, b, nil), ErrKeySize)
		require.ErrorIs(t, seal.Seal(ki[1:], b, nil), ErrKeySize)
		require.ErrorIs(t, seal.Sum(make([]byte, 1), ki), ErrKeySize)
		require.ErrorIs(t, seal.Seal(ki, b[:BlockSize+id.MACSize()-1], nil), ErrIntegrity)
		require.ErrorIs(t, open.Open(ki, b[:BlockSize+id.MACSize()-1], nil), ErrIntegrity)
		require.Equal(t, pattern(100), b)
		seal.Wipe()
		seal.Wipe()
		require.ErrorIs(t, seal.Seal(ki, b, nil), ErrKeySize)
		require.ErrorIs(t, seal.Sum(make([]byte, id.MACSize()), ki), ErrKeySize)
		require.ErrorIs(t, seal.Verify(make([]byte, id.MACSize()), ki), ErrKeySize)
	})
}

// TestCipherSum: parts are one message, the sum is a truncated HMAC, and no other
// is accepted.
func TestCipherSum(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		kc := derived(t, id, key, Kc)
		c := newCipher(t, id, key, Sealing)
		msg := pattern(300)
		h := hmac.New(id.suite().newHash, kc)
		h.Write(msg)
		want := h.Sum(nil)[:id.MACSize()]
		sum := make([]byte, id.MACSize())
		require.NoError(t, c.Sum(sum, kc, msg[:1], nil, msg[1:200], msg[200:]))
		require.Equal(t, want, sum)
		require.NoError(t, c.Verify(sum, kc, msg))
		require.ErrorIs(t, c.Verify(sum, kc, msg[1:]), ErrIntegrity)
		require.ErrorIs(t, c.Verify(sum[1:], kc, msg), ErrIntegrity)
		require.ErrorIs(t, c.Verify(nil, kc, msg), ErrIntegrity)
		for i := range len(sum) * 8 {
			b := bytes.Clone(sum)
			b[i/8] ^= 1 << (i % 8)
			require.ErrorIs(t, c.Verify(b, kc, msg), ErrIntegrity)
		}
	})
}

// image returns the bytes of an object of the standard library.
func image(x any) []byte {
	v := reflect.ValueOf(x)
	return unsafe.Slice((*byte)(v.UnsafePointer()), v.Type().Elem().Size())
}

// words is b as AES without instructions keeps it, in words of the processor.
func words(b []byte) (w []byte) {
	for ; len(b) >= 4; b = b[4:] {
		w = binary.NativeEndian.AppendUint32(w, binary.BigEndian.Uint32(b))
	}
	return w
}

// TestWipeCipher looks into the objects themselves. That the expanded key is
// found before Wipe is the control, and fails when a Go release moves it.
func TestWipeCipher(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		ke, ki := derived(t, id, key, Ke), derived(t, id, key, Ki)
		for _, dir := range []Direction{Sealing, Opening} {
			c := newCipher(t, id, key, dir)
			aes, digest := image(c.chain.mode), image(c.mac.h)
			b := pattern(BlockSize + 50 + id.MACSize())
			if dir == Sealing {
				require.NoError(t, c.Seal(ki, b, nil))
			} else {
				require.ErrorIs(t, c.Open(ki, b, nil), ErrIntegrity)
			}
			require.True(t, bytes.Contains(aes, ke[:16]) || bytes.Contains(aes, words(ke[:16])),
				"the first round key is the key: it must be found")
			require.NotEqual(t, make([]byte, len(digest)), digest)

			c.Wipe()
			require.Equal(t, make([]byte, len(aes)), aes)
			require.Equal(t, make([]byte, len(digest)), digest)
			require.Zero(t, c.chain.last)
			require.Zero(t, c.mac.pad)
			require.Zero(t, c.mac.sum)
		}
	})
}

// TestMACSettles: between messages the digest holds neither pad nor a state
// made from one. A begin without end is the control.
func TestMACSettles(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		kc := derived(t, id, key, Kc)
		var m mac
		m.init(id.suite())
		fresh := bytes.Clone(image(m.h))
		m.begin(kc)
		require.NotEqual(t, fresh, image(m.h))
		require.NotZero(t, m.pad)
		m.write(pattern(200))
		m.end(kc)
		m.scrub()
		require.Equal(t, fresh, image(m.h), "the digest is not as new")
		require.Zero(t, m.pad)
	})
}

// TestCipherSettles: between messages a Cipher holds its expanded key and
// nothing of the last message.
func TestCipherSettles(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		ki := derived(t, id, key, Ki)
		seal, open := newCipher(t, id, key, Sealing), newCipher(t, id, key, Opening)
		b := pattern(BlockSize + 100 + id.MACSize())
		for _, step := range []struct {
			c *Cipher
			f func() error
		}{
			{seal, func() error { return seal.Seal(ki, b, nil) }},
			{open, func() error { return open.Open(ki, b, nil) }},
			{open, func() error { return open.Verify(nil, ki, b) }},
		} {
			fresh, digest := bytes.Clone(image(step.c.chain.mode)), bytes.Clone(image(step.c.mac.h))
			_ = step.f()
			require.Equal(t, fresh, image(step.c.chain.mode))
			require.Equal(t, digest, image(step.c.mac.h))
			require.Zero(t, step.c.chain.last)
			require.Zero(t, step.c.chain.prev)
			require.Zero(t, step.c.mac.pad)
		}
		require.Equal(t, pattern(BlockSize+100), b[:BlockSize+100], "it was sealed and opened")
	})
}

func TestCopyKey(t *testing.T) {
	for n := range 40 {
		dst := make([]byte, n)
		CopyKey(dst, pattern(n))
		require.Equal(t, pattern(n), dst)
	}
}

// TestNames: what the registry calls them.
func TestNames(t *testing.T) {
	require.Equal(t, "aes256-cts-hmac-sha384-192", AES256SHA384.String())
	require.Equal(t, "etype 23", ID(23).String())
}

// TestCipherAllocates: the methods of a Cipher allocate nothing.
func TestCipherAllocates(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, key []byte) {
		ki := derived(t, id, key, Ki)
		seal, open := newCipher(t, id, key, Sealing), newCipher(t, id, key, Opening)
		b, aad := pattern(1024), pattern(10)
		sum := make([]byte, id.MACSize())
		require.Zero(t, testing.AllocsPerRun(100, func() {
			if seal.Seal(ki, b, aad) != nil || open.Open(ki, b, aad) != nil || seal.Sum(sum, ki, b, aad) != nil {
				t.Fail()
			}
		}))
	})
}

func BenchmarkCipher(b *testing.B) {
	for _, id := range allIDs {
		for _, n := range []int{1 << 10, 64 << 10} {
			b.Run(id.String()+"/"+map[int]string{1 << 10: "1KiB", 64 << 10: "64KiB"}[n], func(b *testing.B) {
				key := pattern(id.KeySize())
				ki := derived(b, id, key, Ki)
				seal, open := newCipher(b, id, key, Sealing), newCipher(b, id, key, Opening)
				buf := make([]byte, n+id.Overhead())
				b.ReportAllocs()
				for b.Loop() {
					if seal.Seal(ki, buf, nil) != nil || open.Open(ki, buf, nil) != nil {
						b.Fatal("not sealed and opened")
					}
				}
			})
		}
	}
}
