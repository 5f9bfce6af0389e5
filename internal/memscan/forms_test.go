//go:build linux

package memscan

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/chacha20poly1305"
)

func goexit() { runtime.Goexit() }

// sizeVar and hashVar tell a victim which key size and hash to use.
const (
	sizeVar = "MEMSCAN_KEY_SIZE"
	hashVar = "MEMSCAN_HASH"
)

var (
	sizes  = map[string]int{"128": 16, "192": 24, "256": 32}
	hashes = map[string]func() hash.Hash{"SHA-1": sha1.New, "SHA-256": sha256.New, "SHA-384": sha512.New384, "SHA-512": sha512.New}
)

// newAES makes a live AES-GCM object and wipes the raw key.
func newAES(v *Victim) cipher.AEAD {
	key := make([]byte, sizes[os.Getenv(sizeVar)])
	rand.Read(key)
	v.Needle("key", key)
	block, err := aes.NewCipher(key)
	v.Check(err)
	clear(key)
	aead, err := cipher.NewGCM(block)
	v.Check(err)
	runtime.KeepAlive(block)
	return aead
}

func aesVictim(v *Victim) {
	aead := newAES(v)
	v.Checkpoint("live")
	runtime.KeepAlive(aead)
}

func aesBusyVictim(v *Victim) {
	aead := newAES(v)
	go func() {
		text, nonce := make([]byte, 4096), make([]byte, 12)
		for {
			aead.Seal(text[:0], nonce, text[:len(text)-16], nil)
		}
	}()
	v.Checkpoint("busy")
}

func newHMAC(v *Victim) hash.Hash {
	key := make([]byte, keySize)
	rand.Read(key)
	v.Needle("key", key)
	var h hash.Hash
	elsewhere(func() { h = hmac.New(hashes[os.Getenv(hashVar)], key) })
	clear(key)
	return h
}

func hmacVictim(v *Victim) {
	h := newHMAC(v)
	v.Checkpoint("new")
	h.Reset()
	h.Sum(nil)
	v.Checkpoint("reset")
	runtime.KeepAlive(h)
}

func hmacBusyVictim(v *Victim) {
	h := newHMAC(v)
	go func() {
		text, sum := make([]byte, 10), make([]byte, 0, 64)
		for {
			h.Reset()
			h.Write(text)
			sum = h.Sum(sum[:0])
		}
	}()
	v.Checkpoint("busy")
}

// chachaVictim is the first row of the table of keys that Go leaves behind:
// the caller wipes its key and drops the cipher object.
func chachaVictim(v *Victim, do func(func())) {
	key := make([]byte, chacha20poly1305.KeySize)
	rand.Read(key)
	v.Needle("key", key)
	v.UnderLoad(func() { elsewhere(func() { do(func() { sealOnce(v, key) }) }) })
	clear(key)
	v.Checkpoint("sealed")
}

// elsewhere runs f in a goroutine of its own, so that what follows does not
// overwrite its frames.
func elsewhere(f func()) {
	var wg sync.WaitGroup
	wg.Go(f)
	wg.Wait()
}

//go:noinline
func sealOnce(v *Victim, key []byte) {
	aead, err := chacha20poly1305.New(key)
	v.Check(err)
	text := make([]byte, 1165)
	aead.Seal(nil, make([]byte, aead.NonceSize()), text, nil)
}

// forms returns the names of the forms in hits, without the key's name.
func forms(hits []Hit) map[string]int {
	n := map[string]int{}
	for _, h := range hits {
		_, form, _ := strings.Cut(h.Needle, ": ")
		n[form]++
	}
	return n
}

// TestAESForms: each form of the schedule is found in a process that holds a
// live cipher, by the instructions and by portable code.
func TestAESForms(t *testing.T) {
	for size := range sizes {
		for _, c := range []struct {
			name  string
			env   []string
			wants []string
		}{
			{"instructions", nil, []string{"AES round keys", "AES decryption round keys", "GHASH key, doubled"}},
			{"portable", []string{"GODEBUG=cpu.aes=off"},
				[]string{"AES round keys, portable", "AES decryption round keys, portable"}},
		} {
			t.Run(size+" "+c.name, func(t *testing.T) {
				if runtime.GOARCH != "amd64" && (c.env != nil) {
					c.wants = nil
				}
				tg := Start(t, "aes", &Options{Env: append(c.env, sizeVar+"="+size)})
				tg.At("live")
				var s Set
				s.AES("key", tg.Secret("key"))
				r := tg.Scan(&s)
				got := forms(r.InMemory())
				for _, w := range c.wants {
					require.Contains(t, got, w, "%v", r)
				}
				other := Set{}
				key := make([]byte, sizes[size])
				rand.Read(key)
				other.AES("key", key)
				require.Empty(t, tg.Scan(&other).Hits, "another key")
			})
		}
	}
}

