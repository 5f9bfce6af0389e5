package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/sealctx/sealctx/interop/wire"
)

var errNoContext = errors.New("this node holds no context")

// protect makes the body of a frame.
func (n *node) protect(kind wire.Kind, msg []byte) ([]byte, error) {
	if n.sc == nil {
		return nil, errNoContext
	}
	switch kind {
	case wire.Sealed, wire.Signed:
		body, conf, err := n.sc.Wrap(msg, kind == wire.Sealed, 0)
		if err == nil && conf != (kind == wire.Sealed) {
			err = fmt.Errorf("wrapped with confidentiality %t", conf)
		}
		return body, err
	case wire.MIC:
		mic, err := n.sc.GetMIC(msg, 0)
		return wire.JoinMIC(msg, mic), err
	}
	return nil, errCommand
}

// open takes a frame apart. The error is the mechanism's; a supplementary status
// is one too, and then there may be no message.
func (n *node) open(kind wire.Kind, body []byte) ([]byte, error) {
	if n.sc == nil {
		return nil, errNoContext
	}
	switch kind {
	case wire.Sealed, wire.Signed:
		msg, conf, _, err := n.sc.Unwrap(body)
		if err == nil && conf != (kind == wire.Sealed) {
			err = fmt.Errorf("unwrapped with confidentiality %t", conf)
		}
		return msg, err
	case wire.MIC:
		msg, mic, err := wire.SplitMIC(body)
		if err == nil {
			_, err = n.sc.VerifyMIC(msg, mic)
		}
		return msg, err
	}
	return nil, errCommand
}

// kindAndNumber reads the arguments KIND and N.
func kindAndNumber(args []string) (wire.Kind, uint64, error) {
	if len(args[0]) != 1 {
		return 0, 0, errCommand
	}
	number, err := strconv.ParseUint(args[1], 10, 64)
	return wire.Kind(args[0][0]), number, err
}

func (n *node) make(args []string) (string, error) {
	kind, number, err := kindAndNumber(args)
	if err != nil {
		return "", err
	}
	body, err := n.protect(kind, wire.Message(n.out, number))
	return hex.EncodeToString(body), err
}

func (n *node) put(args []string) (string, error) {
	body, err := hex.DecodeString(args[1])
	if err != nil || len(args[0]) != 1 {
		return "", errors.Join(errCommand, err)
	}
	return "", wire.Write(n.conn, wire.Kind(args[0][0]), body)
}

func (n *node) take([]string) (string, error) {
	if err := n.extend(); err != nil {
		return "", err
	}
	kind, body, err := wire.Read(n.reader)
	if err != nil {
		return "", err
	}
	msg, err := n.open(kind, body)
	answer := fmt.Sprintf("%c %s", kind, status(err))
	if number, short := wire.Number(msg); short == nil && bytes.Equal(msg, wire.Message(n.in, number)) {
		answer += " " + strconv.FormatUint(number, 10)
	}
	return answer, nil
}

// serve receives messages FIRST to FIRST+COUNT-1, each of which has to be
// complete and the next, and answers each with its own of that number.
func (n *node) serve(args []string) (string, error) {
	first, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return "", err
	}
	count, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return "", err
	}
	for i := first; i < first+count; i++ {
		if err := n.serveOne(i); err != nil {
			return "", fmt.Errorf("message %d: %w", i, err)
		}
	}
	return "", nil
}

func (n *node) serveOne(i uint64) error {
	if err := n.extend(); err != nil {
		return err
	}
	kind, body, err := wire.Read(n.reader)
	if err != nil {
		return err
	}
	msg, err := n.open(kind, body)
	if err != nil {
		return err
	}
	if kind != wire.KindOf(i) || !bytes.Equal(msg, wire.Message(n.in, i)) {
		number, _ := wire.Number(msg)
		return fmt.Errorf("got number %d of kind %c instead", number, kind)
	}
	answer, err := n.protect(kind, wire.Message(n.out, i))
	if err != nil {
		return err
	}
	return wire.Write(n.conn, kind, answer)
}
