//go:build !(amd64 || arm64 || riscv64)

package memsafe

import "golang.org/x/sys/unix"

// memfdSecret does not exist on this architecture: memguard holds the secrets.
func memfdSecret() (int, error) { return -1, unix.ENOSYS }
