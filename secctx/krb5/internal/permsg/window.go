package permsg

import "github.com/golang-auth/go-gssapi/v3"

// windowSize is how many numbers below the next expected one are remembered,
// one bit each.
const windowSize = 64

// A window is the receiver's side of the replay and sequence services. The zero
// value expects number 0 and has neither service on. Not safe for concurrent use.
//
// Numbers are compared modulo 2^64. Those from the expected one up to 2^63-1 above
// it are ahead. All others are behind.
type window struct {
	next     uint64 // the number expected, one more than the highest seen
	seen     uint64 // bit i: next-1-i has been seen
	replay   bool
	sequence bool
}

// accept records the number of a genuine message. It returns what RFC 2743 says
// about such a number, 0 for nothing. With both services off it records nothing.
func (w *window) accept(seq uint64) gssapi.InformationCode {
	if !w.replay && !w.sequence {
		return 0
	}
	if ahead := seq - w.next; ahead < 1<<63 {
		// A shift by 64 or more gives 0 in Go. That is right: after a jump over the
		// whole window no number in it has been seen.
		w.seen = w.seen<<(ahead+1) | 1
		w.next = seq + 1
		if ahead > 0 && w.sequence {
			return infoGap
		}
		return 0
	}
	return w.acceptLate(w.next - seq)
}

// acceptLate is accept for a number that lies back below the next one, back > 0.
func (w *window) acceptLate(back uint64) gssapi.InformationCode {
	var late gssapi.InformationCode
	if w.sequence {
		late = infoUnseq
	}
	if back > windowSize {
		if w.replay {
			return late | infoOld
		}
		return late
	}
	bit := uint64(1) << (back - 1)
	if w.replay && w.seen&bit != 0 {
		return infoDuplicate
	}
	w.seen |= bit
	return late
}