// TestRegisters: the registers of a thread that computes hold round keys and
// midstates, and are searched.
func TestRegisters(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		return // the forms in registers are those of x86
	}
	busy := func(scenario, env string, fill func(s *Set, key []byte)) func(form string, where func(Hit) bool) {
		tg := Start(t, scenario, &Options{Env: []string{env}})
		tg.At("busy")
		var s Set
		fill(&s, tg.Secret("key"))
		return func(form string, where func(Hit) bool) {
			for i := range 500 {
				r := tg.Scan(&s)
				if forms(r.Where(where))[form] > 0 {
					t.Logf("%s: seen in scan %d", form, i+1)
					return
				}
			}
			t.Fatalf("no %q left by a thread that uses it", form)
		}
	}
	registers := func(h Hit) bool { return h.Kind == Registers }
	until := busy("aes busy", sizeVar+"=256", func(s *Set, key []byte) { s.AES("key", key) })
	until("AES round keys", registers)

	if !strings.Contains(cpuFlags(t), " sha_ni ") {
		return // the registers of other SHA code hold no such form
	}
	until = busy("hmac busy", hashVar+"=SHA-256", func(s *Set, key []byte) { s.HMAC("key", sha256.New, key) })
	until("HMAC inner midstate, in registers", registers)
	until("HMAC outer midstate, in registers", registers)
	// Go's SHA-1 saves the register in its frame for the time of a block.
	until = busy("hmac busy", hashVar+"=SHA-1", func(s *Set, key []byte) { s.HMAC("key", sha1.New, key) })
	until("HMAC inner midstate, in registers", func(h Hit) bool { return h.Kind != Registers })
	until("HMAC outer midstate, in registers", func(h Hit) bool { return h.Kind != Registers })
}

func cpuFlags(t *testing.T) string {
	b, err := os.ReadFile("/proc/cpuinfo")
	require.NoError(t, err)
	_, flags, _ := strings.Cut(string(b), "flags")
	flags, _, _ = strings.Cut(flags, "\n")
	return flags + " "
}

// TestHMACForms: pads, and after the first use midstates, are found in a process
// that holds a live HMAC.
func TestHMACForms(t *testing.T) {
	for name, h := range hashes {
		t.Run(name, func(t *testing.T) {
			// Without these instructions SHA code keeps words in its frame.
			tg := Start(t, "hmac", &Options{Env: []string{hashVar + "=" + name, "GODEBUG=cpu.sha=off,cpu.avx2=off"}})
			tg.At("new")
			var s Set
			s.HMAC("key", h, tg.Secret("key"))
			s.Bytes("key", tg.Secret("key"))
			r := tg.Scan(&s)
			got := forms(r.InMemory())
			for _, w := range []string{"HMAC inner pad", "HMAC outer pad", "HMAC inner midstate"} {
				require.Contains(t, got, w, "%v", r)
			}
			tg.Resume()
			tg.At("reset")
			r = tg.Scan(&s)
			got = forms(r.InMemory())
			for _, w := range []string{"HMAC inner midstate, marshalled", "HMAC outer midstate, marshalled", "HMAC inner midstate"} {
				require.Contains(t, got, w, "%v", r)
			}
			t.Logf("%v", got)
		})
	}
}

// TestPadWords: code without SHA instructions leaves the pads as words.
func TestPadWords(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		return // the switches are those of x86
	}
	tg := Start(t, "hmac", &Options{Env: []string{hashVar + "=SHA-256", "GODEBUG=cpu.sha=off,cpu.avx2=off"}})
	tg.At("new")
	var s Set
	s.HMAC("key", sha256.New, tg.Secret("key"))
	r := tg.Scan(&s)
	require.Contains(t, forms(r.InMemory()), "HMAC inner pad, words", "%v", r)
}

// TestKeysGoLeavesBehind measures what chacha20poly1305 leaves of a key whose
// caller has done all it can: a leak that a scanner worth its name must see.
// How much of it survives collections varies; TestErased counts that.
func TestKeysGoLeavesBehind(t *testing.T) {
	tg := Start(t, "chacha", nil)
	tg.At("sealed")
	var s Set
	s.Bytes("key", tg.Secret("key"))
	first := tg.Scan(&s)
	tg.Collect(2)
	second := tg.Scan(&s)
	tg.Churn()
	third := tg.Scan(&s)
	whole := func(r *Report) int {
		return len(r.Where(func(h Hit) bool { return h.Len == chacha20poly1305.KeySize }))
	}
	t.Logf("whole copies at once %d, after two collections %d, after churn %d; pieces %d, %d, %d",
		whole(first), whole(second), whole(third), len(first.Hits), len(second.Hits), len(third.Hits))
	require.GreaterOrEqual(t, whole(first), 2, "%v", first)
}

