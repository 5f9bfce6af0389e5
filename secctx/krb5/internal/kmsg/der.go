package kmsg

import (
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// generalString is the universal tag that KerberosString has (RFC 4120 5.2.1).
const generalString = asn1.Tag(27)

func application(n uint8) asn1.Tag { return asn1.Tag(n | 0x40).Constructed() }
func field(n uint8) asn1.Tag       { return asn1.Tag(n).ContextSpecific().Constructed() }

// open reads the outer [APPLICATION n] SEQUENCE, which must be all of b.
func open(b []byte, n uint8) (seq cryptobyte.String, ok bool) {
	s := cryptobyte.String(b)
	var inner cryptobyte.String
	ok = s.ReadASN1(&inner, application(n)) && s.Empty() &&
		inner.ReadASN1(&seq, asn1.SEQUENCE) && inner.Empty()
	return seq, ok
}

// sequence reads the field [n] that holds a SEQUENCE.
func sequence(s *cryptobyte.String, n uint8, seq *cryptobyte.String) bool {
	var f cryptobyte.String
	return s.ReadASN1(&f, field(n)) && f.ReadASN1(seq, asn1.SEQUENCE) && f.Empty()
}

// readInt reads the field [n] that holds an INTEGER between lo and hi.
func readInt(s *cryptobyte.String, n uint8, lo, hi int64, v *int64) bool {
	var f cryptobyte.String
	return s.ReadASN1(&f, field(n)) && f.ReadASN1Integer(v) && f.Empty() && *v >= lo && *v <= hi
}

func readInt32(s *cryptobyte.String, n uint8, v *int32) bool {
	var i int64
	ok := readInt(s, n, math.MinInt32, math.MaxInt32, &i)
	*v = int32(i)
	return ok
}

// readUint32 reads a UInt32. Old implementations write it as a signed number, so
// negative numbers are read as the unsigned ones that they stand for.
func readUint32(s *cryptobyte.String, n uint8, v *uint32) bool {
	var i int64
	ok := readInt(s, n, math.MinInt32, math.MaxUint32, &i)
	*v = uint32(i)
	return ok
}

func readMicros(s *cryptobyte.String, n uint8, v *int) bool {
	var i int64
	ok := readInt(s, n, 0, 999_999, &i)
	*v = int(i)
	return ok
}

func readOctets(s *cryptobyte.String, n uint8, v *[]byte) bool {
	var f, o cryptobyte.String
	ok := s.ReadASN1(&f, field(n)) && f.ReadASN1(&o, asn1.OCTET_STRING) && f.Empty()
	*v = o
	return ok
}

// timeLayout is KerberosTime: GeneralizedTime in UTC without a fraction.
const timeLayout = "20060102150405Z"

func readTime(s *cryptobyte.String, n uint8, t *time.Time) bool {
	var f, g cryptobyte.String
	if !s.ReadASN1(&f, field(n)) || !f.ReadASN1(&g, asn1.GeneralizedTime) || !f.Empty() || len(g) != len(timeLayout) {
		return false
	}
	for _, c := range g[:len(g)-1] { // Parse would take a comma and more
		if c < '0' || c > '9' {
			return false
		}
	}
	v, err := time.Parse(timeLayout, string(g))
	*t = v
	return err == nil
}

// readFlags reads the first 32 bits of KerberosFlags. Missing bits are zero.
func readFlags(s *cryptobyte.String, n uint8, v *uint32) bool {
	var f, bits cryptobyte.String
	var unused uint8
	if !s.ReadASN1(&f, field(n)) || !f.ReadASN1(&bits, asn1.BIT_STRING) || !f.Empty() ||
		!bits.ReadUint8(&unused) || unused > 7 || unused > 0 && bits.Empty() {
		return false
	}
	*v = 0
	for i := range 4 {
		if i < len(bits) {
			*v |= uint32(bits[i]) << (24 - 8*i)
		}
	}
	return true
}

// skip passes over the optional field [n]. It reads no more of it than its length.
func skip(s *cryptobyte.String, n uint8) bool {
	return s.SkipOptionalASN1(field(n))
}

// has reports whether the next field is [n].
func has(s *cryptobyte.String, n uint8) bool { return s.PeekASN1Tag(field(n)) }

func addInt(b *cryptobyte.Builder, n uint8, v int64) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) { b.AddASN1Int64(v) })
}

func addOctets(b *cryptobyte.Builder, n uint8, v []byte) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) })
}

func addTime(b *cryptobyte.Builder, n uint8, t time.Time) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.GeneralizedTime, func(b *cryptobyte.Builder) { b.AddBytes([]byte(t.UTC().Format(timeLayout))) })
	})
}

func addFlags(b *cryptobyte.Builder, n uint8, v uint32) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.BIT_STRING, func(b *cryptobyte.Builder) { b.AddUint8(0); b.AddUint32(v) })
	})
}

func addString(b *cryptobyte.Builder, s string) {
	b.AddASN1(generalString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}

// message writes [APPLICATION n] SEQUENCE { ... }.
func message(b *cryptobyte.Builder, n uint8, f func(*cryptobyte.Builder)) {
	b.AddASN1(application(n), func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, f) })
}
