package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Role is the hidden argument by which this program becomes a player.
const Role = "demo-player"

// comeUp is how long a player may take to connect.
const comeUp = 10 * time.Second

// A player is a process of the cast, as the director sees it.
type player struct {
	name   string
	pid    int // as the kernel tells it
	socket string
	cmd    *exec.Cmd
	ended  chan struct{} // closed once the process has
	call   *rpc.Client
}

// start runs this program again as a player and waits until it connects.
func start(ctx context.Context, dir, role, name, keytab string) (*player, error) {
	path := filepath.Join(dir, name+".control")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	p := &player{name: name, socket: filepath.Join(dir, name+".sock"), ended: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, "/proc/self/exe", Role, role, path, dir, p.socket, keytab)
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := l.SetDeadline(time.Now().Add(comeUp)); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	giveUp := func() { _ = l.SetDeadline(time.Unix(1, 0)) }
	go func() {
		_ = p.cmd.Wait() // mostly with the signal of stop: that is how the play ends
		close(p.ended)
		giveUp()
	}()
	defer context.AfterFunc(ctx, giveUp)()
	conn, err := l.AcceptUnix()
	if err != nil {
		err = p.missing(ctx, err)
		p.stop()
		return nil, err
	}
	p.call = jsonrpc.NewClient(conn)
	if p.pid, err = peerPid(conn); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// missing says why a player did not connect.
func (p *player) missing(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	select {
	case <-p.ended:
		return fmt.Errorf("%s did not come up: it ended (%v), and said why", p.name, p.cmd.ProcessState)
	default:
		return fmt.Errorf("%s did not come up within %v: %w", p.name, comeUp, err)
	}
}

// peerPid asks the kernel who connected.
func peerPid(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return 0, errors.Join(err, credErr)
	}
	return int(cred.Pid), nil
}

func (p *player) stop() {
	if p.call != nil {
		p.call.Close()
	}
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.ended
}

// do calls a method of the player.
func do[Reply any](p *player, method string, args any) (Reply, error) {
	var reply Reply
	err := p.call.Call(method, args, &reply)
	if err != nil {
		err = fmt.Errorf("%s: %s: %w", p.name, method, err)
	}
	return reply, err
}

// Play is the whole life of a player. args are what start passes.
func Play(args []string) error {
	if len(args) != 5 {
		return errors.New("this is not for calling by hand")
	}
	// A terminal's signal goes to all of the cast. The director ends the players, and the
	// kernel does if the director is gone.
	signal.Ignore(unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGTERM)
	role, control, dir, socket, keytab := args[0], args[1], args[2], args[3], args[4]
	server := rpc.NewServer()
	var err error
	if role == "initiator" {
		err = server.Register(&Client{})
	} else {
		var n *Node
		if n, err = NewNode(dir, keytab, socket); err == nil {
			err = server.Register(n)
		}
	}
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", control)
	if err != nil {
		return err
	}
	server.ServeCodec(jsonrpc.NewServerCodec(conn.(io.ReadWriteCloser)))
	return nil
}
