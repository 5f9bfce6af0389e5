package handoff

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// TestNothingIsTakenBack: after a handoff that went well the register tells, and
// no token is opened once more to find that out; with Verify neither.
func TestNothingIsTakenBack(t *testing.T) {
	h := newHouse(t)
	var asked atomic.Int32
	p := secctx.Wrap(h.mech, counting{h.host, &asked})
	for _, verify := range []bool{false, true} {
		sender := &Sender{Verify: verify}
		a, b := unixPair(t, unix.SOCK_STREAM)
		h.session(p).handedOver(sender, a, b, p)
		require.Zero(t, asked.Load())

		s := h.session(p) // the control: a worker that says nothing
		go func() {
			_ = say(b, ready)
			_, _ = getToken(b)
			_ = b.Close()
		}()
		s.returned(sender.Send(within(t, ample), a, s.sc, s.conn, nil))
		require.EqualValues(t, 1, asked.Swap(0))
	}
}

// counting is a sealer that counts what is taken back.
type counting struct {
	seal.Sealer
	asked *atomic.Int32
}

func (c counting) TakeBack(b []byte, formats ...string) (*memsafe.Secret, error) {
	c.asked.Add(1)
	return c.Sealer.TakeBack(b, formats...)
}

// TestHandOver moves a context in the middle of its stream to another process,
// with a request that was read too early.
func TestHandOver(t *testing.T) {
	h := newHouse(t)
	w := h.spawn("serve", "")
	for range 3 { // one worker, several contexts
		s := h.session(h.p)
		require.NoError(t, s.works())
		require.NoError(t, s.write("before"))
		early := make([]byte, 20)
		_, err := io.ReadFull(s.conn, early)
		require.NoError(t, err)
		require.NoError(t, Send(within(t, ample), w.conn, s.sc, s.conn, early))
		s.gone()
		require.NoError(t, s.answered("before"))
		require.NoError(t, s.ask("after"))
		_ = s.client.Close() // the worker is free
	}
}

// TestHandOverTwice passes a connection on that still holds early bytes.
func TestHandOverTwice(t *testing.T) {
	h := newHouse(t)
	s := h.session(h.p)
	a, b := unixPair(t, unix.SOCK_STREAM)
	done := receiving(within(t, ample), b, h.p)
	require.NoError(t, Send(within(t, ample), a, s.sc, s.conn, []byte("one two three")))
	first := <-done
	require.NoError(t, first.err)
	word := make([]byte, 4)
	_, err := io.ReadFull(first.conn, word)
	require.NoError(t, err)
	done = receiving(within(t, ample), b, h.p)
	require.NoError(t, Send(within(t, ample), a, first.sc, first.conn, word))
	second := <-done
	require.NoError(t, second.err)
	s.sc = second.sc
	require.NoError(t, s.works())

	_, err = s.client.Write([]byte(" four"))
	require.NoError(t, err)
	text := make([]byte, 18)
	_, err = io.ReadFull(second.conn, text)
	require.NoError(t, err)
	require.Equal(t, "one two three four", string(text))

	whole, ok := second.conn.(interface {
		NetConn() net.Conn
		CloseWrite() error
	})
	require.True(t, ok)
	require.IsType(t, (*net.TCPConn)(nil), whole.NetConn())
	require.NoError(t, whole.CloseWrite())
	_, err = s.client.Read(text)
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, second.conn.Close())
	_, _ = first.sc.Delete()
}

// TestPeer learns who a worker is, whichever way its connection came about.
func TestPeer(t *testing.T) {
	h := newHouse(t)
	uid := uint32(os.Geteuid())
	as := func(*exec.Cmd) {}
	if uid == 0 {
		uid = 54321
		as = func(cmd *exec.Cmd) {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 54322}}
		}
	}
	w := h.spawn("peer", "", as)
	var got Peer
	errNo := errors.New("no")
	s := h.session(h.p)
	no := Sender{Audience: func(p Peer) (seal.Party, error) {
		got = p
		return seal.Party{}, errNo
	}}
	err := no.Send(within(t, ample), w.conn, s.sc, s.conn, nil)
	s.returned(err)
	require.ErrorIs(t, err, ErrPeer)
	require.ErrorIs(t, err, errNo)
	require.Equal(t, w.cmd.Process.Pid, got.PID)
	require.Equal(t, uid, got.UID)
	require.Equal(t, "process 1 of user 2", Peer{1, 2, 3}.String())
	_, err = w.conn.Write([]byte{1})
	require.ErrorIs(t, err, net.ErrClosed)
}

// TestPeerCredOfSocketpair is why SO_PEERCRED is not asked: it names this
// process, which made the socketpair, for a worker's.
func TestPeerCredOfSocketpair(t *testing.T) {
	w := newHouse(t).spawn("peer", "")
	raw, err := w.conn.SyscallConn()
	require.NoError(t, err)
	var cred *unix.Ucred
	require.NoError(t, raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}))
	require.NoError(t, err)
	require.EqualValues(t, os.Getpid(), cred.Pid)
}

