// Package etype implements the four AES encryption types of Kerberos 5 over
// AES and SHA of the standard library:
//
//	17  aes128-cts-hmac-sha1-96      RFC 3962
//	18  aes256-cts-hmac-sha1-96      RFC 3962
//	19  aes128-cts-hmac-sha256-128   RFC 8009
//	20  aes256-cts-hmac-sha384-192   RFC 8009
//
// [Encrypt] and [Decrypt] take a protocol key and a key usage and do everything;
// the exchange that sets a context up uses them. A [Cipher] keeps what is dear to
// make, the expanded AES key and the digest, for many messages under keys that
// [Derive] made once; the per-message layer uses it.
//
// # Keys
//
// No function keeps a key that it was given. Everything that is made from one,
// derived keys, AES schedules, HMAC pads, is wiped before the function that
// made it returns, or by [Cipher.Wipe]. The schedules lie in objects of the
// standard library, which has no call to wipe them: they are zeroed in place
// where their type is a plain run of numbers, as it is in the Go releases that
// the tests run on. In a build where it is not (GOEXPERIMENT=boringcrypto) they
// are left to the collector.
//
// # FIPS 140
//
// Under GODEBUG=fips140=only the types 17 and 18 answer ErrUnsupported, since
// they cannot do without SHA-1; 19 and 20 work.
package etype
