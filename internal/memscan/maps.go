//go:build linux

package memscan

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Kind is what a mapping is, as far as its line in /proc/PID/maps tells.
type Kind string

// The kinds of memory in a [Hit]. Goroutine stacks, and the stacks that the
// runtime gives its threads, lie in the heap's arenas and count as such.
const (
	Arena     Kind = "Go heap arena" // a block of 64 MiB, wholly mapped: a guess
	Stack     Kind = "main stack"
	Anonymous Kind = "anonymous" // mmap, bss, C heap, the runtime's own tables
	Mapped    Kind = "file"      // data of the binary, shared memory, files
	Registers Kind = "registers" // of a stopped thread
	InFile    Kind = "dump"      // a file that File has read
)

// arenaSize is the Go runtime's heapArenaBytes on 64-bit Linux.
const arenaSize = 64 << 20

// Mapping is one line of /proc/PID/maps.
type Mapping struct {
	Start, End uint64
	Perms      string // as in the file: "rw-p"
	Name       string // path, or a name in brackets, or nothing
	Kind       Kind

	inode uint64
}

// Size returns the length of the mapping in bytes.
func (m Mapping) Size() uint64 { return m.End - m.Start }

func (m Mapping) writable() bool { return strings.HasPrefix(m.Perms, "rw") }

// anonymous means private memory that no file stands behind: what has no page
// there is zero.
func (m Mapping) anonymous() bool { return m.inode == 0 && strings.HasSuffix(m.Perms, "p") }

// secret means memory of memfd_secret, which the kernel refuses to everybody.
func (m Mapping) secret() bool { return strings.HasPrefix(m.Name, "/secretmem") }

// kernels means pages that the kernel lends to every process.
func (m Mapping) kernels() bool {
	return strings.HasPrefix(m.Name, "[vvar") || m.Name == "[vsyscall]" || m.Name == "[vdso]"
}

func (m Mapping) String() string {
	return strings.TrimSpace(fmt.Sprintf("%x-%x %s %s", m.Start, m.End, m.Perms, m.Name))
}

// readMaps reads the mappings of a process, in ascending order.
func readMaps(pid int) ([]Mapping, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	var maps []Mapping
	for line := range strings.Lines(string(text)) {
		m, err := parseMapping(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, err
		}
		maps = append(maps, m)
	}
	for i := range maps {
		maps[i].Kind = classify(maps, i)
	}
	return maps, nil
}

// parseMapping reads "start-end perms offset device inode   name".
func parseMapping(line string) (Mapping, error) {
	rest := line
	var f [5]string
	for i := range f {
		f[i], rest, _ = strings.Cut(rest, " ")
	}
	m := Mapping{Perms: f[1], Name: strings.TrimLeft(rest, " ")}
	lo, hi, _ := strings.Cut(f[0], "-")
	var errs [3]error
	m.Start, errs[0] = strconv.ParseUint(lo, 16, 64)
	m.End, errs[1] = strconv.ParseUint(hi, 16, 64)
	m.inode, errs[2] = strconv.ParseUint(f[4], 10, 64)
	for _, err := range errs {
		if err != nil || m.End < m.Start {
			return m, fmt.Errorf("memscan: cannot parse mapping %q", line)
		}
	}
	return m, nil
}

// classify guesses what a mapping is. Go heap arenas have no name where the
// kernel does not give them one; they come in aligned blocks of 64 MiB, part
// readable and writable, part still reserved.
func classify(maps []Mapping, i int) Kind {
	m := maps[i]
	switch {
	case m.Name == "[stack]":
		return Stack
	case strings.HasPrefix(m.Name, "[anon: Go: heap"):
		return Arena
	case !m.anonymous():
		return Mapped
	case m.Name != "":
		return Anonymous
	}
	first, last := i, i
	for first > 0 && maps[first-1].anonymous() && maps[first-1].End == maps[first].Start {
		first--
	}
	for last+1 < len(maps) && maps[last+1].anonymous() && maps[last].End == maps[last+1].Start {
		last++
	}
	block := m.Start &^ (arenaSize - 1)
	if maps[first].Start <= block && maps[last].End >= block+arenaSize && maps[first].Start%(4<<20) == 0 {
		return Arena
	}
	return Anonymous
}

// Bits of an entry of /proc/PID/pagemap.
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageOfFile  = 1 << 61
	pageGuard   = 1 << 58 // MADV_GUARD_INSTALL: nothing is there, and a read fails
)

// pages calls each for every run of pages of m that are alike: worth reading or
// not. In memory without a file behind it that is whether there is a page at
// all; in a file mapping that is not writable, whether the process has a page
// of its own. Everything else is worth reading.
func pages(pagemap *os.File, m Mapping, each func(start, end uint64, read bool)) error {
	private := strings.HasSuffix(m.Perms, "p")
	if !private || (m.writable() && !m.anonymous()) {
		each(m.Start, m.End, true)
		return nil
	}
	size := uint64(os.Getpagesize())
	buf := make([]byte, 64<<10)
	from, last := m.Start, false
	for at := m.Start; at < m.End; {
		n := min(uint64(len(buf)), (m.End-at)/size*8)
		if _, err := pagemap.ReadAt(buf[:n], int64(at/size*8)); err != nil {
			return fmt.Errorf("memscan: pagemap of %v: %w", m, err)
		}
		for i := uint64(0); i < n; i += 8 {
			e := binary.NativeEndian.Uint64(buf[i:])
			read := e&pageGuard == 0 &&
				(e&pageSwapped != 0 || e&pagePresent != 0 && (m.anonymous() || e&pageOfFile == 0))
			if read != last && at > from {
				each(from, at, last)
				from = at
			}
			last = read
			at += size
		}
	}
	each(from, m.End, last)
	return nil
}
