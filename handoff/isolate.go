package handoff

import (
	"os"
	"os/exec"
	"syscall"
)

// Isolate makes cmd, before it is started, run in a network namespace in which
// there is nothing: connections reach it through a handoff only. Where this
// process is root, cmd gets that user and group too, and no supplementary groups.
// Where it is not, cmd keeps its own, and the kernel must allow user namespaces;
// in that of cmd all other users, root among them, are the overflow user, so that
// an agent of another user's cannot be trusted from there.
//
// A path to the program that any user can execute is /proc/self/exe.
func Isolate(cmd *exec.Cmd, uid, gid int) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	a := cmd.SysProcAttr
	a.Cloneflags |= syscall.CLONE_NEWNET
	if os.Geteuid() == 0 {
		a.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return
	}
	a.Cloneflags |= syscall.CLONE_NEWUSER // which gives the right to make the other
	uid, gid = os.Getuid(), os.Getgid()
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
}
