package handoff

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/unixsock/linger"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// rights puts descriptors of /dev/null beside a frame; the copies here are
// closed by the function that it returns.
func rights(t testing.TB, n int) (oob []byte, done func()) {
	t.Helper()
	var files []*os.File
	var fds []int
	for range n {
		f, err := os.Open("/dev/null")
		require.NoError(t, err)
		files, fds = append(files, f), append(fds, int(f.Fd()))
	}
	return unix.UnixRights(fds...), func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
}

// TestLyingWorker has workers that say anything but the truth, or stop in
// between. The context comes back from all of them that have not claimed it.
func TestLyingWorker(t *testing.T) {
	h := newHouse(t)
	me := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())})
	begin := func(c *net.UnixConn) []byte {
		require.NoError(t, say(c, ready))
		tok, err := getToken(c)
		require.NoError(t, err)
		return tok
	}
	tell := func(c *net.UnixConn, b []byte, oob ...byte) {
		require.NoError(t, tell(c, b, append(me[:len(me):len(me)], oob...)))
	}
	claim := func(token []byte) {
		sc, err := h.p.ImportSecContext(token)
		require.NoError(t, err)
		_, _ = sc.Delete()
	}
	for name, c := range map[string]struct {
		do   func(*net.UnixConn)
		want error // the cause
		lost bool  // it had claimed
	}{
		"ends before READY":       {func(c *net.UnixConn) {}, io.EOF, false},
		"half a READY":            {func(c *net.UnixConn) { tell(c, frame(ready)[:3]) }, io.EOF, false},
		"garbage for READY":       {func(c *net.UnixConn) { tell(c, []byte("GET / HTTP/1.1\r\n\r\n")) }, ErrProtocol, false},
		"another word for READY":  {func(c *net.UnixConn) { tell(c, frame(imported)) }, ErrProtocol, false},
		"an acceptor's word":      {func(c *net.UnixConn) { tell(c, frame(withdrawn)) }, ErrProtocol, false},
		"READY with a descriptor": {func(c *net.UnixConn) { oob, done := rights(t, 1); defer done(); tell(c, frame(ready), oob...) }, ErrProtocol, false},
		"ends at the token":       {func(c *net.UnixConn) { begin(c) }, io.EOF, false},
		"ends with it unread":     {func(c *net.UnixConn) { require.NoError(t, say(c, ready)); time.Sleep(20 * time.Millisecond) }, nil, false},
		"garbage for IMPORTED":    {func(c *net.UnixConn) { begin(c); tell(c, []byte("garbage.")) }, ErrProtocol, false},
		"READY for IMPORTED":      {func(c *net.UnixConn) { begin(c); tell(c, frame(ready)) }, ErrProtocol, false},
		"IMPORTED with no claim":  {func(c *net.UnixConn) { begin(c); tell(c, frame(imported)) }, ErrProtocol, false},
		"half a REFUSED":          {func(c *net.UnixConn) { begin(c); tell(c, frame(refused, []byte{9})[:8]) }, io.EOF, false},
		"IMPORTED, a descriptor": {func(c *net.UnixConn) {
			begin(c)
			oob, done := rights(t, 1)
			defer done()
			tell(c, frame(imported), oob...)
		}, ErrProtocol, false},
		"IMPORTED, two descriptors": {func(c *net.UnixConn) {
			begin(c)
			oob, done := rights(t, 2)
			defer done()
			tell(c, frame(imported), oob...)
		}, ErrProtocol, false},
		"IMPORTED, many descriptors": {func(c *net.UnixConn) {
			begin(c)
			oob, done := rights(t, 200)
			defer done()
			tell(c, frame(imported), oob...)
		}, ErrProtocol, false},
		"claims and ends":           {func(c *net.UnixConn) { claim(begin(c)) }, io.EOF, true},
		"claims and lies":           {func(c *net.UnixConn) { claim(begin(c)); tell(c, frame(refused, []byte{9})) }, ErrRefused, true},
		"claims and babbles":        {func(c *net.UnixConn) { claim(begin(c)); tell(c, []byte("GET / HTTP/1.1\r\n\r\n")) }, ErrProtocol, true},
		"claims with IMPORTED half": {func(c *net.UnixConn) { claim(begin(c)); tell(c, frame(imported)[:7]) }, io.EOF, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := h.session(h.p)
			before, goroutines := descriptors(t), runtime.NumGoroutine()
			a, b := unixPair(t, unix.SOCK_STREAM)
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer b.Close()
				c.do(b)
			}()
			err := Send(within(t, ample), a, s.sc, s.conn, nil)
			<-done
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			_, werr := a.Write([]byte{1})
			if c.want != ErrRefused {
				require.ErrorIs(t, werr, net.ErrClosed)
			}
			_ = a.Close()
			settled(t, before, goroutines, func() int { return 0 })
			if !c.lost {
				s.returned(err)
				require.Equal(t, before, descriptors(t))
				return
			}
			require.ErrorIs(t, err, ErrClaimed)
			require.NotErrorIs(t, err, ErrReturned)
			require.ErrorIs(t, err, gssapi.ErrNoContext)
			s.gone()
			s.hungUp()
			require.Equal(t, before-1, descriptors(t))
		})
	}
}

