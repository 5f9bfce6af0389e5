// Package mitctx reads the interprocess tokens of MIT's Kerberos library, releases 1.15
// and later: contexts of RFC 4121 with an AES key. It writes none.
//
// MIT's library writes a token for itself alone, in no documented format. The layout
// below is what the library's releases agree on; one section differs between them.
//
//	frame     u32 9 | the mechanism's object identifier
//	          SPNEGO's frame, u32 6 | 1.3.6.1.5.5.2, may stand before it
//	context   CONTEXT | initiator | established | acceptor subkey | seed set | flags
//	          | seed(16) | signature algorithm | checksum size | sealing algorithm
//	          | authentication, start, end, renewal time | ticket flags
//	          | u64 next to send | u64 next to receive
//	          | OID | own name | peer's name | keys: subkey, two more | window
//	          | krb5_context | auth_context | protocol | checksum type
//	          | acceptor's subkey, if there is one | checksum type | replay cache
//	          | authorization data | authorization context, if there is one | CONTEXT
//
// An integer is a u32 in network order unless said otherwise. Each structure begins
// and ends with its magic number. The window is a copy of the library's memory, in the
// byte order of the host.
package mitctx

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/cryptobyte"
)

// ErrFormat is returned for bytes that are no such token, or are one that this package
// does not take. What wraps it says which field.
var ErrFormat = errors.New("mitctx: not a context of MIT's library that can be imported")

// MaxToken is the longest token that is looked at, in bytes.
const MaxToken = 48 << 10

// A Context is what a token says of a context. Key aliases the token.
type Context struct {
	Initiator      bool
	AcceptorSubkey bool   // Key was asserted by the acceptor
	Flags          uint32 // GSS-API's
	EndTime        uint32 // seconds since 1970
	Own, Peer      []byte // names, as gss_export_name writes their text
	Enctype        uint8  // 17 to 20
	Key            []byte
	SendSeq        uint64
	RecvSeq        uint64 // the number expected next
	Seen           uint64 // bit i: RecvSeq-1-i has been seen
	Replay         bool
	Sequence       bool
}

// Magic numbers of the library's error tables.
const (
	kv5m       = 0x970ea700
	principal  = kv5m + 1
	keyblock   = kv5m + 3
	checksum   = kv5m + 4
	authdata   = kv5m + 10
	authent    = kv5m + 14
	address    = kv5m + 34
	k5context  = kv5m + 36
	osContext  = kv5m + 37
	actx       = kv5m + 41
	gssOID     = kv5m + 55
	gssQueue   = kv5m + 56
	adContext  = kv5m + 60
	gssContext = 0x025ea100 + 8
	profile    = 0xaaca6000 + 18
)

// Tags of the optional parts of an auth_context, in their order.
const (
	tagFirst = 950916 // the peer's address
	tagKey   = 950920 // the first of three keys
	tagLast  = 950922
)

var (
	oidKrb5   = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}
	oidSPNEGO = []byte{0x2b, 0x06, 0x01, 0x05, 0x05, 0x02}
)

// layouts are the forms of the section krb5_context: how many lists of encryption types
// it has, and how many integers behind them.
var layouts = []struct{ lists, ints int }{
	{1, 5}, // 1.19 to now
	{2, 5}, // 1.18
	{2, 8}, // 1.15 to 1.17
}

// A reader reads fields until one is missing, and remembers which.
type reader struct {
	cryptobyte.String
	failed string
}

// fail notes the first field that is not as it should be.
func (r *reader) fail(what string) {
	if r.failed == "" {
		r.failed = what
		r.String = nil
	}
}

func (r *reader) u32(what string) (v uint32) {
	if !r.ReadUint32(&v) {
		r.fail(what)
	}
	return v
}

func (r *reader) u64(what string) (v uint64) {
	if !r.ReadUint64(&v) {
		r.fail(what)
	}
	return v
}

func (r *reader) bytes(n uint32, what string) (b []byte) {
	if uint64(n) > uint64(len(r.String)) || !r.ReadBytes(&b, int(n)) {
		r.fail(what)
	}
	return b
}

func (r *reader) magic(m uint32, what string) {
	if r.u32(what) != m {
		r.fail(what)
	}
}

