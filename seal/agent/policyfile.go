package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrPolicyFile: a user other than root and the agent's user can change what a policy
// says. The error that wraps it names the file or directory, the user or group that can
// write it, and the remedy.
var ErrPolicyFile = errors.New("agent: policy file is not to be trusted")

// maxLinks is how many symbolic links a path may go through, as for the kernel.
const maxLinks = 40

// ReadPolicy reads the policy of an agent that runs as the user uid from a file, as
// ParsePolicy has it. The file counts only if CheckPolicyFile accepts it. Errors:
// ErrPolicyFile, ErrPolicy, those of opening and reading.
func ReadPolicy(path string, uid uint32) (*Policy, error) {
	if err := CheckPolicyFile(path, uid); err != nil {
		return nil, err
	}
	// What became a pipe meanwhile would be waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkPolicyPart(path, info, uid, true); err != nil {
		return nil, err
	}
	policy, err := ParsePolicy(f)
	if err != nil {
		return nil, err
	}
	policy.path = path
	return policy, nil
}

// CheckPolicyFile returns nil if only root and the user uid can change what is read at a
// path. They own the file, each directory above it and each symbolic link on the way. The
// mode of the file and the directories lets neither the group nor others write. A
// directory with the sticky bit may be open: other users cannot replace a file in it that
// is not theirs. Otherwise it returns an error that wraps ErrPolicyFile, or an error of
// looking at a part of the path.
func CheckPolicyFile(path string, uid uint32) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	at, rest := "/", strings.Split(path, "/")
	for links := 0; ; {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		for len(rest) > 0 && (rest[0] == "" || rest[0] == ".") {
			rest = rest[1:]
		}
		last := len(rest) == 0
		if err := checkPolicyPart(at, info, uid, last); err != nil {
			return err
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
			}
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			at = filepath.Dir(at)
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		case last:
			return nil
		}
		at = filepath.Join(at, rest[0]) // ".." leads to a directory that was looked at, for links are resolved
		rest = rest[1:]
	}
}

// checkPolicyPart checks a file, or a directory or symbolic link on the way to it.
func checkPolicyPart(path string, info fs.FileInfo, uid uint32, last bool) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%w: the owner of %s is not known", ErrPolicyFile, strconv.Quote(path))
	}
	mode := info.Mode()
	link := mode&fs.ModeSymlink != 0
	switch {
	case last && mode.IsDir():
		return &fs.PathError{Op: "read", Path: path, Err: unix.EISDIR}
	case last && mode&fs.ModeNamedPipe != 0:
		return fmt.Errorf("%s is a pipe, which can be read once only; give a file, which SIGHUP has read again", strconv.Quote(path))
	case last && !link && !mode.IsRegular():
		return fmt.Errorf("%s is no regular file; give one, it may be empty", strconv.Quote(path))
	case !last && !link && !mode.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	case st.Uid != 0 && st.Uid != uid:
		return distrust(path, st, "user "+nameOfUser(st.Uid)+", to whom it belongs", "chown root")
	case link || st.Mode&0o022 == 0 || !last && st.Mode&unix.S_ISVTX != 0:
		return nil
	case st.Mode&0o002 != 0:
		return distrust(path, st, "every user", "chmod go-w")
	}
	return distrust(path, st, "group "+nameOfGroup(st.Gid), "chmod go-w")
}

// distrust says who can write what, and the command that mends it.
func distrust(path string, st *syscall.Stat_t, who, remedy string) error {
	quoted := strconv.Quote(path)
	return fmt.Errorf("%w: %s can be written by %s (mode %04o); only root and the agent's user may: %s %s",
		ErrPolicyFile, quoted, who, st.Mode&0o7777, remedy, quoted)
}

// nameOfUser and nameOfGroup are a number and, where it can be looked up, a name.
func nameOfUser(uid uint32) string {
	if n, err := readNames(); err == nil {
		return n.userText(uid)
	}
	return strconv.FormatUint(uint64(uid), 10)
}

func nameOfGroup(gid uint32) string {
	if n, err := readNames(); err == nil {
		return n.groupText(gid)
	}
	return strconv.FormatUint(uint64(gid), 10)
}
