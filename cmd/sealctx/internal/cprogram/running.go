package cprogram

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// A Process has a GSS-API library mapped.
type Process struct {
	PID       int    `json:"pid"`
	Program   string `json:"program"`
	Library   string `json:"library"`   // the GSS-API library
	Protected bool   `json:"protected"` // libsealctx-gss is mapped too
}

var (
	gssLibrary = regexp.MustCompile(`/libgssapi(_krb5)?\.so\.\d+[.\d]*$`)
	ownLibrary = regexp.MustCompile(`/libsealctx-gss[^/]*\.so[.\d]*$`)
)

// Running returns the processes that have a GSS-API library mapped, of those that this
// user may examine. hidden counts the others.
func Running() (list []Process, hidden int, err error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, 0, err
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		p, ok := Examine(pid)
		switch {
		case !ok && os.Geteuid() != 0:
			hidden++
		case p.Library != "":
			list = append(list, p)
		}
	}
	return list, hidden, nil
}

// Examine looks at one process. ok is false if its maps cannot be read: it has ended,
// or belongs to another user.
func Examine(pid int) (p Process, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		return Process{PID: pid}, false
	}
	p = Process{PID: pid}
	p.Program, _ = os.Readlink(dir + "/exe") // a kernel thread has none, and no maps either
	for line := range strings.Lines(string(maps)) {
		_, path, found := strings.Cut(line, "/")
		path = strings.TrimSuffix(strings.TrimSpace("/"+path), " (deleted)")
		switch {
		case !found:
		case gssLibrary.MatchString(path):
			p.Library = path
		case ownLibrary.MatchString(path):
			p.Protected = true
		}
	}
	return p, true
}
