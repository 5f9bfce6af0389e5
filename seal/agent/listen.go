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

// Listen listens at an absolute path, in a directory that clients will trust, see
// [Dialer.Dial], and that is root's or this process's user's; everybody may
// connect, and the policy decides on each request. A socket that an agent left
// behind, at which nobody listens, is replaced; no other file is. Errors: ErrImpostor for a place
// that clients of this process's user would refuse, and those of the network. Those
// of other users ask for more, see [TrustedByAll].
//
// Closing the listener removes the socket, unless the process is in the sandbox by
// then, in which nothing can be removed: the next Listen replaces it. A file beside the
// socket, with ".lock" behind its name, says that an agent made it, and stays.
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

// TrustedByAll returns nil where clients of every user trust a socket at an absolute
// path, if the agent runs as root or as the owner of its directory. Directories
// above that are this process's user's are trusted by its own clients and root's
// alone, so that what Listen accepts may be ErrImpostor here; ErrAway where a
// directory is missing.
func TrustedByAll(path string) error {
	_, err := checkPathFor(path, 0) // who trusts root alone trusts least
	return err
}

// firstInherited is the first descriptor that a service manager hands over.
const firstInherited = 3

// Inherited returns the listener that a service manager handed to this process
// by socket activation (LISTEN_PID, LISTEN_FDS), or nil where there is none. It
// takes the variables out of the environment. More than one socket, or one that
// is no listening Unix stream, is an error. The manager should have set
// SO_PASSCRED on it (PassCredentials=yes in the unit): what a peer sent without,
// before Serve began, is refused.
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
	f := os.NewFile(firstInherited, "socket of the service manager")
	defer f.Close() // FileListener duplicates it
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("agent: the socket that was handed over: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("agent: the socket that was handed over is a %s one", l.Addr().Network()), l.Close())
	}
	if err := limitBacklog(u); err != nil {
		return nil, errors.Join(fmt.Errorf("agent: the socket that was handed over: %w", err), u.Close())
	}
	return u, nil
}

// limitBacklog bounds how many connections wait to be accepted: should each of them turn
// out to be slow to close, there is room for them all.
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

// A Notifier tells the service manager how the agent stands (sd_notify). Nil is
// one that tells nobody.
type Notifier struct{ conn *net.UnixConn }

// NewNotifier connects to the service manager that $NOTIFY_SOCKET names, a path or,
// behind an @, an abstract name, and takes the variable out of the environment. It returns
// nil where there is none. An error says why the socket cannot be used: the agent can
// serve without it, and its service manager waits in vain. It comes before the sandbox, in
// which no socket can be made.
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
