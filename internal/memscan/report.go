//go:build linux

package memscan

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
)

// MinCoverage is the share of the readable and writable memory that a scan must
// have read for its word to count.
const MinCoverage = 0.95

// Range is a stretch of addresses.
type Range struct{ Start, End uint64 }

// Size returns the length of the range in bytes.
func (r Range) Size() uint64 { return r.End - r.Start }

// Hit is one place where 16 or more bytes of a needle stand.
type Hit struct {
	Needle  string
	Offset  int    // of the first byte found, in the needle
	Len     int    // how many bytes in a row
	Addr    uint64 // in the target; in the file, for File; in the saved area, for registers
	Kind    Kind
	Mapping Mapping // zero for registers and files
	Task    int     // thread id, for registers
}

// Page returns the address of the page in which the hit begins.
func (h Hit) Page() uint64 { return h.Addr &^ uint64(os.Getpagesize()-1) }

func (h Hit) String() string {
	where := h.Mapping.String()
	if h.Kind == Registers {
		where = fmt.Sprintf("thread %d", h.Task)
	}
	return fmt.Sprintf("%s[%d:%d] at %#x, %s %s", h.Needle, h.Offset, h.Offset+h.Len, h.Addr, h.Kind, where)
}

// Report is what a scan saw. All numbers are bytes. It holds no byte of a
// needle and may be printed.
//
// Mapped = Scanned + Absent + Refused + Missed.
type Report struct {
	PID int

	Mapped  uint64 // readable and writable, by the sum of /proc/PID/maps
	Scanned uint64 // of that: read and searched
	Absent  uint64 // of that: no page there, never touched or given back; reads as zero
	Refused uint64 // of that: memfd_secret, which the kernel lets nobody read
	Missed  uint64 // of that: could not be read for another reason
	Other   uint64 // not writable (PROT_NONE, the process's own copies of file pages): searched

	Refusals []Range // what Refused counts
	Misses   []Range // what Missed counts, and memory like Other that could not be read

	Threads      int   // whose registers were searched
	RegistersErr error // why not, if none were: ptrace was refused

	Hits []Hit // sorted by address, registers last
}

// Coverage returns which part of the readable and writable memory that holds
// anything was read: Scanned / (Mapped - Absent - Refused). Absent memory is left
// out of both sides so that large untouched reservations cannot hide a gap.
func (r *Report) Coverage() float64 {
	there := r.Mapped - r.Absent - r.Refused
	if there == 0 {
		return 0
	}
	return float64(r.Scanned) / float64(there)
}

// Allow excuses hits of one needle that lie wholly within one page: the page
// where a key is meant to be.
type Allow struct {
	Needle string // the exact name; empty means every needle
	Page   uint64 // address of the page's first byte
}

func (a Allow) covers(h Hit) bool {
	end := a.Page + uint64(os.Getpagesize())
	return (a.Needle == "" || a.Needle == h.Needle) && h.Kind != Registers &&
		h.Addr >= a.Page && h.Addr+uint64(h.Len) <= end
}

// Except returns the hits that no allowance covers.
func (r *Report) Except(allowed ...Allow) []Hit {
	return r.Where(func(h Hit) bool {
		return !slices.ContainsFunc(allowed, func(a Allow) bool { return a.covers(h) })
	})
}

// InMemory returns the hits that are not in registers.
func (r *Report) InMemory() []Hit {
	return r.Where(func(h Hit) bool { return h.Kind != Registers })
}

// Of returns the hits of the needles with one of these names.
func (r *Report) Of(names ...string) []Hit {
	return r.Where(func(h Hit) bool { return slices.Contains(names, h.Needle) })
}

// Where returns the hits that f picks.
func (r *Report) Where(f func(Hit) bool) []Hit {
	var hits []Hit
	for _, h := range r.Hits {
		if f(h) {
			hits = append(hits, h)
		}
	}
	return hits
}

// String sums the report up: coverage, then hits by needle, kind and page.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "process %d: %s readable and writable, %s scanned (%.2f %% of what holds anything), "+
		"%s absent, %s refused by the kernel, %s missed; %s other; registers of %d threads",
		r.PID, kib(r.Mapped), kib(r.Scanned), 100*r.Coverage(), kib(r.Absent), kib(r.Refused), kib(r.Missed),
		kib(r.Other), r.Threads)
	if r.RegistersErr != nil {
		fmt.Fprintf(&b, " (%v)", r.RegistersErr)
	}
	for _, x := range r.Refusals {
		fmt.Fprintf(&b, "\n  refused %x-%x", x.Start, x.End)
	}
	for _, x := range r.Misses {
		fmt.Fprintf(&b, "\n  missed %x-%x", x.Start, x.End)
	}
	type group struct {
		needle string
		kind   Kind
		page   uint64
		where  string
	}
	count := map[group]int{}
	var order []group
	for _, h := range r.Hits {
		g := group{h.Needle, h.Kind, h.Page(), h.Mapping.String()}
		if count[g]++; count[g] == 1 {
			order = append(order, g)
		}
	}
	slices.SortStableFunc(order, func(a, b group) int { return cmp.Compare(a.needle, b.needle) })
	fmt.Fprintf(&b, "\n%d hits", len(r.Hits))
	for _, g := range order {
		fmt.Fprintf(&b, "\n  %d of %s in page %#x of %s %s", count[g], g.needle, g.page, g.kind, g.where)
	}
	return b.String()
}

func kib(n uint64) string { return fmt.Sprintf("%d KiB", n>>10) }

func sortHits(hits []Hit) {
	slices.SortFunc(hits, func(a, b Hit) int {
		return cmp.Or(cmp.Compare(a.Task, b.Task), cmp.Compare(a.Addr, b.Addr),
			cmp.Compare(a.Needle, b.Needle), cmp.Compare(a.Offset, b.Offset))
	})
}
