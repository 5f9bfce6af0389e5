// Package stream reads the big-endian integers and counted octets of keytabs
// and credential caches from a file of any length, through one small buffer.
//
// The buffer is the caller's. Where it is locked memory, the keys in the file
// pass through no other memory.
package stream

import (
	"encoding/binary"
	"io"
)

// MinBuffer is the least length of a Reader's buffer, and so the most that
// Peek gives.
const MinBuffer = 512

// A Reader reads a file from its start. Once a method has reported false, the
// file ended or failed, and all further ones report false.
type Reader struct {
	src  io.Reader
	buf  []byte
	r, w int   // what is buffered is buf[r:w]
	left int64 // bytes that were not given out, those in the buffer included
	err  error
}

// NewReader reads at most size bytes of src through buf, which is at least
// MinBuffer long. Afterwards buf holds content of the file: the caller wipes it.
func NewReader(src io.Reader, size int64, buf []byte) *Reader {
	return &Reader{src: src, buf: buf, left: size}
}

// Left returns how many bytes are left at most.
func (s *Reader) Left() int64 { return s.left }

// Err returns the error of the source, nil at its end.
func (s *Reader) Err() error { return s.err }

// Peek returns the next n bytes, which stay unread. They are valid until the
// next call. n is at most MinBuffer.
func (s *Reader) Peek(n int) ([]byte, bool) {
	if int64(n) > s.left {
		return nil, s.fail(nil)
	}
	if s.w-s.r < n {
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
		// Not past size: what is behind it was written after the caller looked.
		most := min(int64(len(s.buf)), s.left)
		m, err := io.ReadAtLeast(s.src, s.buf[s.w:most], n-s.w)
		s.w += m
		if err != nil {
			return nil, s.fail(err)
		}
	}
	return s.buf[s.r : s.r+n], true
}

// fail ends the reader.
func (s *Reader) fail(err error) bool {
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF && s.err == nil {
		s.err = err
	}
	s.left, s.r, s.w = 0, 0, 0
	return false
}

// Full fills p.
func (s *Reader) Full(p []byte) bool {
	if int64(len(p)) > s.left {
		return s.fail(nil)
	}
	n := copy(p, s.buf[s.r:s.w])
	s.r += n
	if _, err := io.ReadFull(s.src, p[n:]); err != nil {
		return s.fail(err)
	}
	s.left -= int64(len(p))
	return true
}

// Skip passes over n bytes.
func (s *Reader) Skip(n int64) bool {
	if n < 0 || n > s.left {
		return s.fail(nil)
	}
	for n > 0 {
		step := min(n, MinBuffer)
		if _, ok := s.Peek(int(step)); !ok {
			return false
		}
		s.r += int(step)
		s.left -= step
		n -= step
	}
	return true
}

// Uint8 reads one byte.
func (s *Reader) Uint8(v *uint8) bool {
	b, ok := s.Peek(1)
	if !ok {
		return false
	}
	*v = b[0]
	return s.Skip(1)
}

// Uint16 reads two bytes.
func (s *Reader) Uint16(v *uint16) bool {
	b, ok := s.Peek(2)
	if !ok {
		return false
	}
	*v = binary.BigEndian.Uint16(b)
	return s.Skip(2)
}

// Uint32 reads four bytes.
func (s *Reader) Uint32(v *uint32) bool {
	b, ok := s.Peek(4)
	if !ok {
		return false
	}
	*v = binary.BigEndian.Uint32(b)
	return s.Skip(4)
}
