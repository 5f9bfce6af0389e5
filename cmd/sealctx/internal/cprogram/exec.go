package cprogram

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Options is the variable in which the library finds its options (interpose/config.c).
const Options = "SEALCTX_GSS"

// Exec runs a program in place of this process, with the library in front of its own.
// It returns only if that fails.
func Exec(path string, args []string, library string, options []string) error {
	env := environment(os.Environ(), library, options)
	return fmt.Errorf("%s: %w", path, unix.Exec(path, args, env))
}

// environment adds the library and its options. What is preloaded already stays.
func environment(env []string, library string, options []string) []string {
	preload := library
	var out []string
	for _, v := range env {
		if before, ok := strings.CutPrefix(v, "LD_PRELOAD="); ok && before != "" {
			preload += ":" + before
		} else if !ok && !strings.HasPrefix(v, Options+"=") {
			out = append(out, v)
		}
	}
	return append(out, "LD_PRELOAD="+preload, Options+"="+strings.Join(options, " "))
}
