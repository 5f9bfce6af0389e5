package demo

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestStopBetweenMessages stops serving with half a frame on its way: that frame
// is still read, whole, and the next one is left to whoever has the connection
// then.
func TestStopBetweenMessages(t *testing.T) {
	here, peer := connection(t)
	s := &session{conn: here}
	begun := make(chan struct{})
	go func() {
		defer close(begun)
		_, _ = peer.Write([]byte{frameSigned, 0})
	}()
	<-begun
	read := make(chan error, 1)
	var body []byte
	go func() {
		var err error
		_, body, err = s.next()
		read <- err
	}()
	select {
	case err := <-read:
		require.Fail(t, "half a frame was read", "%v", err)
	case <-time.After(50 * time.Millisecond):
	}
	s.stopping.Store(true)
	require.NoError(t, here.SetReadDeadline(time.Now()))
	_, err := peer.Write([]byte{0, 0, 2, 'o', 'k'})
	require.NoError(t, err)
	require.NoError(t, <-read)
	require.Equal(t, "ok", string(body))
	_, _, err = s.next()
	require.ErrorIs(t, err, errStopped)

	// The control: a reader that a deadline deters loses the half that it has.
	require.NoError(t, here.SetReadDeadline(time.Time{}))
	_, err = peer.Write([]byte{frameSigned, 0})
	require.NoError(t, err)
	require.NoError(t, here.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, _, err = readFrame(here)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// connection returns the ends of a TCP connection.
func connection(t *testing.T) (here, peer net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	peer, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	here, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = here.Close()
		_ = peer.Close()
	})
	return here, peer
}
