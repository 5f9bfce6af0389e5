package etype

// nfold stretches or shrinks in to n bytes (RFC 3961 section 5.1): copies of
// in, each rotated right by 13 bits more than the one before, laid end to end
// up to a common multiple of both lengths and added up in n-byte pieces with
// the carry brought round.
func nfold(in []byte, n int) []byte {
	bits, copies := len(in)*8, n/gcd(len(in), n)
	sum := make([]int, n)
	at, to := 0, 0 // the bit that lands first in the next byte, and where that lands
	for range copies {
		for range in {
			b, shift := at/8, at%8
			next := b + 1
			if next == len(in) {
				next = 0
			}
			sum[to] += int(in[b]<<shift | in[next]>>(8-shift))
			if at += 8; at >= bits {
				at -= bits
			}
			if to++; to == n {
				to = 0
			}
		}
		at = (at + bits - 13%bits) % bits
	}
	out := make([]byte, n)
	carry := 0
	// One pass adds and hands the carry out of the top back in at the bottom;
	// that can carry again, so pass until nothing is left over.
	for first := true; first || carry != 0; first = false {
		for i := n - 1; i >= 0; i-- {
			v := carry
			if first {
				v += sum[i]
			} else {
				v += int(out[i])
			}
			out[i] = byte(v)
			carry = v >> 8
		}
	}
	return out
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