// flag reads 0 or 1.
func (r *reader) flag(what string) bool {
	v := r.u32(what)
	if v > 1 {
		r.fail(what)
	}
	return v == 1
}

// is reports whether a structure of this magic comes next.
func (r *reader) is(m uint32) bool {
	return len(r.String) >= 4 && binary.BigEndian.Uint32(r.String) == m
}

// Is reports whether b begins as a token of MIT's library does.
func Is(b []byte) bool {
	r := reader{String: b}
	r.frame()
	return r.failed == "" && r.is(gssContext)
}

// frame reads the mechanism's frame, and SPNEGO's before it.
func (r *reader) frame() {
	oid := r.bytes(r.u32("frame"), "frame")
	if bytes.Equal(oid, oidSPNEGO) {
		oid = r.bytes(r.u32("frame"), "frame")
	}
	if !bytes.Equal(oid, oidKrb5) {
		r.fail("mechanism")
	}
}

// Parse reads a token to its last byte. The caller wipes b, and with it Key.
func Parse(b []byte) (*Context, error) {
	if len(b) > MaxToken {
		return nil, faultOf("size")
	}
	failed := ""
	for _, layout := range layouts {
		r := reader{String: b}
		c := r.context(layout.lists, layout.ints)
		if r.failed == "" {
			return c, nil
		}
		if failed == "" {
			failed = r.failed
		}
	}
	return nil, faultOf(failed)
}

func faultOf(field string) error { return &fieldError{field} }

// fieldError is ErrFormat and the field.
type fieldError struct{ field string }

func (e *fieldError) Error() string { return ErrFormat.Error() + ": " + e.field }
func (e *fieldError) Unwrap() error { return ErrFormat }

// context reads a whole token. Every check that is missing here would be a key or a
// number of one context in another: what is inconsistent is refused.
func (r *reader) context(lists, ints int) *Context {
	c := new(Context)
	r.frame()
	r.magic(gssContext, "context")
	c.Initiator = r.flag("initiator")
	if !r.flag("established") {
		r.fail("established")
	}
	c.AcceptorSubkey = r.flag("acceptor subkey")
	r.flag("seed")
	c.Flags = r.u32("flags")
	r.bytes(16+3*4, "algorithms")
	r.bytes(2*4, "times")
	c.EndTime = r.u32("end time")
	r.bytes(2*4, "ticket flags")
	c.SendSeq = r.u64("send number")
	first := r.u64("receive number")
	r.oid()
	c.Own, c.Peer = r.name(), r.name()
	c.Enctype, c.Key = r.aesKey()
	for range 2 { // copies for sealing and sequence numbers
		if !r.is(keyblock) {
			continue
		}
		if enctype, key := r.aesKey(); enctype != c.Enctype || subtle.ConstantTimeCompare(key, c.Key) != 1 {
			r.fail("copy of the key")
		}
	}
	r.window(c, first)
	r.krb5Context(lists, ints)
	r.authContext()
	if r.u32("protocol") != 1 {
		r.fail("protocol") // RFC 1964's, of older encryption types
	}
	r.u32("checksum type")
	if r.is(keyblock) {
		if !c.AcceptorSubkey {
			r.fail("acceptor subkey")
		}
		c.Enctype, c.Key = r.aesKey()
	} else if c.AcceptorSubkey {
		r.fail("acceptor subkey")
	}
	r.bytes(2*4, "replay cache")
	r.authData(r.u32("authorization data"))
	r.authDataContext()
	r.magic(gssContext, "trailer")
	if !r.Empty() {
		r.fail("trailing bytes")
	}
	return c
}

func (r *reader) oid() {
	r.magic(gssOID, "mechanism")
	if !bytes.Equal(r.bytes(r.u32("mechanism"), "mechanism"), oidKrb5) {
		r.fail("mechanism")
	}
	r.magic(gssOID, "mechanism")
}

func (r *reader) name() []byte {
	r.magic(principal, "name")
	text := r.bytes(r.u32("name"), "name")
	r.magic(principal, "name")
	if len(text) == 0 {
		r.fail("name")
	}
	return text
}

func (r *reader) key() (enctype int32, key []byte) {
	r.magic(keyblock, "key")
	enctype = int32(r.u32("key"))
	key = r.bytes(r.u32("key"), "key")
	r.magic(keyblock, "key")
	return enctype, key
}

