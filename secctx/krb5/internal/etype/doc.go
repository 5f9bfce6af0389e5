// Package etype implements the four AES encryption types of Kerberos 5 over
// AES and SHA of the standard library:
//
//	17  aes128-cts-hmac-sha1-96      RFC 3962
//	18  aes256-cts-hmac-sha1-96      RFC 3962
//	19  aes128-cts-hmac-sha256-128   RFC 8009
//	20  aes256-cts-hmac-sha384-192   RFC 8009
//
// [Encrypt] and [Decrypt] take a protocol key and a key usage and do everything. The
// exchange that establishes a context uses them. [Derive] makes keys and a [Cipher]
// keeps an expanded AES key and a digest, both for many messages. The per-message
// layer uses them.
//
// # Keys
//
// No function keeps a key that it was given. Derived keys, AES schedules and HMAC
// pads are wiped before the function that made them returns, or by [Cipher.Wipe].
//
// Schedules lie in objects of the standard library, which has no call to wipe them.
// They are zeroed in place if their type consists of numbers alone, as in the Go
// releases that the tests run on. With GOEXPERIMENT=boringcrypto it does not: then
// schedules are left to the collector.
//
// # FIPS 140
//
// Under GODEBUG=fips140=only types 17 and 18 return ErrUnsupported, because they need
// SHA-1. Types 19 and 20 work.
package etype
