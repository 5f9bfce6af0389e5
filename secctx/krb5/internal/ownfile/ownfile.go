// Package ownfile opens the files that Kerberos programs believe: key tables,
// credential caches and configuration. Such a file decides in whose name a process
// acts and which servers it asks. It counts only if its rightful owner alone could
// have written it.
//
// The descriptor that is read is the one that was checked. A directory that
// others can write, such as /tmp, is no fault: the owner of the file decides.
package ownfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// ErrUntrusted means that another user owns a file, or can write it. The error
// that wraps it names the file, its owner, its mode, and the remedy.
var ErrUntrusted = errors.New("krb5: another user may have written this file")

// ErrKind means that a path leads to something that is not a regular file.
var ErrKind = errors.New("krb5: not a regular file")

// maxLinks is how many symbolic links lead to a file at most, as in the kernel.
const maxLinks = 40

// Open opens a regular file for reading, after making sure of two things. The
// file belongs to root, to the effective user or to one of the further owners.
// And neither its group nor others can write it. A symbolic link at the path's
// end must belong to one of the same users. Open never waits: a named pipe is
// refused.
//
// The error wraps ErrUntrusted, ErrKind, or is of package os. The caller closes
// the file.
func Open(path string, owners ...int) (*os.File, fs.FileInfo, error) {
	name := path
	for range maxLinks {
		f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if errors.Is(err, syscall.ELOOP) && isMagic(name) {
			f, err = os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		}
		switch {
		case err == nil:
			st, err := check(f, path, owners)
			if err != nil {
				_ = f.Close()
				return nil, nil, err
			}
			return f, st, nil
		case !errors.Is(err, syscall.ELOOP):
			return nil, nil, err
		}
		if name, err = follow(name, owners); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
}

// isMagic reports whether a path names a descriptor of this process. Such a
// link cannot be followed by its text, and only the kernel makes one.
func isMagic(path string) bool {
	return strings.HasPrefix(path, "/proc/self/fd/") || strings.HasPrefix(path, "/dev/fd/")
}

// follow returns the path that a symbolic link names.
func follow(link string, owners []int) (string, error) {
	before, err := os.Lstat(link)
	if err != nil {
		return "", err
	}
	target, err := os.Readlink(link)
	if err != nil {
		return "", err
	}
	after, err := os.Lstat(link)
	if err != nil {
		return "", err
	}
	// A link cannot be changed, only replaced: the one that was read is the one
	// whose owner is looked at.
	if !os.SameFile(before, after) {
		return "", fmt.Errorf("%w: the symbolic link %s changes while it is read", ErrUntrusted, link)
	}
	if uid, ours := owned(after, owners); !ours {
		return "", fmt.Errorf("%w: the symbolic link %s belongs to user %d, and only those of %s count: remove it or name the file itself",
			ErrUntrusted, link, uid, trusted(owners))
	}
	if !filepath.IsAbs(target) { // not filepath.Join: its Clean would cut ".." short behind another link
		target = link[:strings.LastIndexByte(link, '/')+1] + target
	}
	return target, nil
}

// check looks at the descriptor that will be read.
func check(f *os.File, path string, owners []int) (fs.FileInfo, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s", ErrKind, path)
	}
	return st, Check(st, path, owners...)
}

// Check returns an error wrapping ErrUntrusted if a user other than root, the
// effective user and the further owners owns or can write what st describes.
func Check(st fs.FileInfo, path string, owners ...int) error {
	mode := st.Mode().Perm()
	uid, ours := owned(st, owners)
	if !ours {
		return fmt.Errorf("%w: %s belongs to user %d (mode %04o), and only files of %s count: remove it, give it to one of them (chown), or allow its owner (krb5.Config.FileOwner; of a krb5.conf: kdc.New)",
			ErrUntrusted, path, uid, mode, trusted(owners))
	}
	if mode&0o022 != 0 {
		return fmt.Errorf("%w: %s of user %d can be written by others (mode %04o): take that away (chmod go-w) after a look at what it holds",
			ErrUntrusted, path, uid, mode)
	}
	return nil
}

// owned returns the owner and reports whether it counts.
func owned(st fs.FileInfo, owners []int) (uid int, ours bool) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return -1, false
	}
	uid = int(sys.Uid)
	return uid, uid == 0 || uid == os.Geteuid() || slices.Contains(owners, uid)
}

func trusted(owners []int) string {
	text := "root"
	for _, uid := range append([]int{os.Geteuid()}, owners...) {
		if uid != 0 {
			text += fmt.Sprintf(" or user %d", uid)
		}
	}
	return text
}
