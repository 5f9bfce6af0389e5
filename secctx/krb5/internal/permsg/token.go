package permsg

import (
	"encoding/binary"
)

// headerSize is the size in bytes of the header of either token, RFC 4121
// sections 4.2.6.1 and 4.2.6.2.
const headerSize = 16

// Token identifiers, RFC 4121 section 4.2.6.
const (
	idMIC  = 0x0404
	idWrap = 0x0504
)

// Flags, RFC 4121 section 4.2.2. Other bits must be ignored.
const (
	flagSentByAcceptor = 1 << 0
	flagSealed         = 1 << 1
	flagAcceptorSubkey = 1 << 2
)

// Key usages, RFC 4121 section 2. SEAL is for Wrap tokens, encrypted or only
// signed; SIGN for MIC tokens.
const (
	usageAcceptorSeal  = 22
	usageAcceptorSign  = 23
	usageInitiatorSeal = 24
	usageInitiatorSign = 25
)

// header is what the first 16 bytes of a token say.
//
//	Wrap:  05 04 | flags | FF | EC (2) | RRC (2) | sequence number (8)
//	MIC:   04 04 | flags | FF FF FF FF FF        | sequence number (8)
type header struct {
	id    uint16
	flags byte
	ec    uint16 // Wrap: bytes of filler, or of the checksum when not sealed
	rrc   uint16 // Wrap: by how many bytes what follows was rotated right
	seq   uint64
}

// put writes the header over the first 16 bytes of b.
func (h *header) put(b []byte) {
	binary.BigEndian.PutUint16(b, h.id)
	b[2], b[3] = h.flags, 0xFF
	if h.id == idMIC {
		binary.BigEndian.PutUint32(b[4:], 0xFFFFFFFF)
	} else {
		binary.BigEndian.PutUint16(b[4:], h.ec)
		binary.BigEndian.PutUint16(b[6:], h.rrc)
	}
	binary.BigEndian.PutUint64(b[8:], h.seq)
}

// parse reads the header of a token of the wanted kind. It reports whether b
// begins with one.
func (h *header) parse(b []byte, want uint16) bool {
	if len(b) < headerSize || binary.BigEndian.Uint16(b) != want || b[3] != 0xFF {
		return false
	}
	h.id, h.flags = want, b[2]
	h.seq = binary.BigEndian.Uint64(b[8:])
	if want == idMIC {
		return binary.BigEndian.Uint32(b[4:]) == 0xFFFFFFFF && h.flags&flagSealed == 0
	}
	h.ec = binary.BigEndian.Uint16(b[4:])
	h.rrc = binary.BigEndian.Uint16(b[6:])
	return true
}

// unrotate copies body to dst and turns it left by rrc bytes. The sender turned it
// right (RFC 4121 section 4.2.5).
func unrotate(dst, body []byte, rrc uint16) {
	if len(body) == 0 {
		return
	}
	n := int(rrc) % len(body)
	copy(dst[copy(dst, body[n:]):], body[:n])
}
