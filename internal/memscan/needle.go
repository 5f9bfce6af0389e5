//go:build linux

package memscan

import (
	"bytes"
	"errors"
	"fmt"
)

// Window is how many consecutive bytes of a needle make a hit.
const Window = 16

// minDistinct is how many different bytes a window must have. Of 16 random
// bytes fewer than 8 are different with a chance under 1e-11, so that no random
// key is refused, while runs, padding and small integers are.
const minDistinct = 8

// ErrNeedle means that a needle could match by accident, or could not match at
// all: it is shorter than [Window], or has 16 bytes in a row of too little
// variety.
var ErrNeedle = errors.New("memscan: unfit needle")

// needle is a named secret. Only windows that begin where ok is true count.
type needle struct {
	name string
	b    []byte
	ok   []bool // one for each possible beginning, len(b)-Window+1 of them
}

// Set is a collection of needles. The zero value is empty and ready. A set
// keeps the first error that a method meets and then does nothing more; [Scan]
// and [File] return it. It holds copies of the secrets: it belongs into the
// process that scans, never into the one that is scanned. Not safe for
// concurrent use.
type Set struct {
	needles []needle
	err     error
}

// Err returns the first error that the set met, which wraps [ErrNeedle].
func (s *Set) Err() error { return s.err }

// Windows returns how many different beginnings of a hit the set has.
func (s *Set) Windows() int {
	n := 0
	for i := range s.needles {
		for _, ok := range s.needles[i].ok {
			if ok {
				n++
			}
		}
	}
	return n
}

// Bytes adds b, which must be 16 bytes or more and of high entropy all through:
// a window of runs or of few different bytes would be found everywhere. The
// name appears in reports.
func (s *Set) Bytes(name string, b []byte) {
	n, low := newNeedle(name, b)
	if s.err != nil {
		return
	}
	if len(n.ok) == 0 {
		s.err = fmt.Errorf("%w: %s has %d bytes, at least %d are needed", ErrNeedle, name, len(b), Window)
		return
	}
	if low > 0 {
		s.err = fmt.Errorf("%w: %s has %d of %d windows of low entropy", ErrNeedle, name, low, len(n.ok))
		return
	}
	s.needles = append(s.needles, n)
}

// Message adds b, which may hold runs and public text beside the secrets, as a
// plain interprocess token does. Windows of low entropy are left out, and so
// are those that also stand in one of the public strings. It returns how many
// windows remain, and is an error where none does.
func (s *Set) Message(name string, b []byte, public ...[]byte) int {
	n, _ := newNeedle(name, b)
	if s.err != nil {
		return 0
	}
	left := 0
	for i := range n.ok {
		for _, p := range public {
			n.ok[i] = n.ok[i] && !bytes.Contains(p, b[i:i+Window])
		}
		if n.ok[i] {
			left++
		}
	}
	if left == 0 {
		s.err = fmt.Errorf("%w: %s has no window that is fit", ErrNeedle, name)
		return 0
	}
	s.needles = append(s.needles, n)
	return left
}

// newNeedle copies b and counts its windows of low entropy, which are not ok.
func newNeedle(name string, b []byte) (needle, int) {
	n := needle{name: name, b: bytes.Clone(b)}
	if len(b) < Window {
		return n, 0
	}
	low := 0
	n.ok = make([]bool, len(b)-Window+1)
	for i := range n.ok {
		n.ok[i] = varied(b[i : i+Window])
		if !n.ok[i] {
			low++
		}
	}
	return n, low
}

// varied reports whether a window has enough different bytes and is no ramp:
// tables of shuffle masks hold 0, 1, 2, 3 and the like.
func varied(w []byte) bool {
	var seen [256]bool
	distinct, ramp := 0, true
	for i, c := range w {
		if !seen[c] {
			seen[c] = true
			distinct++
		}
		if i > 1 && c-w[i-1] != w[1]-w[0] {
			ramp = false
		}
	}
	return distinct >= minDistinct && !ramp
}
