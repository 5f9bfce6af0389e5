package kmsg

import (
	"encoding/binary"
	"fmt"
	"math"
)

// ChecksumGSS is the type of the authenticator's checksum that carries
// GSS-API's flags and channel bindings (RFC 4121 section 4.1.1).
const ChecksumGSS int32 = 0x8003

// flagDeleg is GSS_C_DELEG_FLAG.
const flagDeleg = 1

// GSSChecksum is the content of a checksum 0x8003.
type GSSChecksum struct {
	Bindings [16]byte // MD5 of the channel bindings, zero for none
	Flags    uint32   // GSS-API's context flags
	Cred     []byte   // a KRB-CRED; nil unless Flags has GSS_C_DELEG_FLAG
}

// MaxCred is the longest KRB-CRED in bytes that a checksum has room for.
const MaxCred = math.MaxUint16

// ParseGSSChecksum reads the checksum (all fields little-endian). A delegated
// credential must be framed right. Extensions after it are ignored, as RFC 4121
// asks. The result aliases b.
func ParseGSSChecksum(b []byte) (GSSChecksum, error) {
	var c GSSChecksum
	bad := func(what string) (GSSChecksum, error) {
		return GSSChecksum{}, fmt.Errorf("%w: authenticator checksum: %s", ErrMalformed, what)
	}
	if len(b) < 24 {
		return bad("short")
	}
	if binary.LittleEndian.Uint32(b) != uint32(len(c.Bindings)) {
		return bad("length of the channel bindings")
	}
	copy(c.Bindings[:], b[4:])
	c.Flags = binary.LittleEndian.Uint32(b[20:])
	if c.Flags&flagDeleg != 0 {
		rest := b[24:]
		if len(rest) < 4 || binary.LittleEndian.Uint16(rest) != 1 ||
			len(rest)-4 < int(binary.LittleEndian.Uint16(rest[2:])) {
			return bad("delegated credential")
		}
		c.Cred = rest[4:][:binary.LittleEndian.Uint16(rest[2:])]
	}
	return c, nil
}

// Marshal encodes c without extensions. Cred must have at most MaxCred bytes.
func (c GSSChecksum) Marshal() []byte {
	b := make([]byte, 24, 24+4+len(c.Cred))
	binary.LittleEndian.PutUint32(b, uint32(len(c.Bindings)))
	copy(b[4:], c.Bindings[:])
	binary.LittleEndian.PutUint32(b[20:], c.Flags)
	if c.Cred != nil {
		b = binary.LittleEndian.AppendUint16(b, 1)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(c.Cred)))
		b = append(b, c.Cred...)
	}
	return b
}
