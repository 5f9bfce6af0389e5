package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/sealctx/sealctx/interop/wire"
)

// sampleFlag is the first byte of a token of MIT's gss-sample programs; four
// bytes of length and the body follow.
type sampleFlag byte

const (
	sampleNoop sampleFlag = 1 << iota
	sampleContext
	sampleData
	sampleMIC
	sampleContextNext
	sampleWrapped
	sampleEncrypted
	sampleSendMIC
)

func readSample(r *bufio.Reader) (sampleFlag, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > wire.MaxFrame {
		return 0, nil, fmt.Errorf("%w: %d bytes", wire.ErrFrame, size)
	}
	body := make([]byte, size)
	_, err := io.ReadFull(r, body)
	return sampleFlag(head[0]), body, err
}

func writeSample(w io.Writer, f sampleFlag, body []byte) error {
	b := binary.BigEndian.AppendUint32([]byte{byte(f)}, uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// sampleAccept is accept for a gss-client of MIT's.
func (n *node) sampleAccept([]string) (string, error) {
	if err := n.acceptConn(); err != nil {
		return "", err
	}
	if err := n.extend(); err != nil {
		return "", err
	}
	flag, _, err := readSample(n.reader)
	if err == nil && flag != sampleNoop|sampleContextNext {
		err = fmt.Errorf("%w: first flag %#x", wire.ErrFrame, flag)
	}
	for err == nil && n.sc.ContinueNeeded() {
		var token []byte
		if flag, token, err = readSample(n.reader); err != nil {
			break
		}
		if flag&sampleContext == 0 {
			return "", fmt.Errorf("%w: flag %#x while establishing", wire.ErrFrame, flag)
		}
		if token, _, err = n.sc.Continue(token); err == nil && len(token) > 0 {
			err = writeSample(n.conn, sampleContext, token)
		}
	}
	return "", err
}

// sampleAnswer serves one message of a gss-client: the text, in the answer, and
// a MIC over it for the client.
func (n *node) sampleAnswer([]string) (string, error) {
	if err := n.extend(); err != nil {
		return "", err
	}
	flag, body, err := readSample(n.reader)
	if err != nil {
		return "", err
	}
	if flag&sampleData == 0 {
		return "", fmt.Errorf("%w: flag %#x", wire.ErrFrame, flag)
	}
	if flag&sampleWrapped != 0 {
		var conf bool
		if body, conf, _, err = n.sc.Unwrap(body); err != nil {
			return "", err
		}
		if conf != (flag&sampleEncrypted != 0) {
			return "", fmt.Errorf("unwrapped with confidentiality %t", conf)
		}
	}
	if flag&sampleSendMIC == 0 {
		return string(body), writeSample(n.conn, sampleNoop, nil)
	}
	mic, err := n.sc.GetMIC(body, 0)
	if err != nil {
		return "", err
	}
	return string(body), writeSample(n.conn, sampleMIC, mic)
}
