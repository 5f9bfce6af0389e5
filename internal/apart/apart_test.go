package apart

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRun(t *testing.T) {
	for _, name := range []string{"plain", "with a space and (brackets)"} {
		t.Run(name, func(t *testing.T) {
			parent := os.Getpid()
			if !Run(t, func(cmd *exec.Cmd) { PlainUser(cmd); cmd.Env = append(cmd.Env, "MARK=1") }) {
				return
			}
			if os.Getenv("MARK") != "1" || os.Geteuid() == 0 || os.Getppid() == parent {
				t.Error("not what was set up")
			}
		})
	}
}

func TestRefuse(t *testing.T) {
	if !Run(t, nil) {
		return
	}
	var us unix.Utsname
	if err := unix.Uname(&us); err != nil {
		t.Fatal(err)
	}
	Refuse(t, Call{unix.SYS_GETPRIORITY, 0, unix.PRIO_USER}, unix.EIO)
	if _, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil {
		t.Error("another value was refused:", err)
	}
	if _, err := unix.Getpriority(unix.PRIO_USER, 0); !errors.Is(err, unix.EIO) {
		t.Error("not refused:", err)
	}
	RefuseMemfdSecret(t)
	if _, err := unix.MemfdSecret(unix.O_CLOEXEC); !errors.Is(err, unix.ENOSYS) {
		t.Error("not refused:", err)
	}
}
