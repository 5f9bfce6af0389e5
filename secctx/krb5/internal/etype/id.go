package etype

import (
	"crypto/aes"
	"crypto/fips140"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"strconv"
)

// Errors of this package. None says anything about the bytes it is about.
var (
	// ErrUnsupported is an encryption type other than the four, or one that
	// this process may not use (FIPS 140). GSS_S_FAILURE.
	ErrUnsupported = errors.New("etype: encryption type not supported")
	// ErrKeySize is a key whose length is not that of its type. GSS_S_FAILURE.
	ErrKeySize = errors.New("etype: wrong key size")
	// ErrIntegrity is a ciphertext or checksum that is not genuine under the
	// key: altered, cut short, made for another usage. GSS_S_BAD_MIC.
	ErrIntegrity = errors.New("etype: integrity check failed")
)

// An ID is the number of an encryption type in the Kerberos registry.
type ID int32

// The encryption types of RFC 3962 and RFC 8009.
const (
	AES128SHA1   ID = 17
	AES256SHA1   ID = 18
	AES128SHA256 ID = 19
	AES256SHA384 ID = 20
)

// BlockSize is the size of an AES block in bytes, and of a confounder.
const BlockSize = aes.BlockSize

// Largest sizes in bytes over all four types, for buffers of fixed size.
const (
	MaxKeySize = 32
	maxPadSize = sha512.BlockSize
)

// suite is what sets the four types apart.
type suite struct {
	name    string
	keySize int  // of protocol keys and of Ke
	macKey  int  // of Ki and Kc
	macSize int  // of the truncated HMAC
	etm     bool // RFC 8009: derivation by HMAC, MAC over the ciphertext
	newHash func() hash.Hash
}

func (id ID) suite() *suite {
	switch id {
	case AES128SHA1:
		return &aes128SHA1
	case AES256SHA1:
		return &aes256SHA1
	case AES128SHA256:
		return &aes128SHA256
	case AES256SHA384:
		return &aes256SHA384
	}
	return nil
}

// Read, never written.
var (
	aes128SHA1   = suite{name: "aes128-cts-hmac-sha1-96", keySize: 16, macKey: 16, macSize: 12, newHash: sha1.New}
	aes256SHA1   = suite{name: "aes256-cts-hmac-sha1-96", keySize: 32, macKey: 32, macSize: 12, newHash: sha1.New}
	aes128SHA256 = suite{name: "aes128-cts-hmac-sha256-128", keySize: 16, macKey: 16, macSize: 16, etm: true, newHash: sha256.New}
	aes256SHA384 = suite{name: "aes256-cts-hmac-sha384-192", keySize: 32, macKey: 24, macSize: 24, etm: true, newHash: sha512.New384}
)

// errSHA1 is ErrUnsupported with the reason.
var errSHA1 = fmt.Errorf("%w in this process: types 17 and 18 need SHA-1, which GODEBUG=fips140=only forbids; use 19 or 20", ErrUnsupported)

// usable returns the suite of id, or an error that is ErrUnsupported and says why.
func (id ID) usable() (*suite, error) {
	switch s := id.suite(); {
	case s == nil:
		return nil, ErrUnsupported
	case !s.etm && fips140.Enforced():
		return nil, errSHA1
	default:
		return s, nil
	}
}

// Check returns nil if id is one of the four types and may be used in this
// process, else an error that is ErrUnsupported and says why. It allocates nothing.
func (id ID) Check() error {
	_, err := id.usable()
	return err
}

// Valid reports whether Check returns nil.
func (id ID) Valid() bool { return id.Check() == nil }

// KeySize returns the size in bytes of a protocol key and of a derived
// encryption key Ke, or 0 for another type.
func (id ID) KeySize() int {
	if s := id.suite(); s != nil {
		return s.keySize
	}
	return 0
}

// MACKeySize returns the size in bytes of the derived keys Ki and Kc, or 0 for
// another type.
func (id ID) MACKeySize() int {
	if s := id.suite(); s != nil {
		return s.macKey
	}
	return 0
}

// MACSize returns the size in bytes of a checksum, which is also what follows
// a ciphertext, or 0 for another type.
func (id ID) MACSize() int {
	if s := id.suite(); s != nil {
		return s.macSize
	}
	return 0
}

// Overhead returns by how many bytes a ciphertext is longer than its
// plaintext, or 0 for another type.
func (id ID) Overhead() int {
	if s := id.suite(); s != nil {
		return BlockSize + s.macSize
	}
	return 0
}

// String returns the registered name, or the number of another type.
func (id ID) String() string {
	if s := id.suite(); s != nil {
		return s.name
	}
	return "etype " + strconv.Itoa(int(id))
}
