package demo

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The kinds of frames between the initiator and the process that holds the other end.
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
