//go:build linux

package memscan

import (
	"encoding/binary"
	"math/bits"
)

// word is the unit of the search. Any 16 bytes contain one whole aligned word
// of 8, so it is enough to look at aligned words of memory, and to compare
// bytes only where one of them equals 8 bytes of a needle.
const word = 8

// place is a position in a needle.
type place struct{ needle, pos int }

// matcher finds the needles of a set. It is immutable once made.
type matcher struct {
	needles []needle
	words   map[uint64][]place
	indexed [][]bool // by needle and position: stands in words
	filter  []uint64 // bitmap of hashed words
	shift   uint     // 64 less the width of the hash
	longest int
}

// run is a piece of a needle, found: length bytes from off in the needle,
// which begin at addr.
type run struct {
	needle, off, length int
	addr                uint64
}

func newMatcher(s *Set) (*matcher, error) {
	if s.err != nil {
		return nil, s.err
	}
	m := &matcher{needles: s.needles, words: map[uint64][]place{}}
	for k, n := range m.needles {
		m.longest = max(m.longest, len(n.b))
		idx := make([]bool, len(n.b))
		for p := range n.b[:len(n.b)-word+1] {
			for at := max(0, p-(Window-word)); at <= p && at < len(n.ok); at++ {
				idx[p] = idx[p] || n.ok[at]
			}
			if idx[p] {
				w := binary.LittleEndian.Uint64(n.b[p:])
				m.words[w] = append(m.words[w], place{k, p})
			}
		}
		m.indexed = append(m.indexed, idx)
	}
	width := max(16, bits.Len(uint(len(m.words)))+6)
	m.shift = uint(64 - width)
	m.filter = make([]uint64, 1<<(width-6))
	for w := range m.words {
		h := m.hash(w)
		m.filter[h/64] |= 1 << (h % 64)
	}
	return m, nil
}

func (m *matcher) hash(w uint64) uint64 { return w * 0x9e3779b97f4a7c15 >> m.shift }

// next returns the offset of the first word in b, from offset i on in steps of
// 8, that may be of a needle, or one past the last word. It is the loop that
// decides how fast a scan is.
//
//go:norace
func (m *matcher) next(b []byte, i int) int {
	filter, shift := m.filter, m.shift&63
	for ; i+word <= len(b); i += word {
		h := binary.LittleEndian.Uint64(b[i:]) * 0x9e3779b97f4a7c15 >> shift
		if filter[h/64]>>(h%64)&1 != 0 {
			break
		}
	}
	return i
}

// search reports every run of 16 or more bytes that holds a fit window and has
// a word in b[from:to]. Bytes of b outside that range only lengthen runs. base
// is the address of b[0].
func (m *matcher) search(b []byte, base uint64, from, to int, found map[run]bool) {
	i := from + int(-(base+uint64(from))&(word-1))
	limit := b[:min(to+word-1, len(b))]
	for i = m.next(limit, i); i+word <= len(limit); i = m.next(limit, i+word) {
		for _, p := range m.words[binary.LittleEndian.Uint64(limit[i:])] {
			if r, ok := m.extend(b, i, p); ok {
				r.addr += base
				found[r] = true
			}
		}
	}
}

// extend makes the longest run around a word, at b[i] and at p in its needle.
func (m *matcher) extend(b []byte, i int, p place) (run, bool) {
	n := m.needles[p.needle]
	left := 0
	for left < min(i, p.pos) && b[i-left-1] == n.b[p.pos-left-1] {
		left++
	}
	if left >= word && m.indexed[p.needle][p.pos-word] {
		return run{}, false // the word before has reported this run
	}
	end := word
	for end < min(len(b)-i, len(n.b)-p.pos) && b[i+end] == n.b[p.pos+end] {
		end++
	}
	r := run{needle: p.needle, off: p.pos - left, length: left + end, addr: uint64(i - left)}
	for at := r.off; at+Window <= r.off+r.length; at++ {
		if n.ok[at] {
			return r, true
		}
	}
	return run{}, false
}
