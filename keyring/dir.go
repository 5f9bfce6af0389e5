package keyring

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealctx/sealctx/internal/secureenv"
	"golang.org/x/sys/unix"
)

// DirVariable names the runtime directory; see [Open].
const DirVariable = "SEALCTX_DIR"

// findDir opens this user's runtime directory: the first place that exists and is on
// tmpfs. It makes the directory if need be. An unsafe directory is an error and no
// reason to look further: two processes must not end up in two places.
func findDir(o *Options) (*os.File, error) {
	if dir := secureenv.Get(DirVariable); dir != "" {
		if !filepath.IsAbs(dir) { // it would be another place in each working directory
			return nil, fmt.Errorf("%w: %s is %q and must be an absolute path", ErrNoDir, DirVariable, dir)
		}
		dir = filepath.Clean(dir) // with a slash behind it, O_NOFOLLOW would follow
		if err := vouched(filepath.Dir(dir)); err != nil {
			return nil, fmt.Errorf("%w; name another in %s", err, DirVariable)
		}
		return openDir(dir, o)
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

// candidates are the places to look, best first. A directory that a variable names
// may have a mode that suits other programs, so the ring uses a subdirectory of it.
//
// A variable counts only if its directory belongs to this user, as the XDG
// specification has it, and if no other user can replace the directory. A session's
// variables reach programs of other users, through su and sudo: a directory of root
// in a user's directory would lock that user out. A service manager may keep the
// directory that it made for a service, so RUNTIME_DIRECTORY may be root's too.
func candidates() []string {
	var dirs []string
	uid := uint32(os.Geteuid())
	first, _, _ := strings.Cut(secureenv.Get("RUNTIME_DIRECTORY"), ":")
	if believed(first, uid, 0) {
		dirs = append(dirs, filepath.Join(first, "sealctx"))
	}
	if dir := secureenv.Get("XDG_RUNTIME_DIR"); believed(dir, uid) {
		dirs = append(dirs, filepath.Join(dir, "sealctx"))
	}
	if uid == 0 {
		dirs = append(dirs, "/run/sealctx-root")
	}
	return append(dirs, fmt.Sprintf("/dev/shm/sealctx-%d", uid))
}

// openDir opens a runtime directory and makes it with mode 0700 if it is not there.
// It checks the directory by its descriptor, so that nothing can change between.
func openDir(dir string, o *Options) (*os.File, error) {
	if err := makeDir(dir, o); err != nil {
		return nil, err
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
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// makeDir makes a directory that is not there yet. It makes none where the directory
// would be refused.
func makeDir(dir string, o *Options) error {
	_, err := os.Lstat(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return nil // to open it says what is wrong
	}
	if !o.AnyFilesystem {
		var sfs unix.Statfs_t
		err = unix.Statfs(filepath.Dir(dir), &sfs)
		if err == nil && !isTmpfs(&sfs) {
			return notTmpfs(dir)
		}
	}
	if err = os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w; make it for this user, with mode 0700, or name another in %s", ErrNoDir, err, DirVariable)
	}
	return nil
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
		return notTmpfs(dir)
	}
	return nil
}

func notTmpfs(dir string) error {
	return fmt.Errorf("%w: %s is not on tmpfs, and the host key must not reach a disk; name another in %s", ErrUnsafeDir, dir, DirVariable)
}

func notOurs(dir string, st *unix.Stat_t) error {
	return fmt.Errorf("%w: %s belongs to user %d and this process runs as %d; name another in %s", ErrUnsafeDir, dir, st.Uid, os.Geteuid(), DirVariable)
}

// fit reports whether findDir is to open dir: dir, or the directory above it if dir
// does not exist, is on tmpfs. A dir that is no directory fits too, and openDir says
// what is wrong with it.
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

func onTmpfs(dir string) bool {
	var sfs unix.Statfs_t
	return unix.Statfs(dir, &sfs) == nil && isTmpfs(&sfs)
}

func isTmpfs(sfs *unix.Statfs_t) bool { return sfs.Type == unix.TMPFS_MAGIC }
