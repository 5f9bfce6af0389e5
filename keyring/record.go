package keyring

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"math"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/memsafe"
	"golang.org/x/crypto/cryptobyte"
)

// The record of an epoch, its first page: what never changes and the MAC over
// it, then what does, then the key. Integers of the fixed part are big-endian;
// the others are words of this machine that all processes change atomically.
//
//	 0  8  magic "SLCXRING"      80  4  outstanding tokens allowed
//	 8  1  format 1              84  8  age, ns
//	 9  1  suite                 92  8  longest lifetime, ns
//	10 16  epoch id             100 32  MAC: HKDF-Expand(key, "... mac" | bytes 0 to 99)
//	26 16  boot id              256  4  state
//	42  8  device               264  8  tokens outstanding, a tally
//	50  8  inode                272  8  last recount, ns since boot
//	58  8  birth, ns since boot 280  8  closed at, ns since boot
//	66  8  sequence number      512 32  host key
//	74  6  zero
const (
	recordMagic  = "SLCXRING"
	recordFormat = 1

	fixedSize   = 100
	offMAC      = fixedSize
	offState    = 256
	offCount    = 264
	offSwept    = 272
	offClosedAt = 280
	offKey      = 512
	recordSize  = 1024

	macLabel = "sealctx epoch mac\x00"
)

// A record is the address of a record in locked memory. It is no slice, so that
// a printer which walks the fields of an Epoch finds no key.
type record struct{ base unsafe.Pointer }

func recordAt(b []byte) record { return record{unsafe.Pointer(&b[:recordSize][0])} }

func (r record) bytes() []byte { return unsafe.Slice((*byte)(r.base), recordSize) }

// key is the host key in place.
func (r record) key() []byte { return r.bytes()[offKey : offKey+keySize : offKey+keySize] }

// The states of an epoch. Zero is not a state, so zeroed memory is damage.
const (
	stateOpen   = 1 // seals and opens
	stateClosed = 2 // opens what is outstanding
	stateDead   = 3 // neither; the key is gone or going
)

// fixed is the part of a record that never changes.
type fixed struct {
	suite       suite.Suite
	id          [16]byte
	boot        [16]byte
	dev, ino    uint64
	birth       time.Duration // since boot
	seq         uint64
	outstanding int
	age         time.Duration
	maxLifetime time.Duration
}

func (f *fixed) capacity() int { return 2 * f.outstanding }

// fileSize is how large the epoch's file is, in bytes.
func (f *fixed) fileSize() int { return pageSize + 8*f.capacity() }

// marshal writes the fixed part into the first bytes of a record.
func (f *fixed) marshal(record []byte) {
	b := cryptobyte.NewFixedBuilder(record[:0:fixedSize])
	b.AddBytes([]byte(recordMagic))
	b.AddUint8(recordFormat)
	b.AddUint8(uint8(f.suite))
	b.AddBytes(f.id[:])
	b.AddBytes(f.boot[:])
	b.AddUint64(f.dev)
	b.AddUint64(f.ino)
	b.AddUint64(uint64(f.birth))
	b.AddUint64(f.seq)
	b.AddBytes(make([]byte, 6))
	b.AddUint32(uint32(f.outstanding))
	b.AddUint64(uint64(f.age))
	b.AddUint64(uint64(f.maxLifetime))
	b.BytesOrPanic()
}

// parseFixed reads the fixed part and refuses what marshal would not write.
func parseFixed(record []byte) (*fixed, error) {
	var f fixed
	var format, number uint8
	var magic, zero []byte
	var birth, age, lifetime uint64
	var outstanding uint32
	s := cryptobyte.String(record)
	if len(record) < recordSize ||
		!s.ReadBytes(&magic, len(recordMagic)) || !s.ReadUint8(&format) || !s.ReadUint8(&number) ||
		!s.CopyBytes(f.id[:]) || !s.CopyBytes(f.boot[:]) || !s.ReadUint64(&f.dev) || !s.ReadUint64(&f.ino) ||
		!s.ReadUint64(&birth) || !s.ReadUint64(&f.seq) || !s.ReadBytes(&zero, 6) ||
		!s.ReadUint32(&outstanding) || !s.ReadUint64(&age) || !s.ReadUint64(&lifetime) {
		return nil, fmt.Errorf("%w: its record is too short", ErrDamaged)
	}
	f.suite, f.outstanding = suite.Suite(number), int(outstanding)
	f.birth, f.age, f.maxLifetime = time.Duration(birth), time.Duration(age), time.Duration(lifetime)
	switch {
	case string(magic) != recordMagic || !bytes.Equal(zero, make([]byte, 6)):
		return nil, fmt.Errorf("%w: not an epoch's record", ErrDamaged)
	case format != recordFormat:
		return nil, fmt.Errorf("%w: format %d is not known to this version", ErrDamaged, format)
	case !f.suite.Known(),
		outstanding < 1 || outstanding > maxCapacity,
		birth > math.MaxInt64/2,
		f.age < time.Second || f.age > maxAge,
		f.maxLifetime < time.Second || f.maxLifetime > longestLifetime:
		return nil, fmt.Errorf("%w: its record holds a value out of range", ErrDamaged)
	}
	return &f, nil
}

// mac computes the record's MAC. The host key must not be zero: a file that
// was truncated and grown again has a zero key and, were it checked with that
// key alone, whatever MAC its maker likes.
func (s *scratchpad) mac(r record) (sum [hashSize]byte, err error) {
	key := r.key()
	if subtle.ConstantTimeCompare(key, make([]byte, keySize)) == 1 {
		return sum, fmt.Errorf("%w: it has no key", ErrDamaged)
	}
	err = s.work(func(scratch []byte) error {
		memsafe.Do(func() {
			expand(key, scratch, macLabel, r.bytes()[:fixedSize])
			copy(sum[:], scratch)
		})
		return nil
	})
	return sum, err
}

// authentic checks the record's MAC.
func (s *scratchpad) authentic(r record) error {
	sum, err := s.mac(r)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(sum[:], r.bytes()[offMAC:offMAC+hashSize]) != 1 {
		return fmt.Errorf("%w: its record is not authentic", ErrDamaged)
	}
	return nil
}

// shared gives atomic access to a word of the record.
func shared[T any](r record, off int) *T { return (*T)(unsafe.Add(r.base, off)) }

// vars are the parts of a record that change.
type vars struct {
	state    *atomic.Uint32
	closedAt *atomic.Int64 // nanoseconds since boot; zero while open
}

func recordVars(r record) vars {
	return vars{shared[atomic.Uint32](r, offState), shared[atomic.Int64](r, offClosedAt)}
}

func recordRegister(r record, slots []uint64, limit int) register {
	return register{
		slots: slots,
		limit: limit,
		count: shared[atomic.Uint64](r, offCount),
		swept: shared[atomic.Int64](r, offSwept),
	}
}
