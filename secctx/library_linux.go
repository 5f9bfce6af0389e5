package secctx

import (
	"debug/elf"
	"errors"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The libraries that this package asks for, by soname or by file name.
var (
	// gssLibrary matches implementations of GSS-API, up to the number of their
	// binary interface: libgssapi_krb5.so.2 is MIT's, libgssapi.so.3 Heimdal's.
	gssLibrary = regexp.MustCompile(`^libgss(?:api[\w-]*|glue)?\.so(?:\.\d+)?`)

	// sealingLibrary matches the library that seals the tokens of C programs.
	sealingLibrary = regexp.MustCompile(`^libsealctx-gss\.so`)
)

// gssImports are the functions whose origin tells which implementation a program
// is linked with.
var gssImports = []string{"gss_export_sec_context", "gss_import_sec_context"}

// A mapping is a line of /proc/self/maps that names a file.
type mapping struct {
	start, end uint64
	executable bool
	inode      uint64
	file       string // as the kernel writes it
}

// parseMappings reads the text of /proc/self/maps (proc(5)).
func parseMappings(text string) (all []mapping) {
	for line := range strings.Lines(text) {
		// Address range, permissions, offset, device, inode, and a name that may
		// have spaces in it.
		fields := strings.Fields(line)
		at := strings.IndexByte(line, '/')
		if len(fields) < 6 || at < 0 {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		m := mapping{executable: strings.Contains(fields[1], "x"), file: strings.TrimSuffix(line[at:], "\n")}
		m.start, _ = strconv.ParseUint(from, 16, 64)
		m.end, _ = strconv.ParseUint(to, 16, 64)
		m.inode, _ = strconv.ParseUint(fields[4], 10, 64)
		all = append(all, m)
	}
	return all
}

const deletedSuffix = " (deleted)"

// names returns the names of the mapped file: its soname if it is a library that can be
// read, and its file name.
func (m *mapping) names() []string {
	base := strings.TrimPrefix(path.Base(strings.TrimSuffix(m.file, deletedSuffix)), "memfd:")
	names := []string{base}
	if !m.executable && !strings.Contains(base, ".so") || strings.HasSuffix(m.file, deletedSuffix) {
		return names
	}
	f, err := os.Open(m.file)
	if err != nil {
		return names
	}
	defer f.Close()
	// After a chroot the name may be another file's.
	if info, err := f.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Ino != m.inode {
		return names
	}
	object, err := elf.NewFile(f)
	if err != nil {
		return names
	}
	soname, _ := object.DynString(elf.DT_SONAME)
	return append(soname, names...)
}

// libraries are the mapped files, once each.
type libraries struct {
	mappings []mapping
	names    [][]string
}

// loaded returns what this process has mapped now.
func loaded() (*libraries, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	l := &libraries{mappings: parseMappings(string(maps))}
	seen := map[string]bool{}
	for i := range l.mappings {
		m := &l.mappings[i]
		if key := m.file + strconv.FormatBool(m.executable); !seen[key] {
			seen[key] = true
			l.names = append(l.names, m.names())
		}
	}
	return l, nil
}

// matching returns the distinct names that match a pattern, one for each file.
func (l *libraries) matching(pattern *regexp.Regexp) (found []string) {
	for _, names := range l.names {
		for _, name := range names {
			if hit := pattern.FindString(name); hit != "" {
				found = append(found, hit)
				break
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// linked returns the GSS-API library that the object with this package's code is
// linked with, or "" if the object does not say. The linker writes beside each
// imported function the library that it found the function in, and the loader
// takes no other version of it.
func (l *libraries) linked() string {
	file := l.objectOf(uint64(reflect.ValueOf(loaded).Pointer()))
	if exe, err := os.Readlink("/proc/self/exe"); err == nil && exe == file {
		file = "/proc/self/exe" // which stays when the file is replaced
	}
	object, err := elf.Open(file)
	if err != nil {
		return ""
	}
	defer object.Close()
	symbols, err := object.ImportedSymbols()
	if err != nil {
		return ""
	}
	return origin(symbols)
}

// origin returns the library that all of gssImports come from, or "".
func origin(symbols []elf.ImportedSymbol) string {
	var found []string
	for _, s := range symbols {
		if slices.Contains(gssImports, s.Name) {
			found = append(found, s.Library)
		}
	}
	slices.Sort(found)
	if found = slices.Compact(found); len(found) != 1 {
		return ""
	}
	return found[0]
}

// objectOf returns the file that is mapped at an address.
func (l *libraries) objectOf(address uint64) string {
	for _, m := range l.mappings {
		if m.start <= address && address < m.end {
			return m.file
		}
	}
	return ""
}

// sealedBelow returns an error if this process has the library loaded that seals
// the tokens of C programs. A context that secctx exports over it would be sealed
// twice, and the token that secctx opens would be refused below.
func sealedBelow() error {
	l, err := loaded()
	if err != nil {
		return nil // unknown; then the format is unknown too
	}
	if len(l.matching(sealingLibrary)) > 0 {
		return errSealedBelow
	}
	return nil
}

// gssLibraries returns the GSS-API library that this program is linked with, if it
// says so, and all that the process has loaded.
func gssLibraries() (linked string, all []string, err error) {
	l, err := loaded()
	if err != nil {
		return "", nil, errors.Join(errors.New("the loaded libraries cannot be listed"), err)
	}
	return l.linked(), l.matching(gssLibrary), nil
}
