//go:build linux

package etype

import (
	"bytes"
	"crypto/fips140"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
)

// TestFIPSOnly: under GODEBUG=fips140=only, where SHA-1 panics, types 17 and 18
// are errors and 19 and 20 work.
func TestFIPSOnly(t *testing.T) {
	require.False(t, fips140.Enforced(), "the other tests need all four types")
	tg := memscan.Start(t, "FIPS only", &memscan.Options{Env: []string{"GODEBUG=fips140=only"}})
	tg.Wait()
}

// fipsVictim runs in a process of its own, since the mode is the process's.
func fipsVictim(v *memscan.Victim) {
	if !fips140.Enforced() {
		v.Fatal(errors.New("GODEBUG=fips140=only has no effect"))
	}
	for _, id := range allIDs {
		sha1 := id == AES128SHA1 || id == AES256SHA1
		key := make([]byte, id.KeySize())
		err := RandomKey(key, id)
		if id.Valid() == sha1 || errors.Is(err, ErrUnsupported) != sha1 {
			v.Fatal(fmt.Errorf("%v: valid %v, %w", id, id.Valid(), err))
		}
		if sha1 {
			fipsRefused(v, id, key)
			continue
		}
		sealed, err := Encrypt(nil, id, key, 2, []byte("message"))
		v.Check(err)
		plain, err := Decrypt(nil, id, key, 2, sealed)
		v.Check(err)
		if !bytes.Equal(plain, []byte("message")) {
			v.Fatal(os.ErrInvalid)
		}
	}
}

// fipsRefused: no call gets as far as SHA-1, nor does a Cipher that was made
// where the rules were lifted.
func fipsRefused(v *memscan.Victim, id ID, key []byte) {
	_, encErr := Encrypt(nil, id, key, 2, nil)
	_, decErr := Decrypt(nil, id, key, 2, make([]byte, 100))
	var c *Cipher
	fips140.WithoutEnforcement(func() {
		var err error
		c, err = NewCipher(id, key, Sealing)
		v.Check(err)
	})
	for _, err := range []error{encErr, decErr,
		Derive(key, id, key, 2, Ke),
		c.Seal(key, make([]byte, 100), nil),
		c.Sum(make([]byte, id.MACSize()), key),
	} {
		if !errors.Is(err, ErrUnsupported) {
			v.Fatal(fmt.Errorf("%v: %w", id, err))
		}
	}
}