// TestDialled takes a worker that has connected, and was ready before anybody
// asked the kernel for credentials.
func TestDialled(t *testing.T) {
	h := newHouse(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	require.NoError(t, err)
	defer l.Close()
	c, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	require.NoError(t, err)
	defer c.Close()
	done := receiving(within(t, ample), c, h.p)
	from, err := l.AcceptUnix()
	require.NoError(t, err)
	defer from.Close()
	time.Sleep(20 * time.Millisecond) // READY lies there, or the test tests less
	s := h.session(h.p)
	require.NoError(t, Send(within(t, ample), from, s.sc, s.conn, nil))
	r := <-done
	require.NoError(t, r.err)
	require.IsType(t, (*net.TCPConn)(nil), r.conn)
	s.sc = r.sc
	require.NoError(t, s.works())
	require.NoError(t, r.conn.Close())
}

// TestAnotherProcessAnswers: the token is for the process that said READY. Its
// child has the socket and cannot import it, and its word is not taken.
func TestAnotherProcessAnswers(t *testing.T) {
	h := newHouse(t)
	w := h.spawn("fork", "")
	s := h.session(h.p)
	err := Send(within(t, ample), w.conn, s.sc, s.conn, nil)
	s.returned(err)
	require.ErrorIs(t, err, ErrPeer)
}

// TestNoCredentials: messages of which the kernel says nothing are refused.
func TestNoCredentials(t *testing.T) {
	h := newHouse(t)
	a, b := unixPair(t, unix.SOCK_STREAM)
	_, err := b.Write(frame(ready)) // before SO_PASSCRED is set
	require.NoError(t, err)
	s := h.session(h.p)
	err = Send(within(t, ample), a, s.sc, s.conn, nil)
	s.returned(err)
	require.ErrorIs(t, err, ErrPeer)
}

// TestRefused: a worker that cannot import says so and stays good.
func TestRefused(t *testing.T) {
	h := newHouse(t)
	stranger := newHouse(t)
	a, b := unixPair(t, unix.SOCK_STREAM)
	s := h.session(h.p)
	other := (&secctx.Config{Sealer: h.host, Format: "other/1"}).Wrap(h.mech)
	for _, p := range []gssapi.Provider{stranger.p, other} {
		done := receiving(within(t, ample), b, p)
		err := Send(within(t, ample), a, s.sc, s.conn, nil)
		s.returned(err)
		require.ErrorIs(t, err, ErrRefused)
		require.ErrorContains(t, err, "DEFECTIVE_TOKEN")
		require.NotErrorIs(t, err, gssapi.ErrDefectiveToken, "a worker's word is no status")
		r := <-done
		require.ErrorIs(t, r.err, ErrRefused)
		require.ErrorIs(t, r.err, gssapi.ErrDefectiveToken)
	}
	done := receiving(within(t, ample), b, h.p)
	require.NoError(t, Send(within(t, ample), a, s.sc, s.conn, nil))
	r := <-done
	require.NoError(t, r.err)
	s.gone()
	s.sc = r.sc
	require.NoError(t, s.works())
	require.NoError(t, r.conn.Close())
}

// TestNothingDone: what cannot be handed over stays, and the worker waits on.
func TestNothingDone(t *testing.T) {
	h := newHouse(t)
	a, b := unixPair(t, unix.SOCK_STREAM)
	done := receiving(within(t, ample), b, h.p)
	s := h.session(h.p)
	send := func(sc gssapi.SecContext, conn net.Conn, read []byte) error {
		return Send(within(t, ample), a, sc, conn, read)
	}
	datagram, _ := unixPair(t, unix.SOCK_DGRAM)
	closed, _ := tcpPair(t)
	require.NoError(t, closed.Close())
	pipe, _ := net.Pipe()
	for _, conn := range []net.Conn{tls.Client(s.conn, new(tls.Config)), datagram, closed, pipe} {
		require.ErrorIs(t, send(s.sc, conn, nil), ErrConn)
	}
	require.ErrorIs(t, send(s.sc, s.conn, make([]byte, MaxRead+1)), ErrTooLarge)
	require.ErrorIs(t, send(s.initiator, s.conn, nil), secctx.ErrNotWrapped)
	half, err := h.p.AcceptSecContext(gssapi.WithAcceptorCredential(h.with))
	require.NoError(t, err)
	require.ErrorIs(t, send(half, s.conn, nil), gssapi.ErrNoContext)
	far := Sender{Audience: func(Peer) (seal.Party, error) { return seal.User(54321), nil }}
	require.ErrorIs(t, far.Send(within(t, ample), a, s.sc, s.conn, nil), seal.ErrRequest)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	err = Send(ended, a, s.sc, s.conn, nil)
	s.returned(err)
	require.ErrorIs(t, err, ErrBusy)
	require.ErrorIs(t, err, context.Canceled)

	require.NoError(t, s.works())
	s.open()
	most := make([]byte, MaxRead)
	require.NoError(t, send(s.sc, s.conn, most))
	r := <-done
	require.NoError(t, r.err)
	got := make([]byte, MaxRead)
	_, err = io.ReadFull(r.conn, got)
	require.NoError(t, err)
	require.NoError(t, r.conn.Close())
	_, _ = r.sc.Delete()
}

// TestBusy: a worker that is not ready has lost nothing by it.
func TestBusy(t *testing.T) {
	h := newHouse(t)
	a, b := unixPair(t, unix.SOCK_STREAM)
	s := h.session(h.p)
	err := Send(within(t, 10*time.Millisecond), a, s.sc, s.conn, nil)
	s.returned(err)
	require.ErrorIs(t, err, ErrBusy)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	done := receiving(within(t, ample), b, h.p)
	require.NoError(t, Send(within(t, ample), a, s.sc, s.conn, nil))
	r := <-done
	require.NoError(t, r.err)
	require.NoError(t, r.conn.Close())
	_, _ = r.sc.Delete()
}

// TestTokenLifetime: without a deadline, Send gives up while the token can still
// be taken back.
func TestTokenLifetime(t *testing.T) {
	h := newHouse(t)
	brief := (&secctx.Config{Sealer: h.host, Lifetime: 2 * time.Second}).Wrap(h.mech)
	a, b := unixPair(t, unix.SOCK_STREAM)
	require.NoError(t, say(b, ready))
	s := h.session(brief)
	err := Send(context.Background(), a, s.sc, s.conn, nil)
	s.returned(err)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// brittle is a mechanism that can be made to lose what it imports.
type brittle struct {
	gssapi.Provider
	broken bool
}

func (b *brittle) ImportSecContext(token []byte) (gssapi.SecContext, error) {
	if b.broken {
		return nil, gssapi.ErrFailure
	}
	return b.Provider.ImportSecContext(token)
}

// TestLost: the mechanism does not take its own context back.
func TestLost(t *testing.T) {
	h := newHouse(t)
	mech := &brittle{Provider: h.mech}
	p := secctx.Wrap(mech, h.host)
	a, b := unixPair(t, unix.SOCK_STREAM)
	s := h.session(p)
	mech.broken = true
	done := receiving(within(t, ample), b, newHouse(t).p)
	err := Send(within(t, ample), a, s.sc, s.conn, nil)
	require.ErrorIs(t, err, secctx.ErrLost)
	require.NotErrorIs(t, err, ErrReturned)
	s.gone()
	s.hungUp()
	require.ErrorIs(t, (<-done).err, ErrRefused)
}

// TestClaimedThenRefused: the worker's mechanism fails after the claim. Its
// refusal is in order, and the context is lost all the same.
func TestClaimedThenRefused(t *testing.T) {
	h := newHouse(t)
	mech := &brittle{Provider: h.mech, broken: true}
	a, b := unixPair(t, unix.SOCK_STREAM)
	s := h.session((&secctx.Config{Sealer: h.host, Format: "brittle"}).Wrap(h.mech))
	done := receiving(within(t, ample), b, (&secctx.Config{Sealer: h.host, Format: "brittle"}).Wrap(mech))
	err := Send(within(t, ample), a, s.sc, s.conn, nil)
	require.ErrorIs(t, err, ErrClaimed)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	require.NotErrorIs(t, err, ErrReturned)
	s.gone()
	s.hungUp()
	require.ErrorIs(t, (<-done).err, secctx.ErrLost)
}

// TestReceiveEnds: a worker that is told to stop lets go, and the acceptor keeps
// its context.
func TestReceiveEnds(t *testing.T) {
	h := newHouse(t)
	a, b := unixPair(t, unix.SOCK_STREAM)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := receiving(ctx, b, h.p)
	time.Sleep(5 * time.Millisecond) // it waits, or is about to
	errEnough := errors.New("enough")
	cancel(errEnough)
	require.ErrorIs(t, (<-done).err, errEnough)
	s := h.session(h.p)
	s.returned(Send(within(t, ample), a, s.sc, s.conn, nil))
}

// TestFromParent: this process was not started as a worker.
func TestFromParent(t *testing.T) {
	if _, err := unix.GetsockoptInt(parentFD, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil {
		require.Fail(t, "descriptor 3 is a socket; the test needs another way to be started")
	}
	_, err := FromParent()
	require.ErrorIs(t, err, ErrConn)
	_, err = Spawn(exec.Command("/nowhere"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
