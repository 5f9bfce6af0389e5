package handoff

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

const (
	ample = 30 * time.Second // for what takes a millisecond on an idle machine
	slack = 5 * time.Second  // by which a loaded machine may be late
)

// A house is one host's keyring, and a realm whose clients know a service.
type house struct {
	t    testing.TB
	dir  string // of the keyring, on tmpfs
	host *seal.Host
	mech *krb5.Provider
	p    gssapi.Provider // mech, wrapped

	name gssapi.GssName
	from gssapi.Credential
	with gssapi.Credential

	local bool // connections are Unix sockets: the system's ports do not last for very many
}

func newHouse(t testing.TB) *house {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-handoff-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &house{t: t, dir: dir, host: openHost(t, dir)}
	h.furnish(filepath.Join(t.TempDir(), "replay"))
	h.p = secctx.Wrap(h.mech, h.host)
	r, err := h.host.Reserve(seal.Request{Format: "x"}) // what opens a descriptor once, has
	require.NoError(t, err)
	require.NoError(t, r.Cancel())
	return h
}

// furnish makes the mechanism, the realm and the credentials.
func (h *house) furnish(replay string) {
	t := h.t
	var err error
	h.mech, err = krb5.New(&krb5.Config{ReplayCache: replay, ReplayCapacity: 1 << 18})
	require.NoError(t, err)
	t.Cleanup(func() { _ = h.mech.Release() })
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "host/www.example.test")
	require.NoError(t, err)
	h.with, err = realm.Acceptor(h.mech)
	require.NoError(t, err)
	h.from, err = realm.Initiator(h.mech, "alice")
	require.NoError(t, err)
	h.name, err = h.mech.ImportName("host@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
}

func openHost(t testing.TB, dir string) *seal.Host {
	t.Helper()
	host, err := seal.OpenHost(&seal.Options{Directory: dir})
	require.NoError(t, err)
	t.Cleanup(func() { _ = host.Close() })
	return host
}

// A session is a context, both sides of it, and its connection.
type session struct {
	t         testing.TB
	initiator gssapi.SecContext
	client    net.Conn // the initiator's end
	sc        gssapi.SecContext
	conn      net.Conn
}

// session establishes a context that p accepts. Its messages and the test's
// worker's are framed by four bytes of length.
func (h *house) session(p gssapi.Provider) *session {
	h.t.Helper()
	s := &session{t: h.t}
	var err error
	s.initiator, err = h.mech.InitSecContext(h.name, gssapi.WithInitiatorCredential(h.from),
		gssapi.WithInitiatorFlags(gssapi.ContextFlagSequence|gssapi.ContextFlagReplay|gssapi.ContextFlagConf|gssapi.ContextFlagInteg))
	require.NoError(h.t, err)
	s.sc, err = p.AcceptSecContext(gssapi.WithAcceptorCredential(h.with))
	require.NoError(h.t, err)
	out, _, err := s.initiator.Continue(nil)
	require.NoError(h.t, err)
	_, _, err = s.sc.Continue(out)
	require.NoError(h.t, err)
	require.False(h.t, s.sc.ContinueNeeded() || s.initiator.ContinueNeeded())
	if h.local {
		s.client, s.conn = unixPair(h.t, unix.SOCK_STREAM)
	} else {
		s.client, s.conn = tcpPair(h.t)
	}
	h.t.Cleanup(s.close)
	return s
}

func (s *session) close() {
	_, _ = s.initiator.Delete()
	_, _ = s.sc.Delete()
	_, _ = s.client.Close(), s.conn.Close()
}

func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	b, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// unixPair returns both ends of a socketpair.
func unixPair(t testing.TB, kind int) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	a, err = unixConn(fds[0])
	require.NoError(t, err)
	b, err = unixConn(fds[1])
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// works sends a message each way between the initiator and this process, whose
// context must be the next of the stream.
func (s *session) works() error {
	for _, way := range [][2]gssapi.SecContext{{s.initiator, s.sc}, {s.sc, s.initiator}} {
		sealed, _, err := way[0].Wrap([]byte("still here"), true, 0)
		if err != nil {
			return err
		}
		if _, _, _, err = way[1].Unwrap(sealed); err != nil {
			return err
		}
	}
	return nil
}

// returned checks that context and connection are as before.
func (s *session) returned(err error) {
	s.t.Helper()
	require.ErrorIs(s.t, err, ErrReturned)
	require.ErrorIs(s.t, err, gssapi.ErrFailure)
	require.NotErrorIs(s.t, err, ErrClaimed)
	require.NoError(s.t, s.works())
	s.open()
}

// open checks that the connection is not closed.
func (s *session) open() {
	s.t.Helper()
	_, err := s.conn.Write([]byte{1})
	require.NoError(s.t, err)
	_, err = io.ReadFull(s.client, make([]byte, 1))
	require.NoError(s.t, err)
}

// gone checks that neither is here any more.
func (s *session) gone() {
	s.t.Helper()
	_, _, err := s.sc.Wrap([]byte("still here"), true, 0)
	require.ErrorIs(s.t, err, gssapi.ErrNoContext)
	_, err = s.conn.Write([]byte{1})
	require.ErrorIs(s.t, err, net.ErrClosed)
}

// hungUp checks that nobody has the connection.
func (s *session) hungUp() {
	s.t.Helper()
	require.NoError(s.t, s.client.SetReadDeadline(time.Now().Add(ample)))
	_, err := s.client.Read(make([]byte, 1))
	require.Error(s.t, err)
	require.NotErrorIs(s.t, err, os.ErrDeadlineExceeded)
}

// ask sends a sealed message to whoever serves the connection and checks the
// answer.
func (s *session) ask(text string) error {
	if err := s.write(text); err != nil {
		return err
	}
	return s.answered(text)
}

