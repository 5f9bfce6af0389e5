package main

import (
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sort"
	"strings"
)

// compilers are the C compilers, by Go's name of the architecture.
var compilers = map[string]string{"amd64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}

// build makes the command and the library for C programs.
func (r *release) build(arch string) error {
	if err := r.command(arch, r.path(arch, "sealctx")); err != nil {
		return err
	}
	cc, ok := compilers[arch]
	if !ok {
		return fmt.Errorf("no C compiler is known for it")
	}
	// No path of this machine, and no debugging information, which would have one.
	return run(filepath.Join(r.source, "interpose"), nil, "make", "-s", "-B", "CC="+cc, "CFLAGS=-O2 -g0",
		"LDFLAGS=-s -Wl,--build-id=none", "LIBRARY="+r.path(arch, "libsealctx-gss.so.1"))
}

func (r *release) command(arch, out string) error {
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, "GOEXPERIMENT=runtimesecret", "GOFLAGS=-mod=readonly", "GOAMD64=v1", "GOARM64=v8.0"}
	return run(r.source, env, "go", "build", "-trimpath", "-buildvcs=true", "-ldflags=-s -w -buildid=", "-o", out, "./cmd/sealctx")
}

// documents writes man pages, completion, changelog and licences, the same for every
// architecture.
func (r *release) documents() error {
	host := r.path("host", "sealctx")
	if err := r.command(runtime.GOARCH, host); err != nil {
		return err
	}
	share := r.path("share")
	if err := run(r.work, nil, host, "manual", "--date", r.time.Format("2006-01-02"), share); err != nil {
		return err
	}
	pages, err := filepath.Glob(filepath.Join(share, "man/man1/*.1"))
	if err != nil {
		return err
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		if err := os.WriteFile(page+".gz", compressed(text), 0o644); err != nil {
			return err
		}
	}
	changes, err := os.ReadFile(filepath.Join(r.source, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path("changelog.gz"), compressed(changes), 0o644); err != nil {
		return err
	}
	for _, name := range []string{"sealctx", "sealctx-gss"} {
		entry := fmt.Sprintf("%s (%s-1) unstable; urgency=medium\n\n  * Release %s: see changelog.gz.\n\n -- %s  %s\n",
			name, r.version, r.version, maintainer, r.time.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
		if err := os.WriteFile(r.path(name+".Debian.gz"), compressed([]byte(entry)), 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(r.path("copyright"), []byte(copyright), 0o644); err != nil {
		return err
	}
	return r.licences(host)
}

// compressed holds no name and no time.
func compressed(text []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is right
	_, _ = w.Write(text)                                  // a buffer takes all
	_ = w.Close()
	return b.Bytes()
}

const copyright = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: sealctx
Source: https://github.com/sealctx/sealctx
Comment: the command contains other modules. Their names, versions and licences
 are in /usr/share/doc/sealctx/modules.gz.

Files: *
Copyright: the sealctx authors
License: Apache-2.0
 On Debian systems, the complete text of the Apache License 2.0 can be found in
 "/usr/share/common-licenses/Apache-2.0".
`

// licences writes each module of the command, with its licence.
func (r *release) licences(binary string) error {
	var b strings.Builder
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	sort.Slice(info.Deps, func(i, j int) bool { return info.Deps[i].Path < info.Deps[j].Path })
	for _, m := range info.Deps {
		dir, err := output(r.source, "go", "list", "-m", "-f", "{{.Dir}}", m.Path)
		if err != nil {
			return err
		}
		files, err := licenceFiles(dir)
		if err != nil {
			return err
		}
		if len(files) == 0 {
			return fmt.Errorf("%s has no licence file", m.Path)
		}
		for _, file := range files {
			text, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "\n==== %s %s: %s\n\n%s", m.Path, m.Version, file, text)
		}
	}
	return os.WriteFile(r.path("modules.gz"), compressed([]byte(b.String())), 0o644)
}

var licenceName = regexp.MustCompile(`(?i)^(licen[cs]e|copying)`)

// licenceFiles are the names of the files in a module's directory that hold a licence.
func licenceFiles(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && licenceName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
