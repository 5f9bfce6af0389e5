package wire

import "encoding/binary"

// The replies that hold a secret are never in one piece in ordinary memory:
// these are the bytes around it.

// PlainPrefix is what goes before a plain token of n bytes in the reply to Open
// or TakeBack.
func PlainPrefix(op Op, n int) []byte {
	b := make([]byte, PlainPrefixSize)
	Header{Op: op, Reply: true, Length: 4 + n}.Put(b)
	binary.BigEndian.PutUint32(b[HeaderSize:], uint32(n))
	return b
}

// PlainPrefixSize is the size of PlainPrefix in bytes.
const PlainPrefixSize = HeaderSize + 4

// PlainLength returns how long the plain token behind a prefix is, given the
// header that the prefix starts with.
func PlainLength(h Header, prefix []byte) (int, error) {
	n := binary.BigEndian.Uint32(prefix[HeaderSize:PlainPrefixSize])
	if uint64(n)+4 != uint64(h.Length) {
		return 0, ErrMalformed
	}
	return int(n), nil
}

// KeyPrefix and KeySuffix are what goes before and after K_enc in the reply to
// Reserve.
func KeyPrefix(key, start int) []byte {
	b := make([]byte, KeyPrefixSize)
	Header{Op: Reserve, Reply: true, Length: 2 + key + 2 + start}.Put(b)
	binary.BigEndian.PutUint16(b[HeaderSize:], uint16(key))
	return b
}

// KeySuffix returns len16 start.
func KeySuffix(start []byte) []byte {
	b := make([]byte, 2, 2+len(start))
	binary.BigEndian.PutUint16(b, uint16(len(start)))
	return append(b, start...)
}

// KeyPrefixSize is the size of KeyPrefix in bytes.
const KeyPrefixSize = HeaderSize + 2

// ParseReserved checks the lengths around a key of the given size and returns
// start, which is what suffix, the bytes behind the key, begins with.
func ParseReserved(h Header, prefix []byte, key int, suffix []byte) (start []byte, err error) {
	n := h.Length - 2 - key
	if int(binary.BigEndian.Uint16(prefix[HeaderSize:])) != key || n < 2 || n > len(suffix) ||
		int(binary.BigEndian.Uint16(suffix)) != n-2 {
		return nil, ErrMalformed
	}
	return suffix[2:n], nil
}
