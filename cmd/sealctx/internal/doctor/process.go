package doctor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Process is what everybody may see of an agent's process.
type Process struct {
	PID         int
	UID         uint32
	Manager     bool // a service manager listens for the agent, which cannot be seen
	NoNewPrivs  bool
	Seccomp     bool // a filter is in force
	Undumpable  bool // neither dumped nor attached to
	DumpUnknown bool // root's processes look the same either way
}

// listenerOf connects to a socket and asks the kernel who listens there.
func listenerOf(path string) (*Process, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return &Process{}, err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return &Process{}, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return &Process{}, errors.Join(err, credErr)
	}
	return look(int(cred.Pid), cred.Uid)
}

// look reads what /proc shows of a process.
func look(pid int, uid uint32) (*Process, error) {
	p := &Process{PID: pid, UID: uid}
	dir := "/proc/" + strconv.Itoa(pid)
	text, err := os.ReadFile(dir + "/status")
	if err != nil {
		return p, fmt.Errorf("process %d, which listens at the agent's socket: %w", pid, err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch value = strings.TrimSpace(value); name {
		case "Name":
			p.Manager = value == "systemd"
		case "NoNewPrivs":
			p.NoNewPrivs = value == "1"
		case "Seccomp":
			p.Seccomp = value == strconv.Itoa(unix.SECCOMP_MODE_FILTER)
		}
	}
	// The kernel gives the entry of an undumpable process to root.
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return p, fmt.Errorf("process %d: %w", pid, err)
	}
	p.DumpUnknown = uid == 0
	p.Undumpable = uid != 0 && st.Uid == 0
	return p, nil
}
