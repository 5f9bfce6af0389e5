//go:build linux

package etype

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/memsafe"
)

// typeVar tells a victim which type to use.
const typeVar = "ETYPE_ID"

func TestMain(m *testing.M) {
	memscan.Main(m, map[string]func(*memscan.Victim){
		"one-shot calls": func(v *memscan.Victim) { leakVictim(v, oneShots) },
		"cipher":         func(v *memscan.Victim) { leakVictim(v, cipherWiped) },
		"AES not wiped":  func(v *memscan.Victim) { leakVictim(v, cipherKept) },
		"MAC not ended":  func(v *memscan.Victim) { leakVictim(v, macKept) },
		"FIPS only":      fipsVictim,
	})
}

// leakVictim makes a key and those derived from it, hands them over, has f work
// with them in a goroutine of its own, wipes its copies and stops at "done".
func leakVictim(v *memscan.Victim, f func(*memscan.Victim, ID, *testKeys)) {
	n, err := strconv.Atoi(os.Getenv(typeVar))
	v.Check(err)
	id := ID(n)
	keys := new(testKeys)
	k := keys.base[:id.KeySize()]
	v.Check(RandomKey(k, id))
	v.Needle("base", k)
	for i, kind := range []Kind{Ke, Ki, Kc} {
		d := keys.derived[i][:kind.Size(id)]
		memsafe.Do(func() { err = Derive(d, id, k, 22, kind) })
		v.Check(err)
		v.Needle(kindNames[i], d)
	}
	var wg sync.WaitGroup
	wg.Go(func() { f(v, id, keys) })
	wg.Wait()
	memsafe.Do(func() { *keys = testKeys{} })
	v.Checkpoint("done")
}

var kindNames = []string{"Ke", "Ki", "Kc"}

type testKeys struct {
	base    [MaxKeySize]byte
	derived [3][MaxKeySize]byte
}

var kept any // so that an erasing build does not clear it

func oneShots(v *memscan.Victim, id ID, keys *testKeys) {
	for n := range 50 {
		k, msg := keys.base[:id.KeySize()], make([]byte, n*10)
		sealed, err := Encrypt(nil, id, k, 22, msg)
		v.Check(err)
		_, err = Decrypt(nil, id, k, 22, sealed)
		v.Check(err)
		sealed[0]++
		if _, err = Decrypt(nil, id, k, 22, sealed); err == nil {
			v.Fatal(os.ErrInvalid)
		}
	}
}

func cipherWiped(v *memscan.Victim, id ID, keys *testKeys) { useCipher(v, id, keys).Wipe() }
func cipherKept(v *memscan.Victim, id ID, keys *testKeys)  { kept = useCipher(v, id, keys) }

func useCipher(v *memscan.Victim, id ID, keys *testKeys) (c *Cipher) {
	ki, kc := keys.derived[1][:id.MACKeySize()], keys.derived[2][:id.MACKeySize()]
	b := make([]byte, 200)
	var err error
	memsafe.Do(func() {
		if c, err = NewCipher(id, keys.derived[0][:id.KeySize()], Sealing); err != nil {
			return
		}
		for range 50 {
			if err = c.Seal(ki, b, nil); err != nil {
				return
			}
			if err = c.Sum(b[:id.MACSize()], kc, b[100:]); err != nil {
				return
			}
		}
	})
	v.Check(err)
	return c
}

func macKept(_ *memscan.Victim, id ID, keys *testKeys) {
	m := new(mac)
	m.init(id.suite())
	m.begin(keys.derived[1][:id.MACKeySize()])
	kept = m
}

// left runs a victim and returns what is left of its keys. What signals add to
// that in a plain build is counted by BenchmarkLeftBySignals of package permsg.
func left(t *testing.T, scenario string, id ID) []memscan.Hit {
	t.Helper()
	tg := memscan.Start(t, scenario, memscan.Quiet(typeVar+"="+strconv.Itoa(int(id))))
	tg.At("done")
	h := map[ID]func() hash.Hash{AES128SHA1: sha1.New, AES256SHA1: sha1.New,
		AES128SHA256: sha256.New, AES256SHA384: sha512.New384}[id]
	set := new(memscan.Set)
	for _, name := range append([]string{"base"}, kindNames...) {
		k := tg.Secret(name)
		set.Bytes(name, k)
		set.HMAC(name, h, k)
		set.AES(name, k)
	}
	require.NoError(t, set.Err())
	hits := tg.Left(set)
	tg.Resume()
	tg.Wait()
	return hits
}

// TestNothingLeft: no call leaves 16 bytes of a key, or of what AES and HMAC
// make of one.
func TestNothingLeft(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, _ []byte) {
		for _, scenario := range []string{"one-shot calls", "cipher"} {
			require.Empty(t, left(t, scenario, id), scenario)
		}
	})
}

// TestLeaksAreFound is the control: the expanded key of a Cipher that nobody
// wiped, the pad and the state of a MAC that nobody ended.
func TestLeaksAreFound(t *testing.T) {
	eachID(t, func(t *testing.T, id ID, _ []byte) {
		for _, scenario := range []string{"AES not wiped", "MAC not ended"} {
			require.NotEmpty(t, left(t, scenario, id), scenario)
		}
	})
}
