package etype

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"unsafe"

	"github.com/sealctx/sealctx/memsafe"
)

// maxIterations bounds the work that parameters from outside can ask for, in
// rounds of PBKDF2: about ten seconds.
const maxIterations = 10_000_000

// StringToKey fills dst, of id.KeySize() bytes, with the key of a password and
// a salt (RFC 3962 section 4, RFC 8009 section 4). iterations 0 means the
// type's default, 4,096 or 32,768. Errors: ErrUnsupported, ErrKeySize,
// ErrParams for iterations out of range. Safe for concurrent use.
//
// It is for keytabs of tests and demonstrations: PBKDF2 of the standard library
// leaves HMAC states of the password in memory, which only a binary built with
// GOEXPERIMENT=runtimesecret erases.
func StringToKey(dst []byte, id ID, password, salt []byte, iterations int) error {
	s, err := id.usable()
	switch {
	case err != nil:
		return err
	case len(dst) != s.keySize:
		return ErrKeySize
	case iterations < 0 || iterations > maxIterations:
		return ErrParams
	case iterations == 0:
		iterations = s.iterCount
	}
	if s.etm { // saltp of RFC 8009 section 4
		salt = append(append([]byte(s.name), 0), salt...)
	}
	memsafe.Do(func() { err = s.stringToKey(dst, password, salt, iterations) })
	return err
}

func (s *suite) stringToKey(dst, password, salt []byte, iterations int) error {
	// A view and not a copy: the password's bytes stay the caller's to wipe.
	view := unsafe.String(unsafe.SliceData(password), len(password))
	base, err := pbkdf2.Key(s.newHash, view, salt, iterations, s.keySize)
	if err != nil {
		return ErrUnsupported // of the FIPS 140 rules; nothing else is left
	}
	defer memsafe.Wipe(base)
	return s.derive(dst, base, []byte("kerberos"))
}

// RandomKey fills dst, of id.KeySize() bytes, with a fresh protocol key.
// Errors: ErrUnsupported, ErrKeySize.
func RandomKey(dst []byte, id ID) error {
	s, err := id.usable()
	if err != nil {
		return err
	}
	if len(dst) != s.keySize {
		return ErrKeySize
	}
	rand.Read(dst) // never fails
	return nil
}
