// Package wire is what the programs of the interop tests say to each other: a
// stream of frames, and messages whose every byte both sides can predict.
//
// A frame is a kind of one byte, a length of four (big-endian), and the body.
// cpeer/wire.c is the same in C.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Kind says what a frame holds.
type Kind byte

// The kinds of frames.
const (
	Token  Kind = 'T' // of context establishment
	Sealed Kind = 'W' // gss_wrap with confidentiality
	Signed Kind = 'S' // gss_wrap without
	MIC    Kind = 'M' // length of the message (4), the message, its MIC
)

// kinds are the kinds of protected messages, in the order in which a stream
// uses them in turn.
var kinds = [...]Kind{Sealed, Signed, MIC}

// KindOf is the kind that message number n of a stream has.
func KindOf(n uint64) Kind { return kinds[n%uint64(len(kinds))] }

// MaxFrame bounds the body of a frame: a message of 64 KiB fits with room for
// what protects it.
const MaxFrame = 128 << 10

// Direction tells the two streams of a context apart.
type Direction byte

// The directions.
const (
	FromInitiator Direction = 'i'
	FromAcceptor  Direction = 'a'
)

// ErrFrame means that a frame is too long or of an unknown kind, or that a MIC
// frame is cut short.
var ErrFrame = errors.New("wire: bad frame")

// Large is the number from which messages are 64 KiB long.
const Large = 1 << 40

// Message is message number n of a stream: direction, number (8 bytes,
// big-endian), then 0 to 996 bytes of filling, or as many as make 64 KiB.
func Message(d Direction, n uint64) []byte {
	size := 9 + n*37%997
	if n >= Large {
		size = 64 << 10
	}
	m := make([]byte, size)
	m[0] = byte(d)
	binary.BigEndian.PutUint64(m[1:], n)
	for i := 9; i < len(m); i++ {
		m[i] = byte(n) + byte(i)
	}
	return m
}

// Number is the number that a message claims; compare the message with
// [Message] of that number before believing it.
func Number(m []byte) (uint64, error) {
	if len(m) < 9 {
		return 0, fmt.Errorf("%w: message of %d bytes", ErrFrame, len(m))
	}
	return binary.BigEndian.Uint64(m[1:9]), nil
}

// Write sends a frame.
func Write(w io.Writer, k Kind, body []byte) error {
	if len(body) > MaxFrame {
		return fmt.Errorf("%w: %d bytes", ErrFrame, len(body))
	}
	b := make([]byte, 5, 5+len(body))
	b[0] = byte(k)
	binary.BigEndian.PutUint32(b[1:], uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// Read receives a frame.
func Read(r *bufio.Reader) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	k, n := Kind(head[0]), binary.BigEndian.Uint32(head[1:])
	switch k {
	case Token, Sealed, Signed, MIC:
	default:
		return 0, nil, fmt.Errorf("%w: kind %#x", ErrFrame, head[0])
	}
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("%w: %d bytes", ErrFrame, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	return k, body, nil
}

// JoinMIC makes the body of a MIC frame.
func JoinMIC(msg, mic []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(msg)))
	return append(append(b, msg...), mic...)
}

// SplitMIC takes the body of a MIC frame apart.
func SplitMIC(body []byte) (msg, mic []byte, err error) {
	if len(body) < 4 {
		return nil, nil, fmt.Errorf("%w: MIC frame of %d bytes", ErrFrame, len(body))
	}
	n := binary.BigEndian.Uint32(body)
	if uint64(n) > uint64(len(body)-4) {
		return nil, nil, fmt.Errorf("%w: MIC over %d bytes", ErrFrame, n)
	}
	return body[4 : 4+n], body[4+n:], nil
}
