package keyring

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
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
		key := make([]byte, keySize)
		var then []byte
		require.NoError(t, e.Derive(info, Output{Label: "one", Key: key, Then: func() { then = bytes.Clone(key) }}))
		want, err := hkdf.Expand(sha256.New, e.record.key(), "one"+string(info), keySize)
		require.NoError(t, err)
		require.Equal(t, want, key)
		require.Equal(t, want, then, "Then ran before the key was there, or not at all")
		require.NoError(t, e.Derive(info, Output{Label: "two", Key: key}))
		require.NotEqual(t, want, key)
	}
}

// RFC 5869 A.1 gives the pseudorandom key that Expand starts from.
func TestExpandVector(t *testing.T) {
	prk := []byte("\x07\x77\x09\x36\x2c\x2e\x32\xdf\x0d\xdc\x3f\x0d\xc4\x7b\xba\x63\x90\xb6\xc7\x3b\xb5\x0f\x9c\x31\x22\xec\x84\x4a\xd7\xc2\xb3\xe5")
	info := []byte("\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9")
	out := make([]byte, keySize)
	expand(prk, make([]byte, scratchSize), info, &Output{Key: out})
	require.Equal(t, "\x3c\xb2\x5f\x25\xfa\xac\xd5\x7a\x90\x43\x4f\x64\xd0\x36\x2f\x2a\x2d\x2d\x0a\x90\xcf\x1a\x5a\x4c\x5d\xb0\x2d\x56\xec\xc4\xc5\xbf", string(out))
}

func TestDeriveRefuses(t *testing.T) {
	e := current(t, newRingT(t, nil))
	for name, c := range map[string]struct {
		info int
		out  Output
	}{
		"short key":         {0, Output{Label: "l", Key: make([]byte, 31)}},
		"long key":          {0, Output{Label: "l", Key: make([]byte, 33)}},
		"no key":            {0, Output{Label: "l", Key: nil}},
		"long info":         {maxInfo, Output{Label: "l", Key: make([]byte, keySize)}},
		"long label":        {0, Output{Label: strings.Repeat("l", maxInfo+1), Key: make([]byte, keySize)}},
		"info behind label": {maxInfo - 3, Output{Label: "long", Key: make([]byte, keySize)}},
	} {
		before := bytes.Clone(c.out.Key)
		require.Error(t, e.Derive(make([]byte, c.info), c.out), name)
		require.Equal(t, before, c.out.Key, "%s: refused, but derived", name)
	}
	require.NoError(t, e.Derive(make([]byte, maxInfo-1), Output{Label: "l", Key: make([]byte, keySize)}))
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
				got := make([]byte, keySize)
				if err := e.Derive(info, Output{Label: "l\x00", Key: got}); err != nil || !bytes.Equal(got, want) {
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
	key := make([]byte, keySize)
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Derive(info, Output{Label: "one", Key: key}); err != nil {
			b.Fatal(err)
		}
	}
}
