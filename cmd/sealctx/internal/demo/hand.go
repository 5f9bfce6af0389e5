package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/handoff"
	"github.com/sealctx/sealctx/internal/unixsock"
)

// A session moves from node to node in one of two ways. In the scenes that show the token,
// its connection follows it over a socket of its own. Otherwise package handoff moves
// both, as programs do.

// connections is where a node takes connections, beside the socket for handoffs.
func connections(socket string) string { return socket + ".connections" }

// open listens for both.
func (n *Node) open(socket string) error {
	handoffs, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	conns, err := net.ListenUnix("unix", &net.UnixAddr{Name: connections(socket), Net: "unix"})
	if err != nil {
		return errors.Join(err, handoffs.Close())
	}
	go n.takeAll(handoffs, n.receive)
	go n.takeAll(conns, n.takeConn)
	return nil
}

// takeAll takes a session from each node that connects.
func (n *Node) takeAll(l *net.UnixListener, take func(*net.UnixConn) error) {
	for {
		from, err := l.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			if err := take(from); err != nil {
				fmt.Fprintln(os.Stderr, "worker:", err)
			}
		}()
	}
}

// patience is how long a node waits for another.
const patience = 10 * time.Second

// HandOverArgs say what to hand over, and at which socket its next holder is.
type HandOverArgs struct {
	Session int
	Socket  string
}

// HandOver hands a session and its connection to another node. It replies with the number
// of messages that were served here.
func (n *Node) HandOver(args HandOverArgs, served *int) error {
	s, err := n.session(args.Session)
	if err != nil {
		return err
	}
	if err := s.stop(); err != nil {
		return err
	}
	worker, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: args.Socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer worker.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := handoff.Send(ctx, worker, s.sc, s.conn, nil); err != nil {
		return err
	}
	return n.Served(args.Session, served)
}

// receive is the other end of HandOver.
func (n *Node) receive(from *net.UnixConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	sc, conn, err := handoff.Receive(ctx, from, n.p)
	if err != nil {
		return err
	}
	out := Outcome{Status: status(nil)}
	if out.Peer, out.Session, err = n.own(sc); err != nil {
		return errors.Join(err, conn.Close())
	}
	if err := n.serve(out.Session, conn); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.received = append(n.received, out)
	n.changed.Broadcast()
	return nil
}

// Received waits for a session with a peer that comes by HandOver.
func (n *Node) Received(peer string, reply *Outcome) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		i := slices.IndexFunc(n.received, func(o Outcome) bool { return o.Peer == peer })
		if i >= 0 {
			*reply = n.received[i]
			n.received = slices.Delete(n.received, i, i+1)
			return nil
		}
		n.changed.Wait()
	}
}

// PassArgs say whose connection goes where.
type PassArgs struct {
	Session int
	Socket  string
	Handle  int // the session's number there
}

// Pass passes the connection of a session to the node that imported its context.
func (n *Node) Pass(args PassArgs, _ *struct{}) error {
	s, err := n.session(args.Session)
	if err != nil {
		return err
	}
	defer s.conn.Close()
	to, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: connections(args.Socket), Net: "unix"})
	if err != nil {
		return err
	}
	defer to.Close()
	raw, err := s.conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	handle := binary.BigEndian.AppendUint32(nil, uint32(args.Handle))
	if ctlErr := raw.Control(func(fd uintptr) {
		_, _, err = to.WriteMsgUnix(handle, unix.UnixRights(int(fd)), nil)
	}); ctlErr != nil {
		return ctlErr
	}
	return err
}

// takeConn is the other end of Pass.
func (n *Node) takeConn(from *net.UnixConn) error {
	if err := unixsock.Inline(from); err != nil {
		return err
	}
	r, err := unixsock.NewReceiver(from, new(unixsock.Closer))
	if err != nil {
		return err
	}
	handle := make([]byte, 4)
	_, size, ctl, err := r.Receive(handle, nil, nil)
	switch {
	case err != nil:
		return err
	case ctl.Dropped:
		return errors.New("no room for a connection: raise RLIMIT_NOFILE")
	case ctl.FD < 0 || size != len(handle):
		if ctl.FD >= 0 {
			r.Drop(ctl.FD)
		}
		return errors.New("not one connection and its session's number")
	}
	f := os.NewFile(uintptr(ctl.FD), "connection")
	defer f.Close() // FileConn has a copy
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	return n.serve(int(binary.BigEndian.Uint32(handle)), conn)
}

// Taken waits until a session's connection has come.
func (n *Node) Taken(handle int, _ *struct{}) error {
	s, err := n.session(handle)
	if err == nil {
		<-s.here
	}
	return err
}
