package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/interop/wire"
)

// handover is what one node passes to the next over a Unix stream socket: four
// bytes of length, which carry the connection's descriptor, then this in JSON.
// The answer is a line: "ok", or why not.
type handover struct {
	Token   []byte         // exported context
	Out, In wire.Direction // whose side of the connection it is
	Read    []byte         // received from the connection, not consumed
}

// maxHandover bounds a handover's JSON.
const maxHandover = 1 << 20

var errHandover = errors.New("bad handover")

// give exports the context and passes it on. Bytes that the peer has sent
// meanwhile travel too: those in the reader with the token, those in the
// kernel with the descriptor.
func (n *node) give(args []string) (string, error) {
	token, err := n.sc.Export()
	if err != nil {
		return "", err
	}
	h := handover{Token: token, Out: n.out, In: n.in}
	if h.Read, err = n.reader.Peek(n.reader.Buffered()); err != nil {
		return "", err
	}
	waiting, err := n.waiting()
	if err != nil {
		return "", err
	}
	worker, err := net.DialTimeout("unix", args[0], patience)
	if err != nil {
		return "", err
	}
	defer worker.Close()
	if err := h.send(worker.(*net.UnixConn), n.conn); err != nil {
		return "", err
	}
	// The handle stays, so that the test can show that it is dead.
	err = n.conn.Close()
	n.conn = nil
	return fmt.Sprintf("%s %d", hex.EncodeToString(token), len(h.Read)+waiting), err
}

// waiting is the number of bytes that the kernel holds for the connection.
func (n *node) waiting() (int, error) {
	raw, err := n.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var count int
	var callErr error
	err = raw.Control(func(fd uintptr) { count, callErr = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return count, errors.Join(err, callErr)
}

func (h *handover) send(worker *net.UnixConn, conn *net.TCPConn) error {
	if err := worker.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	body, err := json.Marshal(h)
	if err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = worker.WriteMsgUnix(head, unix.UnixRights(int(fd)), nil)
	})
	if err = errors.Join(err, sendErr); err != nil {
		return err
	}
	if _, err := worker.Write(body); err != nil {
		return err
	}
	answer, err := bufio.NewReader(worker).ReadString('\n')
	if err != nil {
		return err
	}
	if answer != "ok\n" {
		return fmt.Errorf("%w: the worker says %q", errHandover, answer)
	}
	return nil
}

// receive takes a handover and imports its context.
func (n *node) receive([]string) (string, error) {
	if n.workers == nil {
		return "", errCommand
	}
	if err := n.workers.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	c, err := n.workers.AcceptUnix()
	if err != nil {
		return "", err
	}
	defer c.Close()
	h, conn, err := readHandover(c)
	if err == nil {
		n.sc, err = n.provider.ImportSecContext(h.Token)
	}
	if err != nil {
		_, wErr := fmt.Fprintf(c, "refused: %s\n", status(err))
		return "", errors.Join(err, wErr)
	}
	n.conn, n.out, n.in = conn, h.Out, h.In
	n.reader = bufio.NewReader(io.MultiReader(bytes.NewReader(h.Read), conn))
	_, err = fmt.Fprintln(c, "ok")
	return "", err
}

func readHandover(c *net.UnixConn) (*handover, *net.TCPConn, error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, nil, err
	}
	var head [4]byte
	control := make([]byte, unix.CmsgSpace(4))
	got, controlLen, _, _, err := c.ReadMsgUnix(head[:], control)
	if err != nil {
		return nil, nil, err
	}
	if got != len(head) {
		return nil, nil, fmt.Errorf("%w: head of %d bytes", errHandover, got)
	}
	conn, err := takeConn(control[:controlLen])
	if err != nil {
		return nil, nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxHandover {
		return nil, nil, fmt.Errorf("%w: %d bytes", errHandover, size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return nil, nil, err
	}
	h := new(handover)
	return h, conn, json.Unmarshal(body, h)
}

// takeConn makes a connection of the one descriptor that a control message
// carries.
func takeConn(control []byte) (*net.TCPConn, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, fmt.Errorf("%w: %d control messages", errHandover, len(messages))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		return nil, fmt.Errorf("%w: %d descriptors", errHandover, len(fds))
	}
	f := os.NewFile(uintptr(fds[0]), "connection")
	defer f.Close() // FileConn duplicates it
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("%w: not a TCP connection", errHandover)
	}
	return conn, nil
}
