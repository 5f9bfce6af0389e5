//go:build amd64 || arm64 || riscv64

package memsafe

import "golang.org/x/sys/unix"

// memfdSecret makes a descriptor of memory that only this process can read.
func memfdSecret() (int, error) { return unix.MemfdSecret(unix.O_CLOEXEC) }
