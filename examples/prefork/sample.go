package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/golang-auth/go-gssapi/v3"
)

// The protocol of MIT's gss-sample programs. A token is one byte of flags, four bytes of
// length (big-endian), and a body. The first version has no flags. Its tokens begin with
// the length, whose first byte is 0, so that byte tells the versions apart.
const (
	flagNoop        = 1 << iota // nothing, or nothing more
	flagContext                 // a token of the context's establishment
	flagData                    // a message
	flagMIC                     // a signature
	flagContextNext             // context tokens follow
	flagWrapped                 // the message is wrapped
	flagEncrypted               // the wrapped message is encrypted
	flagSendMIC                 // the sender wants a signature of the message
)

// maxToken is the longest token in bytes. The client sends a file as one message.
const maxToken = 4 << 20

var errProtocol = errors.New("not the protocol of gss-sample")

// readToken reads one token; flags are 0 in the first version.
func readToken(r *bufio.Reader) (flags byte, body []byte, err error) {
	if flags, err = r.ReadByte(); err != nil {
		return 0, nil, err
	}
	if flags == 0 {
		_ = r.UnreadByte() // it follows a ReadByte
	}
	var size [4]byte
	if _, err = io.ReadFull(r, size[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxToken {
		return 0, nil, fmt.Errorf("%w: token of %d bytes", errProtocol, n)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(r, body)
	return flags, body, err
}

func writeToken(w io.Writer, flags byte, body []byte) error {
	var b []byte
	if flags != 0 {
		b = append(b, flags)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// establish accepts the client's context. It returns nil if the client wants no context.
func establish(r *bufio.Reader, w io.Writer, p gssapi.Provider) (gssapi.SecContext, error) {
	flags, token, err := readToken(r)
	answer := byte(flagContext)
	switch {
	case err != nil:
		return nil, err
	case flags == 0:
		answer = 0
	case flags == flagNoop:
		return nil, nil
	case flags != flagNoop|flagContextNext:
		return nil, fmt.Errorf("%w: begins with %#x", errProtocol, flags)
	default:
		if _, token, err = readToken(r); err != nil {
			return nil, err
		}
	}
	sc, err := p.AcceptSecContext()
	if err != nil {
		return nil, err
	}
	for {
		out, _, err := sc.Continue(token)
		if len(out) > 0 { // an error may come with a token for the client
			err = errors.Join(err, writeToken(w, answer, out))
		}
		if err == nil && sc.ContinueNeeded() {
			_, token, err = readToken(r)
		} else if err == nil {
			return sc, nil
		}
		if err != nil {
			_, _ = sc.Delete() // the end of the connection tells the client
			return nil, err
		}
	}
}

// serve answers a client's messages until the client has no more. An answer is a signature
// or nothing. sc is nil if the client has no context.
func serve(sc gssapi.SecContext, r *bufio.Reader, w io.Writer) error {
	for {
		flags, body, err := readToken(r)
		if errors.Is(err, io.EOF) || err == nil && flags&flagNoop != 0 {
			return nil
		}
		if err == nil {
			flags, body, err = answer(sc, flags, body)
		}
		if err == nil {
			err = writeToken(w, flags, body)
		}
		if err != nil {
			return err
		}
	}
}

// answer returns the token that answers a message.
func answer(sc gssapi.SecContext, flags byte, body []byte) (byte, []byte, error) {
	reply := byte(flagMIC)
	if flags == 0 { // the first version, where every message is wrapped and signed
		reply, flags = 0, flagData|flagWrapped|flagSendMIC
	}
	if flags&flagData == 0 || sc == nil && flags != flagData {
		return 0, nil, fmt.Errorf("%w: flags %#x", errProtocol, flags)
	}
	if flags&flagWrapped != 0 {
		message, sealed, _, err := sc.Unwrap(body)
		if err != nil {
			return 0, nil, err
		}
		if flags&flagEncrypted != 0 && !sealed {
			return 0, nil, fmt.Errorf("%w: message is not encrypted", errProtocol)
		}
		body = message
	}
	if flags&flagSendMIC == 0 {
		return flagNoop, nil, nil
	}
	mic, err := sc.GetMIC(body, 0)
	return reply, mic, err
}
