package doctor

import (
	"errors"
	"fmt"
	"io/fs"
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
	Hidden      bool // /proc does not show it here: hidepid, or another process namespace
	NoNewPrivs  bool
	Seccomp     bool   // a filter is in force
	Undumpable  bool   // neither dumped nor attached to
	DumpUnknown bool   // root's processes look the same either way
	Locked      int    // KiB of locked memory
	Limit       int    // KiB that it may lock; -1: no limit
	Policy      string // the file that its command line names
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
	status, err := os.ReadFile(dir + "/status")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		p.Hidden = true // whether the agent works, the round trip says
		return p, nil
	}
	if err == nil {
		err = p.readStatus(status)
	}
	var limits []byte
	if err == nil {
		limits, err = os.ReadFile(dir + "/limits")
	}
	if err == nil {
		err = p.readLimits(limits)
	}
	var cmdline []byte
	if err == nil {
		cmdline, err = os.ReadFile(dir + "/cmdline")
		p.Policy = policyOf(cmdline)
	}
	// What is below the directory of an undumpable process belongs to root.
	var st unix.Stat_t
	if err == nil {
		err = unix.Stat(dir+"/status", &st)
	}
	if err != nil {
		return p, fmt.Errorf("process %d, which listens at the agent's socket: %w", pid, err)
	}
	p.DumpUnknown = uid == 0
	p.Undumpable = uid != 0 && st.Uid == 0
	return p, nil
}

func (p *Process) readStatus(text []byte) (err error) {
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); name {
		case "Name":
			p.Manager = value == "systemd"
		case "NoNewPrivs":
			p.NoNewPrivs = value == "1"
		case "Seccomp":
			p.Seccomp = value == strconv.Itoa(unix.SECCOMP_MODE_FILTER)
		case "VmLck":
			p.Locked, err = strconv.Atoi(strings.TrimSuffix(value, " kB"))
		}
	}
	return err
}

// readLimits finds the line of locked memory: its soft limit, in bytes.
func (p *Process) readLimits(text []byte) error {
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, "Max locked memory")
		if !ok {
			continue
		}
		soft := strings.Fields(rest)[0]
		if soft == "unlimited" {
			p.Limit = -1
			return nil
		}
		n, err := strconv.ParseUint(soft, 10, 63)
		p.Limit = int(n >> 10)
		return err
	}
	return errors.New("no limit of locked memory is listed")
}
