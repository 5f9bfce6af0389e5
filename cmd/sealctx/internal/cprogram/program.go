package cprogram

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Library is where the package installs the library.
const Library = "/usr/lib/sealctx/libsealctx-gss.so.1"

// ErrUnprotected is returned for a program that the library cannot protect. What it
// wraps says why.
var ErrUnprotected = errors.New("libsealctx-gss cannot protect this program")

func unprotected(path, format string, args ...any) error {
	return fmt.Errorf("%w: %s %s", ErrUnprotected, path, fmt.Sprintf(format, args...))
}

// Check returns nil if the library will be in front of the GSS-API library of a
// program, which is found as a shell finds it. later says that the program, an
// interpreter for instance, loads its GSS-API library while it runs. Check runs no code
// of the program's.
func Check(program, library string, later bool) (path string, err error) {
	path, err = exec.LookPath(program)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	lib, err := checkLibrary(library)
	if err != nil {
		return "", err
	}
	binary := path
	for range maxInterpreters {
		next, err := interpreter(binary)
		if err != nil {
			return "", err
		}
		if next == "" {
			return path, checkBinary(binary, library, lib, later)
		}
		binary = next
	}
	return "", unprotected(path, "is a script whose interpreter is a script, and so on")
}

// maxInterpreters is how many scripts the kernel follows.
const maxInterpreters = 5

// checkLibrary makes sure that only root or this user can write the library. A user who
// can write it can run code in the program.
func checkLibrary(library string) (*elf.File, error) {
	info, err := os.Stat(library)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there: install the package sealctx-gss, or name the library with --library", library)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(library, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: library, Err: err}
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s can be written by users other than root and this one (owner %d, mode %04o): chown root, chmod go-w", library, st.Uid, info.Mode().Perm())
	}
	return elf.Open(library)
}

// interpreter returns the interpreter of a script, or "" for a binary.
func interpreter(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	line, err := bufio.NewReaderSize(f, 256).ReadSlice('\n')
	if err != nil && len(line) == 0 {
		return "", unprotected(path, "is empty")
	}
	text, ok := strings.CutPrefix(string(line), "#!")
	if !ok {
		return "", nil
	}
	words := strings.Fields(text)
	if len(words) == 0 {
		return "", unprotected(path, "is a script without an interpreter")
	}
	if filepath.Base(words[0]) == "env" && len(words) == 2 { // the usual #!/usr/bin/env python3
		return exec.LookPath(words[1])
	}
	return words[0], nil
}

func checkBinary(path, library string, lib *elf.File, later bool) error {
	if why := privileged(path); why != "" {
		return unprotected(path, "is %s: the dynamic linker ignores LD_PRELOAD for it", why)
	}
	f, err := elf.Open(path)
	if err != nil {
		return unprotected(path, "is no ELF program: %v", err)
	}
	defer f.Close()
	if f.Machine != lib.Machine || f.Class != lib.Class {
		return unprotected(path, "is for %v, and %s for %v", f.Machine, library, lib.Machine)
	}
	loader := ""
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err != nil {
				return unprotected(path, "is no ELF program: %v", err)
			}
			loader = strings.TrimRight(string(name), "\x00")
		}
	}
	if loader == "" {
		return unprotected(path, "is linked statically")
	}
	if later {
		return nil
	}
	// The loader lists what it would map. It runs nothing of the program.
	out, err := exec.Command(loader, "--list", path).Output()
	if err != nil {
		return unprotected(path, "cannot be examined: %s --list: %v", loader, err)
	}
	if !strings.Contains(string(out), "libgssapi") {
		return unprotected(path, "is not linked with a GSS-API library. If it loads one while it runs, as an interpreter does, say so with --later")
	}
	return nil
}

// privileged says what makes the kernel start a program in secure mode.
func privileged(path string) string {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return ""
	case info.Mode()&fs.ModeSetuid != 0:
		return "setuid"
	case info.Mode()&fs.ModeSetgid != 0:
		return "setgid"
	}
	if n, err := unix.Getxattr(path, "security.capability", nil); err == nil && n > 0 {
		return "given capabilities (getcap)"
	}
	return ""
}