// TestErased is the same row inside runtime/secret.Do, where the binary was
// built with it: nothing is left after a collection. A plain build leaks as
// before, which is the control.
func TestErased(t *testing.T) {
	for _, o := range []*Options{{}, {Collectors: 2, Signal: syscall.SIGURG, Rate: 2000}} {
		left := 0
		for range 5 {
			tg := Start(t, "erased", o)
			tg.At("sealed")
			var s Set
			s.Bytes("key", tg.Secret("key"))
			first := tg.Scan(&s)
			tg.Collect(1)
			second := tg.Scan(&s)
			t.Logf("erasing %v, %d collectors: %d hits at once, %d after a collection",
				erasing, o.Collectors, len(first.Hits), len(second.Hits))
			left += len(second.Hits)
		}
		require.Equal(t, erasing, left == 0)
	}
}

// TestSchedules checks the key schedules against FIPS 197, appendix A.
func TestSchedules(t *testing.T) {
	for _, c := range []struct{ key, last, lastInverse string }{
		{"2b7e151628aed2a6abf7158809cf4f3c", "d014f9a8c9ee2589e13f0cc8b6630ca6", ""},
		{"8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b", "e98ba06f448c773c8ecc720401002202", ""},
		{"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4", "fe4890d1e6188d0b046df344706c631e", ""},
		// Appendix C.1: the inverse cipher's key schedule of round 1.
		{"000102030405060708090a0b0c0d0e0f", "13111d7fe3944a17f307a78b4d2b30c5", "13aa29be9c8faff6f770f58000f7bf03"},
	} {
		key, err := hex.DecodeString(c.key)
		require.NoError(t, err)
		enc, err := expandKey(key)
		require.NoError(t, err)
		require.Equal(t, c.key, hex.EncodeToString(enc[:len(key)]))
		require.Equal(t, c.last, hex.EncodeToString(enc[len(enc)-16:]))
		dec := invertSchedule(enc)
		require.Len(t, dec, len(enc))
		if c.lastInverse != "" {
			require.Equal(t, c.lastInverse, hex.EncodeToString(dec[16:32]))
		}
	}
}

// TestUnfitNeedles: what could match by accident, or not at all, is an error.
func TestUnfitNeedles(t *testing.T) {
	random := make([]byte, 64)
	rand.Read(random)
	ramp := make([]byte, 64)
	for i := range ramp {
		ramp[i] = byte(3 * i)
	}
	for name, add := range map[string]func(*Set){
		"short":       func(s *Set) { s.Bytes("x", random[:15]) },
		"empty":       func(s *Set) { s.Bytes("x", nil) },
		"zero":        func(s *Set) { s.Bytes("x", make([]byte, 64)) },
		"padded":      func(s *Set) { s.Bytes("x", append(random[:16:16], make([]byte, 16)...)) },
		"ramp":        func(s *Set) { s.Bytes("x", ramp) },
		"all public":  func(s *Set) { s.Message("x", random, random) },
		"only zeros":  func(s *Set) { s.Message("x", make([]byte, 64)) },
		"AES size":    func(s *Set) { s.AES("x", random[:20]) },
		"HMAC short":  func(s *Set) { s.HMAC("x", sha256.New, random[:8]) },
		"first stays": func(s *Set) { s.Bytes("x", nil); s.Bytes("y", random) },
	} {
		t.Run(name, func(t *testing.T) {
			var s Set
			add(&s)
			require.ErrorIs(t, s.Err(), ErrNeedle)
			require.Zero(t, s.Windows())
		})
	}
}

// TestMessage: windows of low entropy and of public text do not count, all
// others do.
func TestMessage(t *testing.T) {
	secret, public := make([]byte, 32), []byte("a path that everybody knows /etc/krb5.conf")
	rand.Read(secret)
	msg := append(append(append([]byte{}, public...), make([]byte, 64)...), secret...)
	var s Set
	left := s.Message("token", msg, public)
	require.NoError(t, s.Err())
	require.Equal(t, left, s.Windows())
	m, err := newMatcher(&s)
	require.NoError(t, err)
	search := func(b []byte) int {
		found := map[run]bool{}
		m.search(b, 0, 0, len(b), found)
		return len(found)
	}
	require.Zero(t, search(public))
	require.Zero(t, search(make([]byte, 4096)))
	require.Equal(t, 1, search(secret))
	require.Equal(t, 1, search(msg))
	require.Equal(t, 1, search(secret[:16]))
}

// TestHMACLongKey: a key longer than a block is hashed first, as RFC 2104 has it.
func TestHMACLongKey(t *testing.T) {
	key := make([]byte, 100)
	rand.Read(key)
	sum := sha256.Sum256(key)
	var long, short Set
	long.HMAC("key", sha256.New, key)
	short.HMAC("key", sha256.New, sum[:])
	require.NoError(t, long.Err())
	require.Equal(t, short.needles, long.needles)
}
