package etype

import (
	"crypto/sha512"
	"hash"

	"github.com/sealctx/sealctx/internal/wipe"
	"github.com/sealctx/sealctx/memsafe"
)

// mac computes HMAC (RFC 2104) by hand over a digest of the standard library:
// crypto/hmac keeps the key in objects that cannot be wiped, and allocates for
// each message. One goroutine at a time.
//
// The pads and the states behind them are worth the key. They exist only from
// begin to scrub, in this struct and in the digest.
type mac struct {
	h    hash.Hash
	size int // bytes of one block of h
	pad  [maxPadSize]byte
	sum  [sha512.Size]byte
}

func (m *mac) init(s *suite) {
	m.h = s.newHash()
	m.size = m.h.BlockSize()
}

// begin starts a message under key, which must be at most one block long.
func (m *mac) begin(key []byte) { m.feed(key, 0x36) }

// write adds to the message. The digests of crypto/sha* return no error where
// the suite is usable.
func (m *mac) write(p []byte) { _, _ = m.h.Write(p) }

// end returns the full HMAC, valid until the next begin. The caller must scrub
// before it returns.
func (m *mac) end(key []byte) []byte {
	inner := m.h.Sum(m.sum[:0])
	m.feed(key, 0x5c)
	m.write(inner)
	return m.h.Sum(m.sum[:0])
}

func (m *mac) feed(key []byte, with byte) {
	pad := m.pad[:m.size]
	for i := range pad {
		pad[i] = with
	}
	for i, k := range key {
		pad[i] ^= k
	}
	m.h.Reset()
	m.write(pad)
}

// scrub clears the pad and, in the digest, its state and its buffered block. It
// runs the digest over zeros first: that leaves nothing of the message or of
// the key in the vector registers, where a signal that comes later would find
// it and save it in memory.
func (m *mac) scrub() {
	memsafe.Wipe(m.pad[:])
	m.h.Reset()
	m.write(m.pad[:1]) // in two pieces, so that the block goes through the buffer
	m.write(m.pad[1:m.size])
	m.h.Reset()
}

func (m *mac) wipe() {
	m.scrub()
	wipe.Object(m.h)
	memsafe.Wipe(m.sum[:])
}
