package demo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// The kinds of frames between initiator and whoever holds the other end.
const (
	frameToken  = 'T' // context establishment
	frameSealed = 'S' // a Wrap token, encrypted
	frameSigned = 'M' // a Wrap token, only signed
)

const maxFrame = 1 << 16

func writeFrame(w io.Writer, kind byte, body []byte) error {
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

func readFrame(r io.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes", n)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(r, body)
	return head[0], body, err
}

// sendConn passes a connection's descriptor to the process behind a Unix
// socket, with the handle that the receiver knows its context by.
func sendConn(path string, handle int, conn *net.TCPConn) error {
	to, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	defer to.Close()
	f, err := conn.File()
	if err != nil {
		return err
	}
	defer f.Close()
	msg := binary.BigEndian.AppendUint32(nil, uint32(handle))
	_, _, err = to.WriteMsgUnix(msg, unix.UnixRights(int(f.Fd())), nil)
	return err
}

// receiveConn is the other end of sendConn.
func receiveConn(from *net.UnixConn) (handle int, conn net.Conn, err error) {
	msg, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := from.ReadMsgUnix(msg, oob)
	if err != nil {
		return 0, nil, err
	}
	control, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || n != 4 || len(control) != 1 {
		return 0, nil, errors.Join(errors.New("not one descriptor and its handle"), err)
	}
	fds, err := unix.ParseUnixRights(&control[0])
	if err != nil {
		return 0, nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "handed over")
	defer f.Close()
	conn, err = net.FileConn(f)
	return int(binary.BigEndian.Uint32(msg)), conn, err
}
