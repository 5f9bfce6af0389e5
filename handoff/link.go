package handoff

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// A Peer is the sender of a message, as the kernel names it: the id of the process in this
// process namespace, and the user and group under which it sent. A process with CAP_SETUID may
// claim any user. It could become that user as well.
type Peer struct {
	PID      int
	UID, GID uint32
}

func (p Peer) String() string { return fmt.Sprintf("process %d of user %d", p.PID, p.UID) }

// send writes b, with control messages on its first byte, and returns the number of
// bytes that went out.
func send(c *net.UnixConn, b, oob []byte) (int, error) {
	n, _, err := c.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		var more int
		more, err = c.Write(b[n:])
		n += more
	}
	return n, err
}

// watch makes calls on c fail when ctx ends, and at limit unless that is zero. The caller must
// call end, which undoes that.
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

// because returns the cause of ctx's end if err came of that, else err.
func because(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
