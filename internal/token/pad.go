package token

import (
	"encoding/binary"
)

// MaxPlain is the longest plain token, in bytes: a Kerberos context whose
// authorization data is as large as a ticket can usefully carry.
const MaxPlain = maxBody - 1

const maxBody = 48 << 10

// bodySizes are powers of two and the sizes half-way between two of them. A token
// tells the size of its context to within a third. The exception is 2864: BIND keeps
// no token of more than 3,069 bytes, and 205 bytes are room for what goes around a body.
var bodySizes = [...]int{512, 768, 1024, 1536, 2048, 2864, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, maxBody}

// paddedSize returns the body's size for a plain token of n bytes: the smallest that
// has room for the padding's first byte, or n+1 if n is more than MaxPlain.
func paddedSize(n int) int {
	for _, size := range bodySizes {
		if n < size {
			return size
		}
	}
	return n + 1
}

// isPadded reports whether n is one of the sizes that paddedSize returns.
func isPadded(n int) bool {
	return n >= bodySizes[0] && n <= maxBody && paddedSize(n-1) == n
}

// pad fills body behind its first n bytes with 0x80 and zeros (ISO/IEC 7816-4). The plain
// token starts where the body does.
func pad(body []byte, n int) {
	clear(body[n:])
	body[n] = 0x80
}

// unpad returns the length of the plain token in an authentic body. It returns false for
// a body that pad does not make.
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
