//go:build !amd64 && !arm64 && !riscv64

package keyring

import "golang.org/x/sys/unix"

// fstat is fstat(2). Elsewhere the call has another name, or another struct.
func fstat(fd int, st *unix.Stat_t) error { return unix.Fstat(fd, st) }
