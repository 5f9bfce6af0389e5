package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/pidfd"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// ErrUnknown is returned for a peer that the kernel cannot name here: its user
// is not mapped into our user namespace, or its process is not in our process
// namespace.
var ErrUnknown = errors.New("peer: not known in this namespace")

// A Namespace is what the numbers of peers mean here.
type Namespace struct {
	overflowUID uint32
	overflowGID uint32
}

// NewNamespace reads which numbers stand for what cannot be mapped.
func NewNamespace() (*Namespace, error) {
	uid, err := readID("/proc/sys/kernel/overflowuid")
	if err != nil {
		return nil, err
	}
	gid, err := readID("/proc/sys/kernel/overflowgid")
	if err != nil {
		return nil, err
	}
	return &Namespace{uid, gid}, nil
}

// Unmapped reports whether a user's number stands for all users without a number in this
// namespace.
func (ns *Namespace) Unmapped(uid uint32) bool { return uid == ns.overflowUID }

func readID(path string) (uint32, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("peer: %w", err)
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("peer: %s: %w", path, err)
	}
	return uint32(id), nil
}

// An Identity is the process that made a connection. It holds a descriptor of
// that process until Close. One goroutine at a time may use it.
type Identity struct {
	UID    uint32 // effective, when it connected
	PID    int
	Groups []uint32 // the effective one and the supplementary ones, when it connected

	pidfd   int
	process []byte // nil until asked for
}

// Who returns the process, user and primary group that connected, by the kernel's
// word and with one question. It returns ErrUnknown for the overflow user and for a
// process outside this process's namespace.
func (ns *Namespace) Who(c syscall.Conn) (cred unix.Ucred, err error) {
	ctlErr := control(c, func(fd int) error {
		cred, err = ns.WhoFD(fd)
		return nil
	})
	if ctlErr != nil {
		err = ctlErr
	}
	return cred, err
}

// WhoFD is Who for the descriptor of a connection.
func (ns *Namespace) WhoFD(fd int) (cred unix.Ucred, err error) {
	got, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return cred, fmt.Errorf("peer: SO_PEERCRED: %w", err)
	}
	cred = *got
	switch {
	case ns.Unmapped(cred.Uid):
		return cred, fmt.Errorf("%w: user %d is the one for unmapped users", ErrUnknown, cred.Uid)
	case cred.Pid <= 0:
		return cred, fmt.Errorf("%w: process of user %d", ErrUnknown, cred.Uid)
	}
	return cred, nil
}

// Identify returns the identity of the process that Who has named, with a descriptor
// of that process. It returns pidfd.ErrEnded where the process has ended.
func (ns *Namespace) Identify(c syscall.Conn, cred unix.Ucred) (*Identity, error) {
	id := &Identity{UID: cred.Uid, PID: int(cred.Pid)}
	err := control(c, func(fd int) (err error) {
		if id.Groups, err = ns.groups(fd, cred.Gid); err == nil {
			id.pidfd, err = pidfdOf(fd, id.PID)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return id, nil
}

// control runs f with the descriptor of a connection or a listener.
func control(c syscall.Conn, f func(fd int) error) (err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

// groups returns what the peer is in, less the group for unmapped ones.
func (ns *Namespace) groups(fd int, primary uint32) ([]uint32, error) {
	all, err := peerGroups(fd)
	if err != nil {
		return nil, fmt.Errorf("peer: SO_PEERGROUPS: %w", err)
	}
	if !slices.Contains(all, primary) {
		all = append(all, primary)
	}
	return slices.DeleteFunc(all, func(g uint32) bool { return g == ns.overflowGID }), nil
}

// pidfdOf returns a descriptor of the process that connected. Before Linux 6.5 it returns
// a descriptor of the process that has the same id now. That is the same process as long
// as its messages carry the id, see Receiver.
func pidfdOf(fd, pid int) (int, error) {
	its, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if errors.Is(err, unix.ENOPROTOOPT) {
		its, err = pidfd.Open(pid)
	}
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENODATA):
		return -1, pidfd.ErrEnded
	case err != nil:
		return -1, fmt.Errorf("peer: descriptor of process %d: %w", pid, err)
	}
	return its, nil
}

// Alive reports whether the process still runs.
func (id *Identity) Alive() bool { return pidfd.Alive(id.pidfd) == nil }

// Process returns the value of the process as an audience. The error wraps
// seal.ErrRequest if it has ended.
func (id *Identity) Process() ([]byte, error) {
	if id.process == nil {
		value, _, err := process(id.pidfd)
		if err != nil {
			return nil, err
		}
		id.process = value
	}
	return id.process, nil
}

// Process returns the party that the process behind a pidfd is, and its effective user
// of now. The error wraps seal.ErrRequest for a process that has ended or has no id in
// this process namespace, for a thread, and for a descriptor of anything else; and
// seal.ErrUnavailable if the kernel does not tell. fd stays the caller's, and open
// during the call.
func Process(fd int) (p seal.Party, uid uint32, err error) {
	value, uid, err := process(fd)
	if err == nil {
		err = p.UnmarshalBinary(append([]byte{token.KindProcess}, value...))
	}
	return p, uid, err
}

func process(fd int) (value []byte, uid uint32, err error) {
	p, err := pidfd.Of(fd)
	if err != nil {
		kind := seal.ErrUnavailable
		if errors.Is(err, pidfd.ErrEnded) || errors.Is(err, pidfd.ErrForeign) {
			kind = fmt.Errorf("%w: %w", seal.ErrRequest, ask.ErrAudience)
		}
		return nil, 0, fmt.Errorf("%w: descriptor: %w", kind, err)
	}
	value = binary.BigEndian.AppendUint32(nil, uint32(p.PID))
	return binary.BigEndian.AppendUint64(value, p.Number), p.UID, nil
}

// Close gives the descriptor back.
func (id *Identity) Close() { _ = unix.Close(id.pidfd) }
