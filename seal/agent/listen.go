package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/listen"
	"github.com/sealctx/sealctx/internal/secureenv"
	"github.com/sealctx/sealctx/internal/unixsock"
)

// Listen listens at an absolute path. Root or this process's user must own the directory,
// and clients must trust it, see [Dialer.Dial]. Every user may connect: the policy
// decides on each request. Listen replaces a socket that an agent left behind and at
// which no process listens, and no other file. Errors: ErrImpostor for a place that
// clients of this process's user would refuse, and those of the network. Clients of other
// users ask for more, see [TrustedByAll].
//
// Closing the listener removes the socket. In the sandbox nothing can be removed: the
// next Listen replaces the socket. A file beside the socket, with ".lock" behind its
// name, says that an agent made the socket. The file stays.
func Listen(path string) (*net.UnixListener, error) {
	owner, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	if owner != 0 && owner != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("%w: its directory belongs to user %d, who can put another there", ErrImpostor, owner)
	}
	l, err := listen.Unix(path)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	err = unixsock.Prepare(l) // before the first peer can connect
	if err == nil {
		err = limitBacklog(l)
	}
	if err == nil {
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("agent: %w", err), l.Close())
	}
	return l, nil
}

// TrustedByAll returns nil if clients of every user trust a socket at an absolute path,
// of an agent that runs as root or as the owner of the directory. It returns ErrImpostor
// if they do not: a directory above that belongs to this process's user is good enough
// for Listen, and for clients of that user and root only. It returns ErrAway if a
// directory is missing.
func TrustedByAll(path string) error {
	_, err := checkPathFor(path, 0) // a client that trusts root alone trusts least
	return err
}

// firstInherited is the first descriptor that a service manager hands over.
const firstInherited = 3

// Inherited returns the listener that a service manager handed to this process by socket
// activation (LISTEN_PID, LISTEN_FDS), or nil if there is no such listener. It takes the
// variables out of the environment. It returns an error for more than one socket, and for
// one that is no listening Unix stream socket. The manager should have set SO_PASSCRED on
// the socket (PassCredentials=yes in the unit): messages that peers sent without, before
// Serve began, are refused.
func Inherited() (*net.UnixListener, error) {
	pid, count := secureenv.Get("LISTEN_PID"), secureenv.Get("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
	}
	if pid != strconv.Itoa(os.Getpid()) || count == "" {
		return nil, nil
	}
	if count != "1" {
		return nil, fmt.Errorf("agent: %s sockets were handed over where one is expected", count)
	}
	syscall.CloseOnExec(firstInherited)
	return adopt(os.NewFile(firstInherited, "socket of the service manager"))
}

// adopt makes a listener of a service manager's socket and closes f. It leaves the length
// of the backlog to the manager: listen(2) would make this process the one that clients
// see in SO_PEERCRED, and they trust root, whose directory the socket lies in.
func adopt(f *os.File) (*net.UnixListener, error) {
	defer f.Close() // FileListener duplicates it
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("agent: the socket that was handed over: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("agent: the socket that was handed over is a %s one", l.Addr().Network()), l.Close())
	}
	return u, nil
}

// limitBacklog bounds how many connections wait to be accepted. If each of them turns out
// to be slow to close, there is room for all of them.
func limitBacklog(l *net.UnixListener) error {
	b, err := boundsHere()
	if err != nil {
		return err
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), max(b.closing/backlogShare, 1)) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

// A Notifier tells the service manager how the agent stands (sd_notify). The nil Notifier
// does nothing.
type Notifier struct{ conn *net.UnixConn }

// NewNotifier connects to the socket of the service manager that $NOTIFY_SOCKET names: by a
// path or, behind an @, by an abstract name. It takes the variable out of the environment.
// It returns nil if the variable is not set. An error says why the socket cannot be used:
// the agent can serve without it, and its service manager waits in vain. Call NewNotifier
// before the sandbox, in which no socket can be made.
func NewNotifier() (*Notifier, error) {
	name := secureenv.Get("NOTIFY_SOCKET")
	if err := os.Unsetenv("NOTIFY_SOCKET"); err != nil || name == "" {
		return nil, err
	}
	if name[0] != '/' && name[0] != '@' {
		return nil, fmt.Errorf("agent: NOTIFY_SOCKET %q is neither a path from the root nor an abstract name", name)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("agent: service manager: %w", err)
	}
	return &Notifier{conn}, nil
}

// Ready says that the agent serves.
func (n *Notifier) Ready() error { return n.tell("READY=1\nSTATUS=serving") }

// Stopping says that the agent drains.
func (n *Notifier) Stopping() error { return n.tell("STOPPING=1\nSTATUS=draining") }

// Close closes the connection.
func (n *Notifier) Close() error {
	if n == nil {
		return nil
	}
	return n.conn.Close()
}

func (n *Notifier) tell(state string) error {
	if n == nil {
		return nil
	}
	err := n.conn.SetWriteDeadline(time.Now().Add(notifyTimeout)) // one that reads nothing is not waited for
	if err == nil {
		_, err = n.conn.Write([]byte(state))
	}
	if err != nil {
		return fmt.Errorf("agent: service manager: %w", err)
	}
	return nil
}
