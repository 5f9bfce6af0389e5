// Package listen listens at the path of a Unix socket, also after a process that
// could not remove its own.
package listen

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Unix listens at a path. It replaces a socket that an earlier Unix made there and at
// which no process listens any more. Any other file, and any other socket, stays: the
// error wraps EADDRINUSE and says what to do. Closing the listener removes the path.
//
// A refused connection alone does not show that a socket was left behind: the process
// that made it may be about to listen. So a file beside the socket, with ".lock" behind
// its name, says which socket was listened at. It is locked from before the socket is
// made until then, which keeps a second process from removing the first one's new
// socket. The file stays.
func Unix(path string) (*net.UnixListener, error) {
	lock, err := take(path + ".lock")
	if err != nil {
		return nil, err
	}
	defer lock.Close() // and gives the lock back
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := removeLeft(path, lock); err != nil {
			return nil, err
		}
		l, err = net.ListenUnix("unix", addr)
	}
	if err != nil {
		return nil, err
	}
	if err := remember(path, lock); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// take opens a lock file of this process's user and locks it.
func take(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	lock := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(&os.PathError{Op: "stat", Path: name, Err: err}, lock.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return nil, errors.Join(fmt.Errorf("%s is not a file that only this user (%d) can write: owner %d, mode %04o; remove it",
			name, os.Geteuid(), st.Uid, st.Mode&0o7777), lock.Close())
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w: another process begins to listen there", unix.EADDRINUSE)
		}
		return nil, errors.Join(&os.PathError{Op: "lock", Path: name, Err: err}, lock.Close())
	}
	return lock, nil
}

// identity tells the socket at a path from every other file of its time.
func identity(path string) (id string, isSocket bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	made := st.Mtim // which a change of owner or mode leaves alone
	return fmt.Sprintf("%d:%d %d.%09d\n", st.Dev, st.Ino, made.Sec, made.Nsec), st.Mode&unix.S_IFMT == unix.S_IFSOCK, nil
}

// remember writes down that the socket at path was listened at.
func remember(path string, lock *os.File) error {
	id, _, err := identity(path)
	if err == nil {
		err = lock.Truncate(0)
	}
	if err == nil {
		_, err = lock.WriteAt([]byte(id), 0)
	}
	return err
}

// removeLeft removes the socket at path if it is the one that was listened at and no
// process listens there any more. Nobody can listen at it again: to do so makes a new
// one.
func removeLeft(path string, lock *os.File) error {
	id, isSocket, err := identity(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !isSocket {
		return fmt.Errorf("%w: %s is there and is no socket; remove it, or choose another path", unix.EADDRINUSE, path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("%w: a process listens at %s; end it, or choose another path", unix.EADDRINUSE, path), c.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("%w: whether a process listens at %s is not known: %w", unix.EADDRINUSE, path, err)
	}
	known := make([]byte, len(id)+1)
	n, _ := lock.ReadAt(known, 0) // an error is a file that says nothing
	if string(known[:n]) != id {
		return fmt.Errorf("%w: %s is a socket that another program made, and may be about to listen at; if none uses it (ss -xap src %s), remove it",
			unix.EADDRINUSE, path, path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
