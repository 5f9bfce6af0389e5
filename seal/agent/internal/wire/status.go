package wire

import (
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// A Status is the reply to a status request:
//
//	admin(1) | outstanding(4) | limit(4) | len8 suites | count(2) of epochs, then each
//	epoch = id(16) | suite(1) | seals(1) | age(8) | outstanding(4) | limit(4) | lifetime(8)
//
// outstanding and limit before the suites are the peer's own user's. Only an
// administrator, for whom admin is 1, sees epochs. Times are nanoseconds.
type Status struct {
	Admin       bool
	Outstanding uint32
	Limit       uint32
	Suites      []byte
	Epochs      []Epoch
}

// An Epoch is one host key and its register.
type Epoch struct {
	ID          [16]byte
	Suite       uint8
	Seals       bool
	Age         time.Duration
	Outstanding uint32
	Limit       uint32
	MaxLifetime time.Duration
}

// Marshal returns the reply's frame.
func (st *Status) Marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, HeaderSize, 512))
	b.AddUint8(flag(st.Admin))
	b.AddUint32(st.Outstanding)
	b.AddUint32(st.Limit)
	b.AddUint8LengthPrefixed(add(st.Suites))
	b.AddUint16(uint16(len(st.Epochs)))
	for i := range st.Epochs {
		e := &st.Epochs[i]
		b.AddBytes(e.ID[:])
		b.AddUint8(e.Suite)
		b.AddUint8(flag(e.Seals))
		b.AddUint64(uint64(e.Age))
		b.AddUint32(e.Outstanding)
		b.AddUint32(e.Limit)
		b.AddUint64(uint64(e.MaxLifetime))
	}
	frame, err := b.Bytes()
	if err != nil || len(frame) > MaxFrame {
		return nil, ErrMalformed
	}
	Header{Op: Stat, Reply: true, Length: len(frame) - HeaderSize}.Put(frame)
	return frame, nil
}

// ParseStatus reads the body of a status reply.
func ParseStatus(body []byte) (*Status, error) {
	var st Status
	var n uint16
	s := cryptobyte.String(body)
	if !readFlag(&s, &st.Admin) || !s.ReadUint32(&st.Outstanding) || !s.ReadUint32(&st.Limit) ||
		!read8(&s, &st.Suites) || !s.ReadUint16(&n) {
		return nil, ErrMalformed
	}
	for range n {
		var e Epoch
		var age, lifetime uint64
		if !s.CopyBytes(e.ID[:]) || !s.ReadUint8(&e.Suite) || !readFlag(&s, &e.Seals) || !s.ReadUint64(&age) ||
			!s.ReadUint32(&e.Outstanding) || !s.ReadUint32(&e.Limit) || !s.ReadUint64(&lifetime) ||
			age > math.MaxInt64 || lifetime > math.MaxInt64 {
			return nil, ErrMalformed
		}
		e.Age, e.MaxLifetime = time.Duration(age), time.Duration(lifetime)
		st.Epochs = append(st.Epochs, e)
	}
	if !s.Empty() {
		return nil, ErrMalformed
	}
	return &st, nil
}

func flag(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}

// readFlag reads 0 or 1 and nothing else: one way to write each status.
func readFlag(s *cryptobyte.String, on *bool) bool {
	var v uint8
	if !s.ReadUint8(&v) || v > 1 {
		return false
	}
	*on = v == 1
	return true
}
