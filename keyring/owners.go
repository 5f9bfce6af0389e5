package keyring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks bounds the symbolic links of a path, as the kernel does.
const maxLinks = 40

// believed reports whether an absolute path names a directory of one of owners that
// no other user can put another directory in the place of.
func believed(dir string, owners ...uint32) bool {
	if !filepath.IsAbs(dir) { // the XDG specification ignores relative paths
		return false
	}
	var st unix.Stat_t
	return vouched(dir) == nil && unix.Stat(dir, &st) == nil && slices.Contains(owners, st.Uid)
}

// vouched returns an error that wraps ErrUnsafeDir if a user besides root and this
// process's user decides which directory an absolute path leads to. Each directory
// and each symbolic link on the way must belong to one of the two. No directory on
// the way may be writable by others, unless it is sticky: then only the owner of an
// entry can replace it. The error is ErrNoDir if there is no such directory.
func vouched(path string) error {
	at, rest, links := "/", filepath.Clean(path), 0
	for {
		st, err := vouchedEntry(at)
		if err != nil {
			return err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			if st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
				return fmt.Errorf("%w: others can write %s (mode %04o); take that away (chmod go-w)", ErrUnsafeDir, at, st.Mode&0o7777)
			}
		case unix.S_IFLNK:
			target, err := os.Readlink(at)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrNoDir, err)
			}
			if links++; links > maxLinks {
				return fmt.Errorf("%w: %s: too many symbolic links", ErrNoDir, path)
			}
			if at = filepath.Dir(at); filepath.IsAbs(target) {
				at = "/"
			}
			rest = target + "/" + rest
		default:
			return fmt.Errorf("%w: %s is not a directory", ErrUnsafeDir, at)
		}
		var name string
		for name == "" || name == "." {
			if rest == "" {
				return nil
			}
			name, rest, _ = strings.Cut(rest, "/")
		}
		at = filepath.Join(at, name) // "at" has no link in it, so that ".." is what the kernel makes of it
	}
}

// vouchedEntry is lstat, and an error unless root or this process's user owns the
// file.
func vouchedEntry(path string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoDir, path, err)
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) && !(st.Uid == overflowUser && inUserNamespace()) {
		return nil, fmt.Errorf("%w: %s belongs to user %d, who can put another directory there", ErrUnsafeDir, path, st.Uid)
	}
	return &st, nil
}

// overflowUser is whom files of users belong to that this user namespace does not
// have. They include root, outside.
const overflowUser = 65534

// inUserNamespace reports whether this process is in a user namespace other than the
// host's first, in which every user is mapped to itself.
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	if errors.Is(err, os.ErrNotExist) { // a kernel without user namespaces
		return false
	}
	return err != nil || !slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
}