// TestSilentWorker claims and then does not say so in time.
func TestSilentWorker(t *testing.T) {
	h := newHouse(t)
	for _, claims := range []bool{false, true} {
		s := h.session(h.p)
		a, b := unixPair(t, unix.SOCK_STREAM)
		ctx, cancel := context.WithCancelCause(context.Background())
		go func() {
			defer cancel(context.Canceled)
			if !claims || say(b, ready) != nil {
				_ = say(b, ready)
				_, _ = getToken(b)
				return
			}
			if tok, err := getToken(b); err == nil {
				if sc, err := h.p.ImportSecContext(tok); err == nil {
					_, _ = sc.Delete()
				}
			}
		}()
		err := Send(ctx, a, s.sc, s.conn, nil)
		require.ErrorIs(t, err, context.Canceled)
		if claims {
			require.ErrorIs(t, err, ErrClaimed)
			s.gone()
			s.hungUp()
		} else {
			s.returned(err)
		}
	}
}

// TestLyingAcceptor has acceptors that break off or break the rules. The worker
// ends up with nothing, and with no descriptor.
func TestLyingAcceptor(t *testing.T) {
	h := newHouse(t)
	null := func(n int, f func(oob []byte)) {
		oob, done := rights(t, n)
		defer done()
		f(oob)
	}
	socket := func(domain, kind int, f func(fd int)) {
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		defer unix.Close(fd) //nolint:errcheck // of the test
		f(fd)
	}
	with := func(c *net.UnixConn, tok []byte, n int) { // an offer with so many descriptors
		null(n, func(oob []byte) { require.NoError(t, tell(c, offering(nil, tok), oob)) })
	}
	passing := func(c *net.UnixConn, b []byte) { // bytes with a good connection
		near, far := socketPair(t)
		defer near.Close()
		defer far.Close()
		p, err := packConn(near, nil)
		require.NoError(t, err)
		require.NoError(t, p.raw.Control(func(fd uintptr) { require.NoError(t, tell(c, b, unix.UnixRights(int(fd)))) }))
	}
	for name, c := range map[string]struct {
		do     func(c *net.UnixConn, tok []byte) // for READY
		want   error
		claims bool
	}{
		"ends":          {func(*net.UnixConn, []byte) {}, io.EOF, false},
		"half a header": {func(c *net.UnixConn, tok []byte) { require.NoError(t, tell(c, offering(nil, tok)[:5], nil)) }, io.ErrUnexpectedEOF, false},
		"half a token":  {func(c *net.UnixConn, tok []byte) { require.NoError(t, tell(c, offering(nil, tok)[:99], nil)) }, io.ErrUnexpectedEOF, false},
		"garbage":       {func(c *net.UnixConn, _ []byte) { require.NoError(t, tell(c, []byte("HTTP/1.1 200 OK"), nil)) }, ErrProtocol, false},
		"another version": {func(c *net.UnixConn, _ []byte) {
			require.NoError(t, tell(c, []byte("SH\x01\x02\x00\x00\x00\x01x"), nil))
		}, ErrProtocol, false},
		"a worker's word":    {func(c *net.UnixConn, _ []byte) { require.NoError(t, tell(c, frame(imported), nil)) }, ErrProtocol, false},
		"behind the token":   {func(c *net.UnixConn, tok []byte) { passing(c, append(offering(nil, tok), 0)) }, ErrProtocol, false},
		"no token":           {func(c *net.UnixConn, _ []byte) { passing(c, frame(offer, []byte{0, 0, 0, 1, 'x'})) }, ErrProtocol, false},
		"longer than it is":  {func(c *net.UnixConn, _ []byte) { passing(c, frame(offer, []byte{0, 0, 1, 0, 'x'})) }, ErrProtocol, false},
		"a descriptor alone": {func(c *net.UnixConn, _ []byte) { passing(c, frame(withdrawn)) }, ErrProtocol, false},
		"descriptor in its middle": {func(c *net.UnixConn, tok []byte) {
			b := offering(nil, tok)
			require.NoError(t, tell(c, b[:50], nil))
			raw, err := c.SyscallConn()
			require.NoError(t, err)
			require.Eventually(t, func() bool { // until it is read; or the kernel puts both together
				unread := -1
				_ = raw.Control(func(fd uintptr) { unread, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
				return unread == 0
			}, ample, time.Millisecond)
			passing(c, b[50:])
		}, ErrProtocol, false},
		"no descriptor":    {func(c *net.UnixConn, tok []byte) { require.NoError(t, tell(c, offering(nil, tok), nil)) }, ErrProtocol, false},
		"two descriptors":  {func(c *net.UnixConn, tok []byte) { with(c, tok, 2) }, ErrProtocol, false},
		"many descriptors": {func(c *net.UnixConn, tok []byte) { with(c, tok, 200) }, ErrProtocol, false},
		"a file":           {func(c *net.UnixConn, tok []byte) { with(c, tok, 1) }, ErrConn, false},
		"a datagram socket": {func(c *net.UnixConn, tok []byte) {
			socket(unix.AF_INET, unix.SOCK_DGRAM, func(fd int) { require.NoError(t, tell(c, offering(nil, tok), unix.UnixRights(fd))) })
		}, ErrConn, false},
		"a listener": {func(c *net.UnixConn, tok []byte) {
			socket(unix.AF_INET, unix.SOCK_STREAM, func(fd int) {
				require.NoError(t, unix.Listen(fd, 1))
				require.NoError(t, tell(c, offering(nil, tok), unix.UnixRights(fd)))
			})
		}, ErrConn, false},
		"a socket of packets": {func(c *net.UnixConn, tok []byte) {
			socket(unix.AF_UNIX, unix.SOCK_SEQPACKET, func(fd int) { require.NoError(t, tell(c, offering(nil, tok), unix.UnixRights(fd))) })
		}, ErrConn, false},
		"half an offer":      {func(c *net.UnixConn, tok []byte) { passing(c, offering(make([]byte, 99), tok)[:50]) }, io.ErrUnexpectedEOF, false},
		"ends after a claim": {func(c *net.UnixConn, tok []byte) { passing(c, offering(nil, tok)) }, io.ErrUnexpectedEOF, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := h.session(h.p)
			tok, err := s.sc.Export()
			require.NoError(t, err)
			before, goroutines := descriptors(t), runtime.NumGoroutine()
			a, b := unixPair(t, unix.SOCK_STREAM)
			p := &keeping{Provider: h.p, claimed: func() { _ = a.Close() }}
			done := receiving(within(t, ample), b, p)
			hello := make([]byte, headerSize)
			_, err = io.ReadFull(a, hello)
			require.NoError(t, err)
			require.Equal(t, frame(ready), hello)
			c.do(a, tok)
			if !c.claims {
				require.NoError(t, a.CloseWrite())
			}
			r := <-done
			require.ErrorIs(t, r.err, c.want)
			require.Nil(t, r.sc)
			require.Nil(t, r.conn)
			_, err = b.Write([]byte{1})
			require.ErrorIs(t, err, net.ErrClosed)
			_ = a.Close()
			settled(t, before, goroutines, func() int { return 0 })
			require.Equal(t, before, descriptors(t))
			if p.sc != nil {
				_, _, err = p.sc.Wrap([]byte("x"), true, 0)
				require.ErrorIs(t, err, gssapi.ErrNoContext, "the context that was imported is deleted")
			}
			require.Equal(t, c.claims, p.sc != nil)
		})
	}
}

// keeping is a provider that remembers what it imported.
type keeping struct {
	gssapi.Provider
	sc      gssapi.SecContext
	claimed func()
}

func (k *keeping) ImportSecContext(b []byte) (sc gssapi.SecContext, err error) {
	k.sc, err = k.Provider.ImportSecContext(b)
	k.claimed()
	return k.sc, err
}

// A worker answers with descriptors that are bad to close, in band or out of it:
// Send ends in time, and the context is here.
func TestLingeringWorker(t *testing.T) {
	kinds := maps.Clone(linger.Kinds)
	if os.Geteuid() == 0 { // else it is left out of this test; package unixsock's own is skipped
		file := linger.Unanswered(t)
		kinds["unanswered"] = func(testing.TB) int { return file() }
	}
	h := newHouse(t)
	for name, made := range kinds {
		for _, flags := range []int{0, unix.MSG_OOB} {
			t.Run(fmt.Sprint(name, flags), func(t *testing.T) {
				s := h.session(h.p)
				a, b := unixPair(t, unix.SOCK_STREAM)
				fds := []int{made(t), made(t)}
				go func() {
					_ = say(b, ready)
					_, _ = getToken(b)
					_ = tell(b, frame(refused, []byte{9})[:3], nil)
					raw, _ := b.SyscallConn()
					_ = raw.Control(func(fd uintptr) {
						_ = unix.Sendmsg(int(fd), []byte{9}, unix.UnixRights(fds...), nil, flags|unix.MSG_NOSIGNAL)
					})
					for _, fd := range fds {
						go unix.Close(fd) //nolint:errcheck // it waits where Send was quicker
					}
				}()
				done := make(chan error, 1)
				go func() { done <- Send(within(t, time.Second), a, s.sc, s.conn, nil) }()
				select {
				case err := <-done:
					s.returned(err)
				case <-time.After(ample):
					t.Fatal("the worker holds Send")
				}
			})
		}
	}
}

// hinderedSealer cannot take back for a while, or so many times.
type hinderedSealer struct {
	seal.Sealer
	until time.Time
	times int
	asked int
}

func (h *hinderedSealer) TakeBack(b []byte, formats ...string) (*memsafe.Secret, error) {
	h.asked++
	if h.asked <= h.times || time.Now().Before(h.until) {
		return nil, seal.ErrUnavailable
	}
	return h.Sealer.TakeBack(b, formats...)
}

// A sealer that cannot take a token back just now is asked again, as long as ctx lasts
// and the token can be taken back.
func TestTakeBackLater(t *testing.T) {
	h := newHouse(t)
	give := func(ctx context.Context, lifetime time.Duration, sealer *hinderedSealer) (*session, error) {
		sealer.Sealer = h.host
		s := h.session((&secctx.Config{Sealer: sealer, Lifetime: lifetime}).Wrap(h.mech))
		a, b := unixPair(t, unix.SOCK_STREAM)
		go func() {
			_ = say(b, ready)
			_, _ = getToken(b)
			_ = say(b, refused, 16)
		}()
		return s, Send(ctx, a, s.sc, s.conn, nil)
	}
	sealer := &hinderedSealer{times: 3}
	s, err := give(context.Background(), time.Minute, sealer)
	s.returned(err)
	require.ErrorIs(t, err, ErrRefused)
	require.Equal(t, 4, sealer.asked)

	flood := 2 * time.Second // longer than any pause
	s, err = give(context.Background(), time.Minute, &hinderedSealer{until: time.Now().Add(flood)})
	s.returned(err)
	require.ErrorIs(t, err, ErrRefused)

	start := time.Now()
	_, err = give(context.Background(), 2*time.Second, &hinderedSealer{times: 1 << 20})
	require.ErrorIs(t, err, ErrClaimed, "the control: nobody can tell")
	require.Less(t, time.Since(start), ample, "asked again beyond the token's lifetime")

	sealer = &hinderedSealer{times: 1 << 20}
	_, err = give(within(t, 100*time.Millisecond), time.Minute, sealer)
	require.ErrorIs(t, err, ErrClaimed)
	require.Less(t, sealer.asked, 10, "asked again beyond its ctx")
}

// TestTimeToTakeBack: a worker that does not answer leaves time before ctx's deadline in
// which a sealer that cannot take the token back at once is asked again.
func TestTimeToTakeBack(t *testing.T) {
	h := newHouse(t)
	sealer := &hinderedSealer{Sealer: h.host, times: 3}
	s := h.session((&secctx.Config{Sealer: sealer, Lifetime: time.Minute}).Wrap(h.mech))
	a, b := unixPair(t, unix.SOCK_STREAM)
	require.NoError(t, say(b, ready))
	err := Send(within(t, 4*time.Second), a, s.sc, s.conn, nil)
	s.returned(err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, 4, sealer.asked)
}
