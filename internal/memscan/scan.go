//go:build linux

package memscan

import (
	"fmt"
	"io"
	"os"
	"slices"
)

// chunk is how many bytes are read at a time.
const chunk = 1 << 20

// span is a stretch of memory to read. rw and secret say how it is accounted.
type span struct {
	start, end uint64
	rw         bool
	secret     bool
}

func (s span) joins(next span) bool {
	return s.end == next.start && s.rw == next.rw && s.secret == next.secret
}

// Scan stops the process, reads all its memory and registers, looks for the
// needles of s, and lets the process go on (unless it was stopped before). The
// process must be one that the caller may ptrace: its own child, or any for
// root. It returns an error if the process cannot be stopped or read at all, or
// if s met one; pages that cannot be read are in the report.
func Scan(pid int, s *Set) (*Report, error) {
	m, err := newMatcher(s)
	if err != nil {
		return nil, err
	}
	start, err := stop(pid)
	if err != nil {
		return nil, err
	}
	defer start()

	maps, err := readMaps(pid)
	if err != nil {
		return nil, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, err
	}
	defer pagemap.Close()

	r := &Report{PID: pid}
	spans, err := r.survey(maps, pagemap)
	if err != nil {
		return nil, err
	}
	found := map[run]bool{}
	sc := newScanner(m, mem, found)
	for _, sp := range spans {
		r.account(sp, sc.scan(sp.start, sp.end))
	}
	r.collect(m, found, maps)
	r.registers(pid, m)
	return r, nil
}

// survey sorts the pages of all mappings into spans to read and absent ones.
// Neighbours of one sort become one span, so that a needle across the border of
// two mappings is seen whole.
func (r *Report) survey(maps []Mapping, pagemap *os.File) ([]span, error) {
	var spans []span
	for _, m := range maps {
		if m.writable() {
			r.Mapped += m.Size()
		} else if m.kernels() {
			continue
		}
		err := pages(pagemap, m, func(start, end uint64, read bool) {
			if !read {
				if m.writable() {
					r.Absent += end - start
				}
				return
			}
			sp := span{start, end, m.writable(), m.secret()}
			if k := len(spans) - 1; k >= 0 && spans[k].joins(sp) {
				spans[k].end = end
				return
			}
			spans = append(spans, sp)
		})
		if err != nil {
			return nil, err
		}
	}
	return spans, nil
}

// account enters what became of a span.
func (r *Report) account(sp span, failed []Range) {
	read := sp.end - sp.start
	for _, f := range failed {
		read -= f.Size()
	}
	switch lost := sp.end - sp.start - read; {
	case !sp.rw:
		r.Other += read
	case sp.secret:
		r.Scanned += read
		r.Refused += lost
	default:
		r.Scanned += read
		r.Missed += lost
	}
	if sp.secret {
		r.Refusals = append(r.Refusals, failed...)
	} else {
		r.Misses = append(r.Misses, failed...)
	}
}

// collect turns runs into hits, sorted by address.
func (r *Report) collect(m *matcher, found map[run]bool, maps []Mapping) {
	for f := range found {
		h := Hit{Needle: m.needles[f.needle].name, Offset: f.off, Len: f.length, Addr: f.addr, Kind: InFile}
		i, ok := slices.BinarySearchFunc(maps, f.addr, func(m Mapping, a uint64) int {
			switch {
			case m.End <= a:
				return -1
			case m.Start > a:
				return 1
			}
			return 0
		})
		if ok {
			h.Kind, h.Mapping = maps[i].Kind, maps[i]
		}
		r.Hits = append(r.Hits, h)
	}
	sortHits(r.Hits)
}

// scanner reads and searches a source in chunks that overlap by the length of
// the longest needle.
type scanner struct {
	m     *matcher
	src   io.ReaderAt
	buf   []byte
	found map[run]bool
}

func newScanner(m *matcher, src io.ReaderAt, found map[run]bool) *scanner {
	return &scanner{m: m, src: src, buf: make([]byte, chunk+2*m.longest), found: found}
}

// scan searches [start, end) and returns the pages that could not be read.
func (s *scanner) scan(start, end uint64) []Range {
	page, look := uint64(os.Getpagesize()), uint64(s.m.longest)
	var failed []Range
	for at := start; at < end; {
		lo := max(start, at-min(at, look))
		hi := min(end, at+chunk+look)
		n, err := s.src.ReadAt(s.buf[:hi-lo], int64(lo))
		got := lo + uint64(n)
		if err == nil || got >= hi {
			to := min(end, at+chunk)
			s.m.search(s.buf[:n], lo, int(at-lo), int(to-lo), s.found)
			at = to
			continue
		}
		bad := got &^ (page - 1)
		if bad > at {
			s.m.search(s.buf[:bad-lo], lo, int(at-lo), int(bad-lo), s.found)
		}
		next := min(bad+page, end)
		if k := len(failed) - 1; k >= 0 && failed[k].End == bad {
			failed[k].End = next
		} else {
			failed = append(failed, Range{bad, next})
		}
		start, at = next, next
	}
	return failed
}
