package vectors

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Offsets in a token of the base's shape.
const (
	offSalt       = 4 + 1 + 16 + 4 + 8
	headerSize    = offSalt + 32 + 8 + 8
	boundSize     = headerSize + 1 + 9 + 1 + len(baseFormat) + 4 + 1 + 1 + 4
	offCommitment = boundSize
	offLength     = offCommitment + 32
	offNonce      = offLength + 4
	offBody       = offNonce + 12
)

// specs are the cases, each of which is made for both suites.
func specs() []spec {
	return slices.Concat(successes(), malformed(), unauthenticated(), alteredBodies(), refused(), spent())
}

func successes() []spec {
	return []spec{
		{name: "size-0", expect: Success, plain: -1},
		{name: "size-1", expect: Success, plain: 1},
		{name: "size-511", expect: Success, plain: 511, comment: "the longest in the smallest body"},
		{name: "size-2863", expect: Success, plain: 2863, comment: "the longest in a body of 2864"},
		{name: "size-2864", expect: Success, plain: 2864, comment: "the shortest in a body of 3072"},
		{name: "size-512", expect: Success, plain: 512},
		{name: "size-768", expect: Success, plain: 768},
		{name: "size-1165", expect: Success, plain: 1165, comment: "a Kerberos context as MIT exports it"},
		{name: "size-6143", expect: Success, plain: 6143},
		{name: "no-mechanism", expect: Success, parts: func(p *Parts) { p.Mechanism = nil }},
		{name: "process", expect: Success, parts: func(p *Parts) { p.Kind, p.Audience = KindProcess, process(4711, 123456) }},
		{name: "last-instant", expect: Success, comment: "one nanosecond before it expires",
			parts: func(p *Parts) { p.Expires = 2 * baseIssued }, opener: at(2*baseIssued - 1)},
		{name: "last-slot", expect: Success, parts: func(p *Parts) { p.Slot = baseSlots - 1 },
			opener: func(v *Vector) { v.Slot = baseSlots - 1 }},
		{name: "last-generation", expect: Success, parts: func(p *Parts) { p.Word = 1<<64 - 2 },
			opener: func(v *Vector) { v.Word = 1<<64 - 2 }},
		{name: "take-back", expect: Success, comment: "the exporter takes back what is for somebody else",
			parts: func(p *Parts) { p.Kind, p.Audience = KindGroup, []byte{0, 0, 0, 7} }, opener: takeBack},
		{name: "longest", expect: Success, plain: 49151, comment: "every field at its limit",
			parts: func(p *Parts) {
				p.Mechanism, p.Format = stream(64, "mechanism"), bytes.Repeat([]byte("~"), 64)
				p.Kind, p.Audience = KindService, bytes.Repeat([]byte("s"), 64)
			},
			opener: func(v *Vector) { takeBack(v); v.Format = string(bytes.Repeat([]byte("~"), 64)) }},
	}
}

func malformed() []spec {
	cut := func(name string, n int) spec {
		return spec{name: name, expect: Malformed, token: func(sealed, _ []byte) []byte { return sealed[:n] }}
	}
	field := func(name, comment string, parts func(*Parts)) spec {
		return spec{name: name, expect: Malformed, comment: comment, parts: parts}
	}
	size := func(name string, n int) spec {
		return field(name, "a body of this size, sealed under the right key", func(p *Parts) { p.Body = PadTo(make([]byte, basePlain), n) })
	}
	return []spec{
		cut("empty", 0), cut("cut-header", headerSize-1), cut("cut-context", boundSize-1),
		cut("cut-commitment", offLength-1), cut("cut-length", offNonce-1), cut("cut-nonce", offBody-1),
		cut("cut-tag", offBody+512+16-1), cut("no-body", offNonce),
		{name: "trailing-byte", expect: Malformed, token: func(sealed, _ []byte) []byte { return append(sealed, 0) }},
		{name: "leading-byte", expect: Malformed, token: func(sealed, _ []byte) []byte { return append([]byte{0}, sealed...) }},
		{name: "two-tokens", expect: Malformed, token: func(sealed, other []byte) []byte { return append(sealed, other...) }},
		{name: "plain-krb5", expect: Malformed, comment: "framed as a mechanism's own interprocess token",
			token: func(_, _ []byte) []byte {
				return append([]byte{0, 0, 0, 9}, append(krb5, stream(600, "plain-krb5")...)...)
			}},
		field("magic", "", func(p *Parts) { p.Magic = "SLCY" }),
		field("version-0", "", func(p *Parts) { p.Version = 0 }),
		field("version-3", "", func(p *Parts) { p.Version = 3 }),
		field("issued-too-late", "past 2^63-1", func(p *Parts) { p.Issued = 1 << 63 }),
		field("expires-too-late", "past 2^63-1", func(p *Parts) { p.Expires = 1 << 63 }),
		field("expires-at-issue", "", func(p *Parts) { p.Expires = p.Issued }),
		field("expires-before-issue", "", func(p *Parts) { p.Expires = p.Issued - 1 }),
		field("mechanism-65", "", func(p *Parts) { p.Mechanism = stream(65, "mechanism") }),
		field("format-empty", "", func(p *Parts) { p.Format = nil }),
		field("format-65", "", func(p *Parts) { p.Format = bytes.Repeat([]byte("f"), 65) }),
		field("format-space", "", func(p *Parts) { p.Format = []byte("mit/2 amd64") }),
		field("format-del", "", func(p *Parts) { p.Format = []byte("mit/2\x7famd64") }),
		field("format-zero", "", func(p *Parts) { p.Format = []byte("mit/2/amd64\x00") }),
		field("format-utf8", "", func(p *Parts) { p.Format = []byte("mit/2/ämd64") }),
		field("audience-65", "", func(p *Parts) { p.Kind, p.Audience = KindService, bytes.Repeat([]byte("s"), 65) }),
		field("length-short", "", func(p *Parts) { p.LengthError = -1 }),
		field("length-long", "", func(p *Parts) { p.LengthError = 1 }),
		field("length-zero", "", func(p *Parts) { p.LengthError = -512 }),
		field("length-huge", "2^32-16: with the tag it is 2^32", func(p *Parts) { p.LengthError = 1<<32 - 16 - 512 }),
		size("size-256-body", 256), size("size-513-body", 513), size("size-640-body", 640),
		size("size-49153-body", 49153), size("size-65536-body", 65536),
	}
}

