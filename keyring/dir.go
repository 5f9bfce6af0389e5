package keyring

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DirVariable names the runtime directory; see [Open].
const DirVariable = "SEALCTX_DIR"

// findDir returns the runtime directory of this user, made if need be: the
// first place that is there and on tmpfs. An unsafe one is an error and not a
// reason to look further: two processes must not end up in two places.
func findDir(o *Options) (*os.File, error) {
	if dir := os.Getenv(DirVariable); dir != "" {
		if !filepath.IsAbs(dir) { // it would be another place in each working directory
			return nil, fmt.Errorf("%w: %s is %q and must be an absolute path", ErrNoDir, DirVariable, dir)
		}
		return openDir(filepath.Clean(dir), o) // with a slash behind it, O_NOFOLLOW would follow
	}
	var tried []string
	for _, dir := range candidates() {
		if !o.AnyFilesystem && !fit(dir) {
			tried = append(tried, dir)
			continue
		}
		return openDir(dir, o)
	}
	return nil, fmt.Errorf("%w: no tmpfs at %s; mount one and name a directory of it in %s",
		ErrNoDir, strings.Join(tried, ", "), DirVariable)
}

// candidates are the places to look, best first. In the directories of others
// ours is a subdirectory, since theirs may have a mode that suits them.
func candidates() []string {
	var dirs []string
	if dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":"); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "sealctx"))
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) { // its specification: ignore others
		dirs = append(dirs, filepath.Join(dir, "sealctx"))
	}
	uid := os.Geteuid()
	if uid == 0 {
		dirs = append(dirs, "/run/sealctx-root")
	}
	return append(dirs, fmt.Sprintf("/dev/shm/sealctx-%d", uid))
}

// openDir opens a runtime directory, made with mode 0700 if it is not there,
// and checks what it got: by the descriptor, so that nothing can change between.
func openDir(dir string, o *Options) (*os.File, error) {
	made := os.Mkdir(dir, 0o700)
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %w; make it for this user, with mode 0700, or name another in %s", ErrNoDir, made, DirVariable)
	}
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%w: %s is not a directory; remove it, or name another in %s", ErrUnsafeDir, dir, DirVariable)
	}
	if errors.Is(err, unix.EACCES) {
		var st unix.Stat_t
		if unix.Lstat(dir, &st) == nil && int(st.Uid) != os.Geteuid() {
			return nil, notOurs(dir, &st)
		}
		return nil, fmt.Errorf("%w: %s cannot be read: make its mode 0700, or name another in %s", ErrUnsafeDir, dir, DirVariable)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoDir, dir, err)
	}
	if err := checkDir(fd, dir, o); err != nil {
		_ = unix.Close(fd)
		if made == nil {
			_ = os.Remove(dir) // it is of no use to anybody
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func checkDir(fd int, dir string, o *Options) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNoDir, dir, err)
	}
	switch {
	case int(st.Uid) != os.Geteuid():
		return notOurs(dir, &st)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%w: %s has mode %04o; make it 0700", ErrUnsafeDir, dir, st.Mode&0o7777)
	}
	if o.AnyFilesystem {
		return nil
	}
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNoDir, dir, err)
	}
	if !isTmpfs(&sfs) {
		return fmt.Errorf("%w: %s is not on tmpfs, and the host key must not reach a disk; name another in %s", ErrUnsafeDir, dir, DirVariable)
	}
	return nil
}

func notOurs(dir string, st *unix.Stat_t) error {
	return fmt.Errorf("%w: %s belongs to user %d and this process runs as %d; name another in %s", ErrUnsafeDir, dir, st.Uid, os.Geteuid(), DirVariable)
}

func onTmpfs(dir string) bool {
	var sfs unix.Statfs_t
	return unix.Statfs(dir, &sfs) == nil && isTmpfs(&sfs)
}

// fit reports whether dir is the place: it, or where it is to be made, is on
// tmpfs. So is one that is there and no directory: openDir says what is wrong.
func fit(dir string) bool {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return onTmpfs(filepath.Dir(dir))
	case err == nil && !info.IsDir():
		return true
	}
	return onTmpfs(dir)
}

func isTmpfs(sfs *unix.Statfs_t) bool { return sfs.Type == unix.TMPFS_MAGIC }