// keySizes are the sizes in bytes of the keys of RFC 3962 and RFC 8009.
var keySizes = map[int32]int{17: 16, 18: 32, 19: 16, 20: 32}

// aesKey reads a key of the context.
func (r *reader) aesKey() (enctype uint8, key []byte) {
	id, key := r.key()
	if keySizes[id] == 0 || keySizes[id] != len(key) {
		r.fail("encryption type")
	}
	return uint8(id), key
}

// window reads {int, int, 4 times u64} of the library's memory: the services, a mask, the
// first number, how many have come, and a bit for each of the last 64 of these.
func (r *reader) window(c *Context, first uint64) {
	const size = 2*4 + 4*8
	r.magic(gssQueue, "window")
	w := r.bytes(size, "window")
	r.magic(gssQueue, "window")
	if r.failed != "" {
		return
	}
	order := binary.NativeEndian
	replay, sequence := order.Uint32(w), order.Uint32(w[4:])
	mask, base, next, seen := order.Uint64(w[8:]), order.Uint64(w[16:]), order.Uint64(w[24:]), order.Uint64(w[32:])
	impossible := next < 64 && seen>>next != 0 || next > 0 && seen&1 == 0
	if replay > 1 || sequence > 1 || mask != 1<<64-1 || base != first || impossible {
		r.fail("window")
	}
	c.Replay, c.Sequence = replay == 1, sequence == 1
	c.RecvSeq, c.Seen = base+next, seen
}

// krb5Context steps over the library's settings. They name files, which are not read.
func (r *reader) krb5Context(lists, ints int) {
	r.magic(k5context, "krb5_context")
	r.bytes(r.u32("default realm"), "default realm")
	for range lists {
		n := r.u32("encryption types")
		if n > 64 {
			r.fail("encryption types")
		}
		r.bytes(4*min(n, 64), "encryption types")
	}
	r.bytes(uint32(4*ints), "krb5_context")
	if r.is(osContext) {
		r.bytes(4*4, "os_context")
		r.magic(osContext, "os_context")
	}
	if r.is(profile) {
		r.profile()
	}
	r.magic(k5context, "krb5_context")
}

func (r *reader) profile() {
	r.magic(profile, "profile")
	n := r.u32("profile")
	if n > 64 {
		r.fail("profile")
	}
	for range min(n, 64) {
		r.bytes(r.u32("profile"), "profile")
	}
	r.magic(profile, "profile")
}

// authContext steps over the state of the exchange. It holds copies of the keys.
func (r *reader) authContext() {
	r.magic(actx, "auth_context")
	r.bytes(5*4, "auth_context")
	r.bytes(r.u32("cipher state"), "cipher state")
	for tag := uint32(tagFirst); tag <= tagLast; tag++ {
		if !r.is(tag) {
			continue
		}
		r.u32("auth_context")
		if tag >= tagKey {
			r.key()
		} else {
			r.typed(address)
		}
	}
	if r.is(authent) {
		r.authenticator()
	}
	r.magic(actx, "auth_context")
}

func (r *reader) authenticator() {
	r.bytes(4*4, "authenticator")
	if r.is(principal) {
		r.name()
	}
	if r.is(checksum) {
		r.typed(checksum)
	}
	if r.is(keyblock) {
		r.key()
	}
	r.authData(r.u32("authenticator"))
	r.magic(authent, "authenticator")
}

// typed steps over a structure of a type and an octet string.
func (r *reader) typed(m uint32) {
	r.magic(m, "structure")
	r.u32("structure")
	r.bytes(r.u32("structure"), "structure")
	r.magic(m, "structure")
}

func (r *reader) authData(n uint32) {
	if n > 1024 {
		r.fail("authorization data")
	}
	for range min(n, 1024) {
		if r.failed != "" {
			return
		}
		r.typed(authdata)
	}
}

// authDataContext steps over what the library's plug-ins wrote: all but the last
// trailers, since only they know its format.
func (r *reader) authDataContext() {
	if !r.is(adContext) {
		return
	}
	r.u32("authorization context")
	const trailers = 2 * 4 // its own and the context's
	if len(r.String) < trailers {
		r.fail("authorization context")
		return
	}
	r.bytes(uint32(len(r.String)-trailers), "authorization context")
	r.magic(adContext, "authorization context")
}