func unauthenticated() []spec {
	forged := func(name string, forged func(*Parts)) spec {
		return spec{name: "forged-" + name, expect: Header, comment: "changed after sealing", forged: forged}
	}
	return []spec{
		{name: "unknown-epoch", expect: UnknownEpoch, parts: func(p *Parts) { p.Epoch = stream(16, "another epoch") }},
		{name: "unknown-epoch-one-bit", expect: UnknownEpoch, forged: func(p *Parts) { p.Epoch = append(bytes.Clone(p.Epoch[:15]), p.Epoch[15]^1) }},
		{name: "wrong-suite", expect: WrongSuite, comment: "sealed under the right host key for the other suite",
			parts: func(p *Parts) { p.Version, p.Suite = 3-p.Version, 3-p.Suite }},
		{name: "wrong-suite-forged", expect: WrongSuite, forged: func(p *Parts) { p.Version = 3 - p.Version }},
		{name: "wrong-host-key", expect: Header, opener: func(v *Vector) { v.HostKey = stream(32, "another host key") }},
		{name: "keys-swapped", expect: Header, comment: "sealed under K_com, with K_enc shown", parts: func(p *Parts) { p.KeysSwapped = true }},
		forged("slot", func(p *Parts) { p.Slot++ }),
		forged("word", func(p *Parts) { p.Word += 1 << 24 }),
		forged("salt", func(p *Parts) { p.Salt[31] ^= 1 }),
		forged("issued", func(p *Parts) { p.Issued-- }),
		forged("expires", func(p *Parts) { p.Expires++ }),
		forged("mechanism", func(p *Parts) { p.Mechanism = append(bytes.Clone(krb5[:8]), 3) }),
		forged("format", func(p *Parts) { p.Format = []byte("mit/2/amd65") }),
		forged("exporter", func(p *Parts) { p.Exporter = 0 }),
		forged("kind", func(p *Parts) { p.Kind = KindGroup }),
		forged("audience", func(p *Parts) { p.Audience = []byte{0, 0, 0, 0} }),
		forged("boundary", func(p *Parts) { // a byte moves from one field to the next
			p.Mechanism, p.Format = krb5[:8], append([]byte{'\x22'}, p.Format...)
		}),
		{name: "commitment-first-bit", expect: Header, token: flip(offCommitment, 0x80)},
		{name: "commitment-last-bit", expect: Header, token: flip(offLength-1, 1)},
		{name: "commitment-of-another", expect: Header, token: part(offCommitment, offLength)},
		{name: "header-of-another", expect: Header, token: part(0, headerSize)},
	}
}

func alteredBodies() []spec {
	padding := func(name, comment string, pad func(body []byte)) spec {
		return spec{name: "padding-" + name, expect: Body, comment: comment, parts: func(p *Parts) { pad(p.Body) }}
	}
	return []spec{
		{name: "nonce-bit", expect: Body, token: flip(offNonce, 0x80)},
		{name: "body-first-bit", expect: Body, token: flip(offBody, 0x80)},
		{name: "body-last-bit", expect: Body, token: flip(offBody+511, 1)},
		{name: "tag-bit", expect: Body, token: flip(offBody+512+15, 1)},
		{name: "nonce-of-another", expect: Body, token: part(offNonce, offBody)},
		{name: "sealed-of-another", expect: Body, token: part(offNonce, offBody+512+16)},
		{name: "body-resized", expect: Body, comment: "256 bytes cut out of a body of 768, and the length put right",
			parts: func(p *Parts) { p.Body = PadTo(make([]byte, 600), 768); p.LengthError = -256 },
			token: func(sealed, _ []byte) []byte { return slices.Delete(sealed, offBody+512, offBody+768) }},
		{name: "length-unbound", expect: Body, comment: "the length is not in the additional data", parts: func(p *Parts) { p.LengthUnbound = true }},
		padding("none", "the body is full", func(b []byte) { copy(b, bytes.Repeat([]byte{0xff}, len(b))) }),
		padding("zeros", "no 0x80 anywhere", func(b []byte) { clear(b) }),
		padding("wrong-start", "0x81 instead of 0x80", func(b []byte) { b[basePlain] = 0x81 }),
		padding("not-zero", "something behind the 0x80", func(b []byte) { b[len(b)-1] = 1 }),
		{name: "padding-too-much", expect: Body, comment: "100 bytes in a body of 1024: an allowed size, but not theirs",
			parts: func(p *Parts) { p.Body = PadTo(make([]byte, basePlain), 1024) }},
		{name: "padding-one-too-much", expect: Body, comment: "511 bytes fit into 512",
			parts: func(p *Parts) { p.Body = PadTo(make([]byte, 511), 768) }},
	}
}

