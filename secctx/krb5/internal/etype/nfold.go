package etype

// nfold stretches or shrinks in to n bytes (RFC 3961 section 5.1): copies of
// in, each rotated right by 13 bits more than the one before, laid end to end
// up to a common multiple of both lengths and added up in n-byte pieces with
// the carry brought round.
func nfold(in []byte, n int) []byte {
	total := len(in) * n / gcd(len(in), n)
	sum := make([]int, n)
	for i := range total {
		sum[i%n] += int(rotated(in, i))
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

// rotated returns byte i of the endless row of rotated copies of in.
func rotated(in []byte, i int) byte {
	bits := len(in) * 8
	turn := 13 * (i / len(in)) % bits
	at := (i%len(in)*8 - turn + bits) % bits // the bit that lands first in this byte
	b, shift := at/8, at%8
	return in[b]<<shift | byte(int(in[(b+1)%len(in)])>>(8-shift))
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
