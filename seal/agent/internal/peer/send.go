package peer

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/unixsock"
)

// Send writes the buffers, as one run of bytes, with control messages on the
// first of them. It returns how many bytes went out. The buffers are read by the
// kernel where they lie: a secret in locked memory has no copy in ours.
func Send(raw syscall.RawConn, oob []byte, buffers ...[]byte) (sent int, err error) {
	return send(raw, oob, func() {}, buffers)
}

// TrySend is Send without control messages; it calls wait, which may set a
// deadline, before it first waits for room.
func TrySend(raw syscall.RawConn, wait func(), buffers ...[]byte) (sent int, err error) {
	return send(raw, nil, wait, buffers)
}

func send(raw syscall.RawConn, oob []byte, wait func(), buffers [][]byte) (sent int, err error) {
	var m unixsock.Message
	var opErr error
	waited := false
	err = raw.Write(func(fd uintptr) bool {
		for len(buffers) > 0 {
			m.Set(buffers, oob)
			n, err := m.Send(fd)
			switch {
			case errors.Is(err, unix.EAGAIN):
				if !waited {
					waited = true
					wait()
				}
				return false
			case err != nil:
				opErr = err
				return true
			}
			sent += n
			oob = nil
			buffers = Advance(buffers, n)
		}
		return true
	})
	if err == nil {
		err = opErr
	}
	return sent, err
}

// Advance drops the first n bytes of a run of buffers, and those that are empty
// after them. It changes the slice it is given.
func Advance(buffers [][]byte, n int) [][]byte {
	for len(buffers) > 0 && n >= len(buffers[0]) {
		n -= len(buffers[0])
		buffers = buffers[1:]
	}
	if n > 0 {
		buffers[0] = buffers[0][n:]
	}
	return buffers
}