func refused() []spec {
	audience := func(name string, kind uint8, value []byte) spec {
		return spec{name: "for-" + name, expect: Unauthorized, parts: func(p *Parts) { p.Kind, p.Audience = kind, value }}
	}
	format := func(name, asked string) spec {
		return spec{name: "format-" + name, expect: WrongFormat, opener: func(v *Vector) { v.Format = asked }}
	}
	late := func(p *Parts) { p.Issued, p.Expires = 0, 1 }
	stranger := func(p *Parts) { p.Audience = binary.BigEndian.AppendUint32(nil, 1001) }
	gone := func(v *Vector) { v.Format, v.Word = "own/1", FreshWord }
	return []spec{
		{name: "expired-now", expect: Expired, parts: func(p *Parts) { p.Expires = 2 * baseIssued }, opener: at(2 * baseIssued)},
		{name: "expired-long-ago", expect: Expired, parts: late},
		{name: "expired-take-back", expect: Expired, parts: late, opener: takeBack},
		audience("another-user", KindUser, []byte{0, 0, 0x03, 0xe9}),
		audience("group", KindGroup, []byte{0, 0, 0x03, 0xe8}),
		audience("service", KindService, []byte("httpd")),
		audience("another-process", KindProcess, process(4712, 123456)),
		audience("reused-process-id", KindProcess, process(4711, 123457)),
		audience("kind-0", 0, nil),
		audience("kind-255", 255, []byte{0, 0, 0x03, 0xe8}),
		audience("user-of-5-bytes", KindUser, []byte{0, 0, 0x03, 0xe8, 0}),
		audience("user-of-0-bytes", KindUser, nil),
		audience("process-of-4-bytes", KindProcess, []byte{0, 0, 0x12, 0x67}),
		{name: "take-back-by-another", expect: Unauthorized, comment: "the audience may open but not take back",
			parts: func(p *Parts) { p.Exporter = 1001 }, opener: takeBack},
		format("other", "heimdal/7/amd64"), format("case", "MIT/2/amd64"), format("prefix", "mit/2"), format("longer", "mit/2/amd64/x"),
		{name: "order-expired-first", expect: Expired, comment: "also for another user, of another format, and spent",
			parts: func(p *Parts) { late(p); stranger(p) }, opener: gone},
		{name: "order-audience-second", expect: Unauthorized, comment: "also of another format, and spent", parts: stranger, opener: gone},
		{name: "order-format-third", expect: WrongFormat, comment: "also spent", opener: gone},
	}
}

func spent() []spec {
	holds := func(name, comment string, w uint64) spec {
		return spec{name: "spent-" + name, expect: Spent, comment: comment, opener: func(v *Vector) { v.Word = w }}
	}
	return []spec{
		holds("claimed", "the slot is free, the generation kept", 7<<24|stateFree),
		holds("taken-over", "the slot is out again for the next token", 8<<24|7200<<2|stateOut),
		holds("other-expiry", "", 7<<24|3601<<2|stateOut),
		holds("swept", "as after a retirement", (1<<40-1)<<24|stateSpent),
		holds("fresh", "", FreshWord),
		holds("zero", "a word that never occurs", 0),
		{name: "spent-no-such-slot", expect: Spent, parts: func(p *Parts) { p.Slot = baseSlots }},
		{name: "spent-free-word", expect: Spent, comment: "the token's own word says FREE, and so does the slot",
			parts: func(p *Parts) { p.Word = 7<<24 | stateFree }, opener: func(v *Vector) { v.Word = 7<<24 | stateFree }},
		{name: "spent-take-back", expect: Spent, opener: func(v *Vector) { takeBack(v); v.Word = 7<<24 | stateFree }},
	}
}

func at(now uint64) func(*Vector) { return func(v *Vector) { v.Now = &now } }

func takeBack(v *Vector) { v.Action = "take-back" }

// flip changes bits of one byte.
func flip(off int, bits byte) func(sealed, other []byte) []byte {
	return func(sealed, _ []byte) []byte {
		sealed[off] ^= bits
		return sealed
	}
}

// part puts another token's bytes into the place of the same.
func part(from, to int) func(sealed, other []byte) []byte {
	return func(sealed, other []byte) []byte {
		copy(sealed[from:to], other[from:to])
		return sealed
	}
}
