// Command generate writes the test vectors of doc/SPEC.md, the same bytes every
// time. It removes vectors that are no longer made.
//
//	go run ./internal/vectors/generate [directory]
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/sealctx/sealctx/internal/vectors"
)

func main() {
	dir := filepath.FromSlash(vectors.Dir)
	if len(os.Args) == 2 {
		dir = os.Args[1]
	}
	if err := generate(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func generate(dir string) error {
	files, err := vectors.Files()
	if err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if files[filepath.Base(path)] == nil {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	fmt.Printf("%d vectors in %s\n", len(files), dir)
	return nil
}
