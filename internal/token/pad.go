package token

import (
	"encoding/binary"
	"math/bits"
)

// MaxPlain is the longest plain token, in bytes: a Kerberos context whose
// authorization data is as large as a ticket can usefully carry.
const MaxPlain = maxBody - 1

const (
	minBody = 512
	maxBody = 48 << 10
)

// paddedSize returns the body's size for a plain token of n bytes: the next
// power of two or half-way between two of them, at least 512, with room for the
// padding's first byte. So a token tells the size of its context to a third.
func paddedSize(n int) int {
	n = max(n+1, minBody)
	power := 1 << bits.Len(uint(n-1))
	if half := power - power/4; n <= half {
		return half
	}
	return power
}

// isPadded reports whether n is one of the sizes that paddedSize returns.
func isPadded(n int) bool {
	return n >= minBody && n <= maxBody && paddedSize(n-1) == n
}

// pad fills what follows the first n bytes of body: 0x80 and zeros (ISO/IEC
// 7816-4), so that the plain token starts where the body does.
func pad(body []byte, n int) {
	clear(body[n:])
	body[n] = 0x80
}

// unpad returns the length of the plain token in an authentic body, or false if
// the body is not what pad makes.
func unpad(body []byte) (int, bool) {
	n := len(body)
	for n >= 8 && binary.NativeEndian.Uint64(body[n-8:n]) == 0 {
		n -= 8
	}
	for n > 0 && body[n-1] == 0 {
		n--
	}
	n--
	if n < 0 || body[n] != 0x80 || paddedSize(n) != len(body) {
		return 0, false
	}
	return n, true
}