func (s *session) write(text string) error {
	sealed, _, err := s.initiator.Wrap([]byte(text), true, 0)
	if err != nil {
		return err
	}
	_, err = s.client.Write(framed(sealed))
	return err
}

func (s *session) answered(text string) error {
	if err := s.client.SetReadDeadline(time.Now().Add(ample)); err != nil {
		return err
	}
	b, err := unframed(s.client)
	if err != nil {
		return err
	}
	got, _, _, err := s.initiator.Unwrap(b)
	if err == nil {
		require.Equal(s.t, "re: "+text, string(got))
	}
	return err
}

func framed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func unframed(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, min(binary.BigEndian.Uint32(size[:]), 1<<16))
	_, err := io.ReadFull(r, b)
	return b, err
}

// serve answers a context's messages until its connection ends.
func serve(sc gssapi.SecContext, conn net.Conn) {
	defer conn.Close()
	defer sc.Delete() //nolint:errcheck // there is nobody to tell
	for {
		b, err := unframed(conn)
		if err != nil {
			return
		}
		text, _, _, err := sc.Unwrap(b)
		if err != nil {
			return
		}
		if b, _, err = sc.Wrap(append([]byte("re: "), text...), true, 0); err != nil {
			return
		}
		if _, err := conn.Write(framed(b)); err != nil {
			return
		}
	}
}

// readFrame reads one frame of the acceptor's with a descriptor that came with it, or -1.
func readFrame(c *net.UnixConn) (kind, []byte, int, error) {
	w, err := newReception(c, nil)
	if err != nil {
		return 0, nil, -1, err
	}
	k, body, ctl, err := w.readFrame()
	return k, body, ctl.FD, err
}

// getToken reads OFFER and lets its connection go.
func getToken(c *net.UnixConn) ([]byte, error) {
	_, body, fd, err := readFrame(c)
	if err != nil {
		return nil, err
	}
	_ = unix.Close(fd)
	_, tok, err := parseOffer(body)
	return tok, err
}

// tell sends bytes with control messages.
func tell(c *net.UnixConn, b, oob []byte) error {
	_, err := send(c, b, oob)
	return err
}

// offering is OFFER.
func offering(read, tok []byte) []byte {
	return frame(offer, binary.BigEndian.AppendUint32(nil, uint32(len(read))), read, tok)
}

// received is what Receive returned.
type received struct {
	sc   gssapi.SecContext
	conn net.Conn
	err  error
}

// receiving runs Receive beside the test.
func receiving(ctx context.Context, c *net.UnixConn, p gssapi.Provider) <-chan received {
	done := make(chan received, 1)
	go func() {
		sc, conn, err := Receive(ctx, c, p)
		done <- received{sc, conn, err}
	}()
	return done
}

// handedOver sends the session's context over a to b in this process, where it goes
// on.
func (s *session) handedOver(sender *Sender, a, b *net.UnixConn, p gssapi.Provider) {
	s.t.Helper()
	done := receiving(within(s.t, ample), b, p)
	require.NoError(s.t, sender.Send(within(s.t, ample), a, s.sc, s.conn, nil))
	r := <-done
	require.NoError(s.t, r.err)
	s.gone()
	s.sc = r.sc
	require.NoError(s.t, s.works())
	require.NoError(s.t, r.conn.Close())
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// A worker is another process. What it does is its role, see TestMain.
type worker struct {
	t     testing.TB
	cmd   *exec.Cmd
	conn  *net.UnixConn
	steps *bufio.Reader // a byte for each step that it reaches
	pipe  *os.File      // through which they come
	ended sync.Once
}

const (
	roleVariable = "HANDOFF_TEST_ROLE"
	stepVariable = "HANDOFF_TEST_STEP"
)

// spawn starts a worker of a role; at step it does to itself what the role says.
func (h *house) spawn(role, step string, more ...func(*exec.Cmd)) *worker {
	h.t.Helper()
	r, w, err := os.Pipe()
	require.NoError(h.t, err)
	defer w.Close()
	cmd := exec.Command("/proc/self/exe") // which any user can execute
	cmd.Env = append(os.Environ(), roleVariable+"="+role, stepVariable+"="+step, keyring.DirVariable+"="+h.dir)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = os.Stderr
	for _, f := range more {
		f(cmd)
	}
	conn, err := Spawn(cmd)
	require.NoError(h.t, err)
	wk := &worker{t: h.t, cmd: cmd, conn: conn, pipe: r, steps: bufio.NewReader(r)}
	h.t.Cleanup(wk.end)
	return wk
}

// end kills the worker, if it still lives, and waits for it.
func (w *worker) end() {
	w.ended.Do(func() {
		_ = w.conn.Close()
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
		_ = w.pipe.Close()
	})
}

// until reads the worker's steps up to one that it will reach, or to its end.
func (w *worker) until(step string) string {
	var seen []byte
	_ = w.pipe.SetReadDeadline(time.Now().Add(ample)) // then the step is not among them
	defer w.pipe.SetReadDeadline(time.Time{})         //nolint:errcheck // as above
	for {
		b, err := w.steps.ReadByte()
		if err != nil {
			return string(seen)
		}
		if seen = append(seen, b); string(b) == step {
			return string(seen)
		}
	}
}

// rest returns the steps that the worker reached, when it has ended.
func (w *worker) rest() string {
	b, err := io.ReadAll(w.steps)
	require.NoError(w.t, err)
	return string(b)
}

// descriptors counts what this process has open.
func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

// TestDescriptors is the control of the tests that count descriptors.
func TestDescriptors(t *testing.T) {
	before := descriptors(t)
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	require.Equal(t, before+1, descriptors(t))
	require.NoError(t, unix.Close(fd))
	require.Equal(t, before, descriptors(t))
}
