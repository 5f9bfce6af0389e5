// Package secureenv reads environment variables as secure_getenv(3) does: in a
// program that runs with more rights than whoever started it (setuid, setgid, file
// capabilities), they are somebody else's wishes and count for nothing.
package secureenv

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Get returns the value of a variable; empty where there is none, and in a program
// that the kernel has started with more rights than its caller's. Safe for
// concurrent use.
func Get(name string) string {
	if privileged() {
		return ""
	}
	return os.Getenv(name)
}

// atSecure is the key of the kernel's word in the auxiliary vector, getauxval(3).
const atSecure = 23

var privileged = sync.OnceValue(func() bool {
	vector, err := unix.Auxv()
	if err != nil { // then what the user and group ids say
		return os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid()
	}
	for _, entry := range vector {
		if entry[0] == atSecure {
			return entry[1] != 0
		}
	}
	return false
})
