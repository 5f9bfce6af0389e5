// Package keytab reads and writes key tables: the files, in the format that
// MIT and Heimdal share, in which a service keeps its long-term keys.
//
// A table is read through a small buffer, whatever its length. Keys go into
// memory that the caller provides, and nowhere else. A table is trusted to
// belong to this host but not to be whole: reading never panics and allocates in
// proportion to the input.
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
//
// # Damage
//
// MIT's library ends a table, without an error, where the bytes left are no
// record: an editor's newline, a record that is cut off, a hole that is longer
// than the file. So does Read. A record whose size is in order, but that holds no
// entry, is passed over; there MIT's library ends too. A table in which nothing
// but damage is found is ErrMalformed.
package keytab

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/stream"
)

// ErrMalformed means that a file is no key table, or that nothing in it is an
// entry. GSS_S_DEFECTIVE_CREDENTIAL.
var ErrMalformed = errors.New("keytab: malformed key table")

// Limits of what is read.
const (
	// MaxSize is the longest table in bytes: some 200,000 keys. MIT's library has
	// no limit.
	MaxSize = 16 << 20
	// maxKey is the longest key in bytes. Those of the encryption types in use
	// have 32 or less.
	maxKey = 64
)

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

// Matches reports whether e's key may be the one that a ticket names by version.
// Version 0 stands for any on either side. MIT's library compares the low eight
// bits alone for every entry, this package for short ones.
func (e *Entry) Matches(kvno uint32) bool {
	return kvno == 0 || e.KVNO == 0 || e.KVNO == kvno || e.Short && e.KVNO == kvno&0xff
}

// Parse reads a table that is in memory. Keys are copies. The error is
// ErrMalformed.
func Parse(b []byte) ([]Entry, error) {
	buf := make([]byte, stream.MinBuffer)
	defer memsafe.Wipe(buf)
	return Read(stream.NewReader(bytes.NewReader(b), int64(len(b)), buf), func(n int) ([]byte, error) { return make([]byte, n), nil })
}

// Read reads a table. It puts keys into memory that alloc returns. The error is
// ErrMalformed, or wraps one of alloc or of the source.
func Read(src *stream.Reader, alloc func(n int) ([]byte, error)) ([]Entry, error) {
	var v uint16
	if src.Left() > MaxSize || !src.Uint16(&v) || v != version {
		return nil, fmt.Errorf("%w: not a table of version 2 of at most %d bytes", ErrMalformed, MaxSize)
	}
	s := reader{Reader: src, alloc: alloc}
	var entries []Entry
	damaged := false
	for s.Left() > 0 {
		e, what, err := s.record()
		if err != nil {
			return nil, err
		}
		switch what {
		case isEntry:
			entries = append(entries, e)
		case isEnd:
			s.Skip(s.Left())
		case isDamage:
			damaged = true
		}
	}
	if src.Err() != nil {
		return nil, fmt.Errorf("keytab: %w", src.Err())
	}
	if damaged && entries == nil {
		return nil, fmt.Errorf("%w: nothing in it is an entry", ErrMalformed)
	}
	return entries, nil
}

type reader struct {
	*stream.Reader
	alloc func(int) ([]byte, error)
	body  int64 // bytes left of the record
}

// What a record may be.
type kind int

const (
	isEntry kind = iota
	isHole
	isDamage
	isEnd
)

func (s *reader) record() (Entry, kind, error) {
	var size uint32
	if !s.Uint32(&size) {
		return Entry{}, isDamage, nil
	}
	n := int64(int32(size))
	switch {
	case n == 0:
		return Entry{}, isEnd, nil
	case n < 0 && s.Skip(-n):
		return Entry{}, isHole, nil
	case n < 0 || n > s.Left():
		s.Skip(s.Left())
		return Entry{}, isDamage, nil
	}
	s.body = n
	var e Entry
	ok, err := s.entry(&e)
	if err != nil {
		return Entry{}, isDamage, err
	}
	if s.Skip(s.body); !ok {
		return Entry{}, isDamage, nil
	}
	return e, isEntry, nil
}

// take reports whether a record has n more bytes, and counts them.
func (s *reader) take(n int64) bool {
	if n > s.body {
		return false
	}
	s.body -= n
	return true
}

func (s *reader) u8(v *uint8) bool   { return s.take(1) && s.Uint8(v) }
func (s *reader) u16(v *uint16) bool { return s.take(2) && s.Uint16(v) }
func (s *reader) u32(v *uint32) bool { return s.take(4) && s.Uint32(v) }

func (s *reader) entry(e *Entry) (ok bool, err error) {
	var parts uint16
	if !s.u16(&parts) || parts == 0 || parts > kmsg.MaxParts || !s.text(&e.Principal.Realm) {
		return false, nil
	}
	for range parts {
		var part string
		if !s.text(&part) {
			return false, nil
		}
		e.Principal.Parts = append(e.Principal.Parts, part)
	}
	var nameType, stamp, kvno uint32
	var kvno8 uint8
	var etype, size uint16
	if !s.u32(&nameType) || !s.u32(&stamp) || !s.u8(&kvno8) || !s.u16(&etype) || !s.u16(&size) ||
		size == 0 || size > maxKey || !s.take(int64(size)) {
		return false, nil
	}
	e.Principal.Type = int32(nameType)
	if e.Principal.Check() != nil {
		s.body += int64(size) // not taken yet
		return false, nil
	}
	e.Time = time.Unix(int64(stamp), 0)
	e.Key.EType = int32(int16(etype))
	if e.Key.Value, err = s.alloc(int(size)); err != nil {
		return false, err
	}
	if !s.Full(e.Key.Value) {
		return false, nil
	}
	e.KVNO, e.Short = uint32(kvno8), true
	if s.body >= 4 && s.u32(&kvno) && kvno != 0 { // the rest of the record is padding
		e.KVNO, e.Short = kvno, false
	}
	return true, nil
}

func (s *reader) text(v *string) bool {
	var n uint16
	if !s.u16(&n) || n > kmsg.MaxName || !s.take(int64(n)) {
		return false
	}
	b := make([]byte, n)
	if !s.Full(b) {
		return false
	}
	*v = string(b)
	return true
}

// Clone returns a copy. It puts keys into memory that alloc returns.
func Clone(entries []Entry, alloc func(n int) ([]byte, error)) ([]Entry, error) {
	entries = slices.Clone(entries)
	for i := range entries {
		key := entries[i].Key.Value
		mem, err := alloc(len(key))
		if err != nil {
			return nil, err
		}
		memsafe.Do(func() { copy(mem, key) })
		entries[i].Key.Value = mem
	}
	return entries, nil
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
