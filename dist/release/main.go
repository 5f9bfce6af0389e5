// Release builds what is published, into one directory: packages for Debian and for RPM
// systems, an image, a bill of materials, provenance and checksums.
//
//	go run . [-version 0.1.0] [-arch amd64,arm64] -out DIR
//
// Two runs of one commit write the same bytes, whatever the directory, the user and the
// module cache are: every time is that of the commit. It needs Go, git, make and a C
// compiler for each architecture, aarch64-linux-gnu-gcc for arm64.
//
//	main.go     the steps
//	build.go    programs and the library for C programs
//	package.go  deb and rpm
//	image.go    the OCI image
//	record.go   bill of materials, provenance, checksums
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A release is what all steps share.
type release struct {
	version string
	commit  string
	time    time.Time // of the commit
	source  string    // the repository
	out     string
	work    string // where intermediate files lie
	arches  []string
}

func main() {
	r := release{}
	arches := flag.String("arch", "amd64,arm64", "architectures")
	flag.StringVar(&r.version, "version", "0.1.0", "the version, without v")
	flag.StringVar(&r.out, "out", "", "where to write")
	dirty := flag.Bool("dirty", false, "allow uncommitted changes, for a trial")
	flag.Parse()
	r.arches = strings.Split(*arches, ",")
	if err := r.run(*dirty); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func (r *release) run(dirty bool) error {
	if r.out == "" {
		return errors.New("-out is missing")
	}
	if err := r.prepare(dirty); err != nil {
		return err
	}
	defer os.RemoveAll(r.work)
	for _, arch := range r.arches {
		if err := r.build(arch); err != nil {
			return fmt.Errorf("building for %s: %w", arch, err)
		}
	}
	if err := r.documents(); err != nil {
		return err
	}
	for _, arch := range r.arches {
		if err := r.packages(arch); err != nil {
			return fmt.Errorf("packages for %s: %w", arch, err)
		}
		if err := r.materials(arch); err != nil {
			return err
		}
	}
	if err := r.image(); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if err := r.provenance(); err != nil {
		return err
	}
	return r.checksums()
}

// prepare finds the commit and makes the directories.
func (r *release) prepare(dirty bool) (err error) {
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if r.source, err = output(".", "git", "rev-parse", "--show-toplevel"); err != nil {
		return err
	}
	status, err := output(r.source, "git", "status", "--porcelain")
	if err != nil {
		return err
	}
	if status != "" && !dirty {
		return errors.New("the work tree has changes that are not committed")
	}
	if r.commit, err = output(r.source, "git", "rev-parse", "HEAD"); err != nil {
		return err
	}
	seconds, err := output(r.source, "git", "log", "-1", "--format=%ct")
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return err
	}
	r.time = time.Unix(n, 0).UTC()
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	r.work, err = os.MkdirTemp("", "release-")
	return err
}

// path is an intermediate file.
func (r *release) path(parts ...string) string {
	return filepath.Join(append([]string{r.work}, parts...)...)
}

func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

func run(dir string, env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}
