// Package secureenv reads environment variables as secure_getenv(3) does. In a
// program that runs with more rights than its caller has (setuid, setgid, file
// capabilities) the variables are the caller's, and count for nothing. All code of
// this module that is shipped reads the environment here.
package secureenv

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Get returns the value of a variable. It returns the empty string if the variable
// is not set, and in a program with more rights than its caller's: the kernel
// started it so, or its real and effective ids differ now. Safe for concurrent use.
func Get(name string) string {
	if startedPrivileged() || os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() {
		return ""
	}
	return os.Getenv(name)
}

// atSecure is the key of AT_SECURE in the auxiliary vector, getauxval(3). The kernel
// sets it for setuid and setgid programs and for those with file capabilities.
const atSecure = 23

// startedPrivileged reports whether the kernel set AT_SECURE, or does not say.
var startedPrivileged = sync.OnceValue(func() bool {
	vector, err := unix.Auxv()
	if err != nil {
		return true
	}
	for _, entry := range vector {
		if entry[0] == atSecure {
			return entry[1] != 0
		}
	}
	return true
})
