package handoff

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/foreign"
)

// A Peer is who sent a message, by the kernel's word: the process as it is
// numbered here, and the user and group under which it sent. A process with
// CAP_SETUID may claim any user; it could become that user as well.
type Peer struct {
	PID      int
	UID, GID uint32
}

func (p Peer) String() string { return fmt.Sprintf("process %d of user %d", p.PID, p.UID) }

// control is what came beside some bytes.
type control struct {
	peer Peer // zero if the kernel did not say
	fd   int  // -1 for none
}

// room for all that may come beside: what the kernel has to cut off it closes, and
// that can take as long as the sender likes.
var controlSize = unix.CmsgSpace(unix.SizeofUcred) + foreign.RightsSpace

// receive reads once. On an error it leaves no descriptor open.
func receive(c *net.UnixConn, b []byte) (int, control, error) {
	oob := make([]byte, controlSize)
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	ctl, cerr := parseControl(oob[:oobn], flags)
	if err == nil {
		err = cerr
	}
	if err != nil {
		ctl.close()
		return 0, control{fd: -1}, err
	}
	return n, ctl, nil
}

// close closes the descriptor, if there is one.
func (c *control) close() {
	if c.fd >= 0 {
		foreign.Close(c.fd)
		c.fd = -1
	}
}

// parseControl takes apart what the kernel wrote. With an error it closes every
// descriptor in it.
func parseControl(oob []byte, flags int) (control, error) {
	ctl := control{fd: -1}
	messages, err := unix.ParseSocketControlMessage(oob)
	var fds []int
	for i := range messages {
		m := &messages[i]
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_CREDENTIALS:
			if len(m.Data) < unix.SizeofUcred { // which ParseUnixCredentials reads unasked
				err = errors.New("short credentials")
			} else if cred, cerr := unix.ParseUnixCredentials(m); cerr == nil {
				ctl.peer = Peer{int(cred.Pid), cred.Uid, cred.Gid}
			}
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_RIGHTS:
			more, _ := unix.ParseUnixRights(m) // a message of the kernel's own
			fds = append(fds, more...)
		default:
			err = fmt.Errorf("control message %d", m.Header.Type)
		}
	}
	if err == nil && (len(fds) > 1 || flags&unix.MSG_CTRUNC != 0) {
		err = errors.New("more than one descriptor")
	}
	if err != nil {
		foreign.Close(fds...)
		return ctl, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if len(fds) == 1 {
		ctl.fd = fds[0]
	}
	return ctl, nil
}

// send writes b, with control messages on its first byte.
func send(c *net.UnixConn, b, oob []byte) error {
	n, _, err := c.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = c.Write(b[n:])
	}
	return err
}

// setOption sets an option of a socket to 1.
func setOption(c *net.UnixConn, option int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1)
	}); ctlErr != nil {
		return ctlErr
	}
	return err
}

// watch makes calls on c end when ctx does, and at limit, unless that is zero.
// The function that it returns undoes that and is to be called.
func watch(ctx context.Context, c *net.UnixConn, limit time.Time) (end func()) {
	if !limit.IsZero() {
		_ = c.SetDeadline(limit) // it fails on a closed connection, and so do the calls
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.SetDeadline(time.Unix(1, 0))
		close(ended)
	})
	return func() {
		late := !stop()
		if late {
			<-ended
		}
		if late || !limit.IsZero() {
			_ = c.SetDeadline(time.Time{})
		}
	}
}

// because is err, or what ended ctx if that was the reason.
func because(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
