// Package suite is the AEADs that seal tokens. They are a closed set, in one table. All
// code that depends on a token's suite reads the table.
//
// A suite's number is the version byte of its tokens and stands in the files of its
// epochs, so it never changes its meaning. doc/CHANGING.md says how to add a suite.
package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"

	"github.com/sealctx/sealctx/internal/wipe"
)

// A Suite is an AEAD with a key of 32 bytes, a nonce of 12 and a tag of 16. Zero is no
// suite.
type Suite uint8

// The suites.
const (
	AES256GCM        Suite = 1 // runs under GODEBUG=fips140=only
	ChaCha20Poly1305 Suite = 2 // for processors on which Go's AES is not constant-time
)

// An entry describes a suite.
type entry struct {
	name  string
	short string // for a command line

	// drawsNonce: the AEAD draws its nonce and puts it in front of the ciphertext, as
	// FIPS 140 asks. Otherwise the caller draws the nonce.
	drawsNonce bool

	new func(key []byte) (AEAD, error)

	// suits reports whether the suite is the one for this processor: it is fast
	// and runs in constant time. The first in the table that suits is preferred.
	suits func() bool
}

var table = [...]entry{
	AES256GCM: {
		name: "AES-256-GCM", short: "aes",
		drawsNonce: true,
		new:        newGCM,
		suits: func() bool {
			return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || cpu.S390X.HasAESGCM
		},
	},
	ChaCha20Poly1305: {
		name: "ChaCha20-Poly1305", short: "chacha",
		new:   newChaCha,
		suits: func() bool { return true },
	},
}

// Known reports whether this version has the suite.
func (s Suite) Known() bool { return s > 0 && int(s) < len(table) }

// String returns the suite's name.
func (s Suite) String() string {
	if !s.Known() {
		return fmt.Sprintf("suite %d", uint8(s))
	}
	return table[s].name
}

// DrawsNonce reports whether the suite's AEAD draws its nonces itself, as
// cipher.NewGCMWithRandomNonce does.
func (s Suite) DrawsNonce() bool { return s.Known() && table[s].drawsNonce }

// New returns the suite's AEAD for a key of 32 bytes. It is to be called inside
// memsafe.Do; the caller wipes the AEAD. It returns an error for an unknown suite
// and in a mode that forbids this one.
func (s Suite) New(key []byte) (AEAD, error) {
	if !s.Known() {
		return AEAD{}, fmt.Errorf("suite: no %v", s)
	}
	return table[s].new(key)
}

// All returns every suite, the one that suits this processor first.
func All() []Suite {
	var all []Suite
	for s := range table {
		if Suite(s).Known() {
			all = append(all, Suite(s))
		}
	}
	for i, s := range all {
		if table[s].suits() {
			return append(append([]Suite{s}, all[:i]...), all[i+1:]...)
		}
	}
	return all
}

// Default returns the suite for this processor.
func Default() Suite { return All()[0] }

// ByName returns the suite with a name, as String returns it.
func ByName(name string) (Suite, bool) {
	return find(func(e *entry) bool { return e.name == name })
}

// ByShort returns the suite with a name as the command line has it.
func ByShort(name string) (Suite, bool) {
	return find(func(e *entry) bool { return e.short == name })
}

// Shorts returns the names for a command line, in the order of the table.
func Shorts() []string {
	var all []string
	for _, e := range table {
		if e.short != "" {
			all = append(all, e.short)
		}
	}
	return all
}

func find(is func(*entry) bool) (Suite, bool) {
	for i := range table {
		if s := Suite(i); s.Known() && is(&table[i]) {
			return s, true
		}
	}
	return 0, false
}

// An AEAD has a key in it.
type AEAD struct {
	cipher.AEAD
	block cipher.Block // that it was made of, or nil
}

// Wipe zeroes the keys in the AEAD, which must not be used again.
func (a AEAD) Wipe() {
	wipe.Object(a.AEAD)
	wipe.Object(a.block)
}

func newGCM(key []byte) (AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return AEAD{}, fmt.Errorf("suite: %v: %w", AES256GCM, err)
	}
	a, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		wipe.Object(block)
		return AEAD{}, fmt.Errorf("suite: %v: %w", AES256GCM, err)
	}
	return AEAD{a, block}, nil
}

func newChaCha(key []byte) (AEAD, error) {
	a, err := chacha20poly1305.New(key)
	if err != nil {
		return AEAD{}, fmt.Errorf("suite: %v: %w", ChaCha20Poly1305, err)
	}
	return AEAD{AEAD: a}, nil
}
