package keyring

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Derive is HKDF-Expand of RFC 5869 as the standard library has it.
func TestDerive(t *testing.T) {
	e := current(t, newRingT(t, nil))
	for n := range maxInfo - 3 {
		info := make([]byte, n)
		_, _ = rand.Read(info)
		key, err := deriveKey(e, "one", info)
		require.NoError(t, err)
		want, err := hkdf.Expand(sha256.New, e.record.key(), "one"+string(info), keySize)
		require.NoError(t, err)
		require.Equal(t, want, key)
		other, err := deriveKey(e, "two", info)
		require.NoError(t, err)
		require.NotEqual(t, want, other)
	}
}

// RFC 5869 A.1 gives the pseudorandom key that Expand starts from.
func TestExpandVector(t *testing.T) {
	prk := []byte("\x07\x77\x09\x36\x2c\x2e\x32\xdf\x0d\xdc\x3f\x0d\xc4\x7b\xba\x63\x90\xb6\xc7\x3b\xb5\x0f\x9c\x31\x22\xec\x84\x4a\xd7\xc2\xb3\xe5")
	info := []byte("\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9")
	scratch := make([]byte, scratchSize)
	expand(prk, scratch, "", info)
	out := scratch[:keySize]
	require.Equal(t, "\x3c\xb2\x5f\x25\xfa\xac\xd5\x7a\x90\x43\x4f\x64\xd0\x36\x2f\x2a\x2d\x2d\x0a\x90\xcf\x1a\x5a\x4c\x5d\xb0\x2d\x56\xec\xc4\xc5\xbf", string(out))
}

// What is too long is refused, and so is a dead epoch; nothing is lent then. The
// error of who borrows is Derive's, and the key is gone.
func TestDeriveRefuses(t *testing.T) {
	r := newRingT(t, nil)
	e := current(t, r)
	lent := func([]byte) error { t.Error("a key was lent"); return nil }
	require.Error(t, e.Derive("l", make([]byte, maxInfo), lent, lent))
	require.Error(t, e.Derive(strings.Repeat("l", maxInfo+1), nil, lent, lent))
	require.Error(t, e.Derive("long", make([]byte, maxInfo-3), lent, lent))
	_, err := deriveKey(e, "l", make([]byte, maxInfo-1))
	require.NoError(t, err)

	var kept []byte
	mine := errors.New("mine")
	borrow := func(err error) func([]byte) error {
		return func(key []byte) error {
			require.NotEqual(t, make([]byte, keySize), key)
			kept = key
			return err
		}
	}
	require.Equal(t, mine, e.Derive("l", nil, borrow(mine), lent))
	require.Equal(t, make([]byte, keySize), kept)
	require.Equal(t, mine, e.Derive("l", nil, borrow(nil), borrow(mine)))
	require.Equal(t, make([]byte, keySize), kept)

	require.NoError(t, r.Retire(e.ID()))
	require.ErrorIs(t, e.Derive("l", nil, lent, lent), ErrRetired)
}

// Many derive at once in few buffers; each gets its own, and the buffers are
// clean when all is done.
func TestDeriveConcurrently(t *testing.T) {
	r := newRingT(t, nil)
	e := current(t, r)
	var all sync.WaitGroup
	for g := range 4 * runtime.GOMAXPROCS(0) * len(r.scratch.bufs) {
		all.Go(func() {
			info := []byte{byte(g)}
			want, _ := hkdf.Expand(sha256.New, e.record.key(), "l\x00"+string(info), keySize)
			for range 100 {
				got, err := deriveKey(e, "l\x00", info)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("another's key, or %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	for i := range r.scratch.bufs {
		b := &r.scratch.bufs[i]
		require.True(t, b.mu.TryLock(), "a buffer was not given back")
		require.Equal(t, make([]byte, scratchSize), b.Bytes(), "keys and midstates were left in working memory")
		b.mu.Unlock()
	}
}

func BenchmarkDerive(b *testing.B) {
	r, err := New(nil)
	require.NoError(b, err)
	defer r.Close()
	e, err := r.Current()
	require.NoError(b, err)
	defer e.Release()
	info := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Derive("one", info, func([]byte) error { return nil }, nil); err != nil {
			b.Fatal(err)
		}
	}
}
