package handoff

import (
	"errors"
	"fmt"

	"github.com/golang-auth/go-gssapi/v3"
	"golang.org/x/crypto/cryptobyte"

	"github.com/sealctx/sealctx/seal"
)

// MaxRead is the largest number of bytes, read from a connection and not used, that can go with
// it. A frame of that size takes a few system calls.
const MaxRead = 1 << 16

const (
	magic      = 'S'<<8 | 'H'
	version    = 2
	headerSize = 8
	lengthSize = 4 // of the number before the bytes read, in OFFER
)

// A kind is the meaning of a frame, see the package's description.
type kind uint8

const (
	ready kind = 1 + iota
	offer
	imported
	refused
	withdrawn
)

// bounds returns the least and the largest size of a body, in bytes.
func (k kind) bounds() (least, most int) {
	switch k {
	case offer:
		return lengthSize + 1, lengthSize + MaxRead + seal.MaxToken
	case refused:
		return 1, 1
	}
	return 0, 0
}

func (k kind) String() string {
	if k < ready || k > withdrawn {
		return fmt.Sprintf("frame of kind %d", uint8(k))
	}
	return [...]string{"READY", "OFFER", "IMPORTED", "REFUSED", "WITHDRAWN"}[k-ready]
}

// frame builds a frame.
func frame(k kind, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	b := cryptobyte.NewFixedBuilder(make([]byte, 0, headerSize+size))
	b.AddUint16(magic)
	b.AddUint8(version)
	b.AddUint8(uint8(k))
	b.AddUint32(uint32(size))
	for _, p := range parts {
		b.AddBytes(p)
	}
	return b.BytesOrPanic() // the buffer has the right size
}

// parseHeader returns the kind of a frame and the size of its body. b is headerSize bytes.
// Errors: ErrProtocol.
func parseHeader(b []byte) (kind, int, error) {
	var (
		s    = cryptobyte.String(b)
		m    uint16
		v, k uint8
		size uint32
	)
	if !s.ReadUint16(&m) || !s.ReadUint8(&v) || !s.ReadUint8(&k) || !s.ReadUint32(&size) || !s.Empty() {
		return 0, 0, fmt.Errorf("%w: no header", ErrProtocol)
	}
	switch {
	case m == magic && v != version:
		return 0, 0, fmt.Errorf("%w: version %d of it, this program has version %d", ErrProtocol, v, version)
	case m != magic || kind(k) < ready || kind(k) > withdrawn:
		return 0, 0, fmt.Errorf("%w: header %x", ErrProtocol, b)
	}
	if least, most := kind(k).bounds(); uint64(size) < uint64(least) || uint64(size) > uint64(most) {
		return 0, 0, fmt.Errorf("%w: %v of %d bytes", ErrProtocol, kind(k), size)
	}
	return kind(k), int(size), nil
}

// parseOffer takes apart the body of an OFFER. Errors: ErrProtocol.
func parseOffer(body []byte) (read, tok []byte, err error) {
	var (
		s    = cryptobyte.String(body)
		size uint32
	)
	if !s.ReadUint32(&size) || size > MaxRead || !s.ReadBytes(&read, int(size)) || s.Empty() || len(s) > seal.MaxToken {
		return nil, nil, fmt.Errorf("%w: OFFER of %d bytes with no token, or too long a one", ErrProtocol, len(body))
	}
	return read, s, nil
}

// noDescriptor is the reason of a worker that had no file descriptor left. RFC 2744 has no
// routine error of this number.
const noDescriptor = 255

// reasons are the routine errors of RFC 2744 (3.9.1) with which an import can fail. The last
// one, GSS_S_FAILURE, stands for all others.
var reasons = [...]struct {
	number byte
	name   string
	err    error
}{
	{8, "NO_CONTEXT", gssapi.ErrNoContext},
	{9, "DEFECTIVE_TOKEN", gssapi.ErrDefectiveToken},
	{12, "CONTEXT_EXPIRED", gssapi.ErrContextExpired},
	{15, "UNAUTHORIZED", gssapi.ErrUnauthorized},
	{16, "UNAVAILABLE", gssapi.ErrUnavailable},
	{13, "FAILURE", gssapi.ErrFailure},
}

// reasonOf is the number to send for an error.
func reasonOf(err error) byte {
	if outOfDescriptors(err) {
		return noDescriptor
	}
	last := reasons[len(reasons)-1]
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.number
		}
	}
	return last.number
}

// refusal is what a worker's number says. It is the worker's word, so it is
// text only and matches no status.
func refusal(number byte) error {
	if number == noDescriptor {
		return fmt.Errorf("%w: it has no file descriptor left: raise its RLIMIT_NOFILE", ErrRefused)
	}
	for _, r := range reasons {
		if r.number == number {
			return fmt.Errorf("%w: %s", ErrRefused, r.name)
		}
	}
	return fmt.Errorf("%w: error %d", ErrRefused, number)
}
