package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path of a socket: the kernel's field, less a zero.
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// checkPath makes sure that only root, this process's user and the agent's user could
// have put the file at a socket's path there. It returns the agent's user: the owner of
// the socket's directory. Every directory above must belong to root or to this process's
// user, and no other user may write it. A sticky directory may be open, if the next part
// of the path belongs to one of the two: then no other user can replace that part.
func checkPath(path string) (owner uint32, err error) {
	return checkPathFor(path, uint32(os.Geteuid()))
}

// checkPathFor is checkPath in a process of the user self.
func checkPathFor(path string, self uint32) (owner uint32, err error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return 0, fmt.Errorf("%w: %q is not an absolute path in its shortest form; give the socket's path so", ErrImpostor, path)
	}
	if len(path) > maxPath {
		return 0, unavailable(fmt.Errorf("%s: a socket's path has at most %d bytes", path, maxPath))
	}
	dirs := parents(path)
	vouched := true // in the directories above no other user can replace this one
	for i, dir := range dirs {
		st, err := statDir(dir)
		if err != nil {
			return 0, err
		}
		last := i == len(dirs)-1
		ours := st.Uid == 0 || st.Uid == self
		open := st.Mode&0o022 != 0
		switch {
		case !ours && !last:
			return 0, fmt.Errorf("%w: %s belongs to user %d; all above the socket's directory must be root's", ErrImpostor, dir, st.Uid)
		case !ours && !vouched:
			return 0, fmt.Errorf("%w: %s belongs to user %d, and every user could have made it there; put it below a directory that only root can write",
				ErrImpostor, dir, st.Uid)
		case open && last:
			return 0, fmt.Errorf("%w: %s can be written by others (mode %04o); take that away (chmod go-w), or use a directory in it", ErrImpostor, dir, st.Mode&0o7777)
		case open && st.Mode&unix.S_ISVTX == 0:
			return 0, fmt.Errorf("%w: %s can be written by others and is not sticky (mode %04o); take that away (chmod go-w)",
				ErrImpostor, dir, st.Mode&0o7777)
		}
		vouched = !open
		owner = st.Uid
	}
	return owner, nil
}

// parents returns the directories that a path goes through, from the root on.
func parents(path string) []string {
	dirs := []string{"/"}
	for i, c := range path[1:] {
		if c == '/' {
			dirs = append(dirs, path[:i+1])
		}
	}
	return dirs
}

func statDir(dir string) (*syscall.Stat_t, error) {
	info, err := os.Lstat(dir)
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return nil, fmt.Errorf("%w: %s is not a directory; give the path without symbolic links", ErrImpostor, strings.TrimSuffix(dir, "/"))
	}
	return st, nil
}

// checkAgent makes sure that the process that listens runs as root, as a service manager
// that holds the socket does, or as the owner of the socket's directory.
func checkAgent(raw syscall.RawConn, owner uint32) error {
	var cred *unix.Ucred
	var err error
	if ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); ctlErr != nil {
		return unavailable(ctlErr)
	}
	if err != nil {
		return unavailable(err)
	}
	if cred.Uid != 0 && cred.Uid != owner {
		return fmt.Errorf("%w: user %d listens in a directory of user %d; run the agent as the owner of the directory, or give the directory to the user of the agent", ErrImpostor, cred.Uid, owner)
	}
	return nil
}
