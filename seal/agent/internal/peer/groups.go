package peer

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// firstGroups is how many groups the first call has room for; the kernel says
// how many there are if it is too few (the most is 65,536).
const firstGroups = 64

// peerGroups asks SO_PEERGROUPS, for which golang.org/x/sys has no function.
func peerGroups(fd int) ([]uint32, error) {
	for room := firstGroups; ; {
		list := make([]uint32, room)
		size := uint32(4 * room)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&list[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return list[:size/4], nil
		case errors.Is(errno, unix.ERANGE) && int(size/4) > room:
			room = int(size / 4)
		default:
			return nil, errno
		}
	}
}
