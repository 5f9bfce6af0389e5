package main

import (
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
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
		if err := compress(page, page+".gz"); err != nil {
			return err
		}
	}
	if err := compress(filepath.Join(r.source, "CHANGELOG.md"), r.path("changelog.gz")); err != nil {
		return err
	}
	return r.licences(host)
}

// compress writes no name and no time into the file.
func compress(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(to, b.Bytes(), 0o644)
}

// licences writes the file copyright: this project's licence, and each dependency's.
func (r *release) licences(binary string) error {
	var b strings.Builder
	fmt.Fprintf(&b, `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: sealctx
Source: https://github.com/sealctx/sealctx

Files: *
Copyright: the sealctx authors
License: Apache-2.0
 On Debian systems, the complete text of the Apache License 2.0 can be found in
 "/usr/share/common-licenses/Apache-2.0".

The command contains these modules, each under the licence below its name.
`)
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
		var files []string
		for _, pattern := range []string{"LICEN[CS]E*", "COPYING*"} {
			found, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				return err
			}
			files = append(files, found...)
		}
		if len(files) == 0 {
			return fmt.Errorf("%s has no licence file", m.Path)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "\n==== %s %s: %s\n\n%s", m.Path, m.Version, filepath.Base(file), text)
		}
	}
	return os.WriteFile(r.path("copyright"), []byte(b.String()), 0o644)
}
