package linger

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The messages of a filesystem in user space (linux/fuse.h) that opening a file and
// closing it take.
const (
	fuseGetattr = 3
	fuseOpen    = 14
	fuseRelease = 18
	fuseFlush   = 25
	fuseInit    = 26

	fuseInHeader = 40
	fuseBuffer   = 1 << 20
)

// Unanswered returns a function that opens files each close of which waits for an
// answer that does not come before the end of the test, whatever signals do. It
// mounts a filesystem, which takes root.
func Unanswered(t *testing.T) func() int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a filesystem in user space")
	}
	daemon, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	place := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(place, nil, 0o600))
	options := "fd=" + strconv.Itoa(daemon) + ",rootmode=100600,user_id=0,group_id=0,allow_other"
	require.NoError(t, unix.Mount("fuse", place, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options))
	served := make(chan struct{})
	go func() {
		defer close(served)
		serve(daemon)
	}()
	t.Cleanup(func() { // without its daemon the filesystem answers all with an error
		require.NoError(t, unix.Unmount(place, unix.MNT_FORCE|unix.MNT_DETACH))
		<-served
		require.NoError(t, unix.Close(daemon))
	})
	return func() int {
		fd, err := unix.Open(place, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		return fd
	}
}

// serve answers everything but a flush, until the filesystem is gone.
func serve(daemon int) {
	b := make([]byte, fuseBuffer)
	for {
		n, err := unix.Read(daemon, b)
		if err == unix.EINTR || err == unix.ENOENT { // a request was taken back
			continue
		}
		if err != nil || n < fuseInHeader {
			return
		}
		switch binary.NativeEndian.Uint32(b[4:]) {
		case fuseInit:
			out := make([]byte, 64)
			copy(out, b[fuseInHeader:fuseInHeader+8])      // the version
			binary.NativeEndian.PutUint32(out[20:], 1<<16) // the longest write
			answer(daemon, b, 0, out)
		case fuseGetattr:
			out := make([]byte, 104)
			binary.NativeEndian.PutUint64(out[16:], 1)           // inode
			binary.NativeEndian.PutUint32(out[16+60:], 0o100600) // mode
			binary.NativeEndian.PutUint32(out[16+64:], 1)        // links
			answer(daemon, b, 0, out)
		case fuseOpen:
			answer(daemon, b, 0, make([]byte, 16))
		case fuseFlush:
		case fuseRelease:
			answer(daemon, b, 0, nil)
		default:
			answer(daemon, b, unix.ENOSYS, nil)
		}
	}
}

func answer(daemon int, request []byte, errno unix.Errno, body []byte) {
	out := make([]byte, 16, 16+len(body))
	binary.NativeEndian.PutUint32(out, uint32(16+len(body)))
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(errno)))
	copy(out[8:], request[8:16]) // which request
	_, _ = unix.Write(daemon, append(out, body...))
}
