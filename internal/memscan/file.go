//go:build linux

package memscan

import (
	"fmt"
	"os"
)

// File looks for the needles of s in a file, such as a core dump or a saved
// copy of a process's memory. Addresses of hits are offsets in the file. It
// returns an error if the file cannot be read to its end.
func File(path string, s *Set) ([]Hit, error) {
	m, err := newMatcher(s)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var r Report
	found := map[run]bool{}
	if failed := newScanner(m, f, found).scan(0, uint64(info.Size())); len(failed) > 0 {
		return nil, fmt.Errorf("memscan: %s: cannot read at offset %d", path, failed[0].Start)
	}
	r.collect(m, found, nil)
	return r.Hits, nil
}
