// Package keytab reads and writes key tables: the files, in the format that
// MIT and Heimdal share, in which a service keeps its long-term keys.
//
// Entries alias the bytes that they were read from, so that a table read into
// locked memory leaves no key elsewhere. A table is trusted to belong to this
// host but not to be whole: reading never panics and allocates in proportion
// to the input.
//
// # Format
//
//	file   = 05 02 | record*
//	record = size int32 | entry | padding to size     negative: a hole of that size
//	entry  = components u16 | realm | component* | name type u32 | time u32 |
//	         kvno u8 | enctype u16 | key | [kvno u32]
//
// with big-endian integers; names and keys have a length u16 before them. A
// record of size 0 ends the table.
package keytab

import (
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// ErrMalformed means that the table is cut off or no table at all.
// GSS_S_DEFECTIVE_CREDENTIAL.
var ErrMalformed = errors.New("keytab: malformed key table")

// MaxSize is the largest table in bytes that is read: some 15,000 keys.
const MaxSize = 1 << 20

// version is the file's first two bytes. Version 1, in native byte order, has
// been gone for thirty years and is refused.
const version = 0x0502

// An Entry is one key of one principal.
type Entry struct {
	Principal kmsg.Principal
	Time      time.Time
	KVNO      uint32
	Short     bool // KVNO is only its low 8 bits, as old tools wrote it
	Key       kmsg.Key
}

// Matches reports whether e's key version is the one that a ticket names.
func (e *Entry) Matches(kvno uint32) bool {
	return e.KVNO == kvno || e.Short && e.KVNO == kvno&0xff
}

// Parse reads a table. The keys alias b. The error is ErrMalformed.
func Parse(b []byte) ([]Entry, error) {
	s := cryptobyte.String(b)
	var v uint16
	if len(b) > MaxSize || !s.ReadUint16(&v) || v != version {
		return nil, fmt.Errorf("%w: not a table of version 2 of at most %d bytes", ErrMalformed, MaxSize)
	}
	var entries []Entry
	for !s.Empty() {
		var size uint32
		if !s.ReadUint32(&size) {
			return nil, fmt.Errorf("%w: record size", ErrMalformed)
		}
		if size == 0 {
			break
		}
		if n := int32(size); n < 0 {
			if n == math.MinInt32 || !s.Skip(int(-n)) {
				return nil, fmt.Errorf("%w: hole past the end", ErrMalformed)
			}
			continue
		}
		var record []byte
		if !s.ReadBytes(&record, int(size)) {
			return nil, fmt.Errorf("%w: record past the end", ErrMalformed)
		}
		e, err := parseEntry(record)
		if err != nil {
			return nil, fmt.Errorf("%w (record %d)", err, len(entries)+1)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func parseEntry(record []byte) (Entry, error) {
	s := byteString{cryptobyte.String(record)}
	var e Entry
	var parts uint16
	if !s.ReadUint16(&parts) || parts == 0 || parts > kmsg.MaxParts || !s.text(&e.Principal.Realm) {
		return Entry{}, fmt.Errorf("%w: principal", ErrMalformed)
	}
	for range parts {
		var part string
		if !s.text(&part) {
			return Entry{}, fmt.Errorf("%w: principal", ErrMalformed)
		}
		e.Principal.Parts = append(e.Principal.Parts, part)
	}
	var nameType, stamp uint32
	var kvno8 uint8
	var etype uint16
	if !s.ReadUint32(&nameType) || !s.ReadUint32(&stamp) || !s.ReadUint8(&kvno8) ||
		!s.ReadUint16(&etype) || !s.octets(&e.Key.Value) {
		return Entry{}, fmt.Errorf("%w: key", ErrMalformed)
	}
	e.Principal.Type = int32(nameType)
	if err := e.Principal.Check(); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	e.Time = time.Unix(int64(stamp), 0)
	e.Key.EType = int32(int16(etype))
	e.KVNO, e.Short = uint32(kvno8), true
	var kvno uint32
	if s.ReadUint32(&kvno) && kvno != 0 { // the rest of the record is padding
		e.KVNO, e.Short = kvno, false
	}
	return e, nil
}

// byteString reads the format's two kinds of counted bytes.
type byteString struct{ cryptobyte.String }

func (s *byteString) octets(v *[]byte) bool {
	var n uint16
	return s.ReadUint16(&n) && s.ReadBytes(v, int(n))
}

func (s *byteString) text(v *string) bool {
	var b []byte
	if !s.octets(&b) || len(b) > kmsg.MaxName {
		return false
	}
	*v = string(b)
	return true
}

// MarshalTo writes a table into buf, which holds keys afterwards and is the
// caller's to wipe. It is an error if buf is too short.
func MarshalTo(buf []byte, entries []Entry) ([]byte, error) {
	b := cryptobyte.NewFixedBuilder(buf[:0:len(buf)])
	b.AddUint16(version)
	for _, e := range entries {
		b.AddUint32LengthPrefixed(func(b *cryptobyte.Builder) { addEntry(b, e) })
	}
	return b.Bytes()
}

func addEntry(b *cryptobyte.Builder, e Entry) {
	counted := func(v []byte) {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(v) })
	}
	b.AddUint16(uint16(len(e.Principal.Parts)))
	counted([]byte(e.Principal.Realm))
	for _, p := range e.Principal.Parts {
		counted([]byte(p))
	}
	b.AddUint32(uint32(e.Principal.Type))
	b.AddUint32(uint32(e.Time.Unix()))
	b.AddUint8(uint8(e.KVNO))
	b.AddUint16(uint16(e.Key.EType))
	counted(e.Key.Value)
	b.AddUint32(e.KVNO)
}
