package handoff

import (
	"os"
	"os/exec"
	"syscall"
)

// Isolate makes cmd run in an empty network namespace, so that connections reach it through a
// handoff only. Call it before cmd is started.
//
// If this process is root, cmd also runs under uid and gid, without supplementary groups. If
// not, cmd keeps this process's user and runs in a user namespace, which the kernel must
// allow. All other users, root among them, are the overflow user there, so that cmd cannot
// trust an agent of another user.
//
// Any user can execute this program as /proc/self/exe.
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
