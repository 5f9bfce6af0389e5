package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/handoff"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

const runVariable = "PREFORK_RUN"

// TestMain is the example itself where the test, or the example, has started it.
func TestMain(m *testing.M) {
	if os.Getenv(runVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A client speaks gss-sample's protocol over this module's mechanism.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	sc   gssapi.SecContext
	v1   bool
}

var start1 = regexp.MustCompile(`listening at (\S+)`)

// server starts the example and returns a function that connects to it.
func server(t *testing.T) func(v1 bool) *client {
	t.Helper()
	probe := exec.Command("/bin/true")
	handoff.Isolate(probe, os.Getuid(), os.Getgid())
	if err := probe.Run(); err != nil {
		t.Skip("the kernel lets this user make no network namespace: ", err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-prefork-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "host/localhost")
	require.NoError(t, err)
	keytab := filepath.Join(t.TempDir(), "keytab")
	require.NoError(t, realm.WriteKeytab(keytab))
	cmd := exec.Command(os.Args[0], "-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), runVariable+"=1", "SEALCTX_DIR="+dir,
		"KRB5_KTNAME="+keytab, "KRB5RCACHEDIR="+filepath.Join(t.TempDir(), "replay"))
	log, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(log)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	addr := start1.FindStringSubmatch(line)
	require.NotNil(t, addr, "%s", line)
	go func() { _, _ = io.Copy(io.Discard, lines) }()

	mech, err := krb5.New(&krb5.Config{ReplayCache: filepath.Join(t.TempDir(), "replay")})
	require.NoError(t, err)
	alice, err := realm.Initiator(mech, "alice")
	require.NoError(t, err)
	name, err := mech.ImportName("host@localhost", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	return func(v1 bool) *client {
		t.Helper()
		conn, err := net.Dial("tcp", addr[1])
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		sc, err := mech.InitSecContext(name, gssapi.WithInitiatorCredential(alice),
			gssapi.WithInitiatorFlags(gssapi.ContextFlagMutual|gssapi.ContextFlagSequence|gssapi.ContextFlagConf|gssapi.ContextFlagInteg))
		require.NoError(t, err)
		return &client{t: t, conn: conn, r: bufio.NewReader(conn), sc: sc, v1: v1}
	}
}

// send sends a token, without its flags in the first version.
func (c *client) send(flags byte, body []byte) {
	c.t.Helper()
	if c.v1 {
		flags = 0
	}
	require.NoError(c.t, writeToken(c.conn, flags, body))
}

func (c *client) receive(flags byte) []byte {
	c.t.Helper()
	if c.v1 {
		flags = 0
	}
	got, body, err := readToken(c.r)
	require.NoError(c.t, err)
	require.Equal(c.t, flags, got)
	return body
}

func (c *client) establish() {
	c.t.Helper()
	if !c.v1 {
		c.send(flagNoop|flagContextNext, nil)
	}
	out, _, err := c.sc.Continue(nil)
	require.NoError(c.t, err)
	c.send(flagContext, out)
	_, _, err = c.sc.Continue(c.receive(flagContext))
	require.NoError(c.t, err)
	require.False(c.t, c.sc.ContinueNeeded())
}

// ask has a message signed.
func (c *client) ask(text string, seal bool) {
	c.t.Helper()
	flags := byte(flagData | flagWrapped | flagSendMIC)
	if seal {
		flags |= flagEncrypted
	}
	body, _, err := c.sc.Wrap([]byte(text), seal, 0)
	require.NoError(c.t, err)
	c.send(flags, body)
	_, err = c.sc.VerifyMIC([]byte(text), c.receive(flagMIC))
	require.NoError(c.t, err)
}

// ended checks that the server has hung up.
func (c *client) ended() {
	c.t.Helper()
	_, err := io.Copy(io.Discard, c.r)
	require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded)
}

func TestServed(t *testing.T) {
	connect := server(t)
	for _, v1 := range []bool{false, true} {
		c := connect(v1)
		c.establish()
		for range 3 {
			c.ask("sealed", true)
			c.ask("signed", false)
		}
		if !v1 {
			c.send(flagData, []byte("plain"))
			c.receive(flagNoop)
			c.send(flagNoop, nil)
			c.ended()
		}
	}
	c := connect(false)
	c.send(flagNoop, nil) // wants no context
	c.send(flagData, []byte("plain"))
	c.receive(flagNoop)
	c.send(flagNoop, nil)
	c.ended()
}

// TestNotServed has clients that do not keep to the protocol. None is answered,
// and the next is served.
func TestNotServed(t *testing.T) {
	connect := server(t)
	established := func(c *client) *client { c.establish(); return c }
	for name, do := range map[string]func() *client{
		"another protocol": func() *client { c := connect(false); c.send('G', []byte("ET / HTTP/1.1")); return c },
		"a huge token": func() *client {
			c := connect(false)
			_, err := c.conn.Write([]byte{flagNoop, 255, 255, 255, 255})
			require.NoError(t, err)
			return c
		},
		"no Kerberos": func() *client {
			c := connect(false)
			c.send(flagNoop|flagContextNext, nil)
			c.send(flagContext, bytes.Repeat([]byte{0x60}, 100))
			return c
		},
		"wrapped without a context": func() *client {
			c := connect(false)
			c.send(flagNoop, nil)
			c.send(flagData|flagWrapped, []byte("plain"))
			return c
		},
		"not wrapped as it says": func() *client {
			c := established(connect(false))
			c.send(flagData|flagWrapped, []byte("plain"))
			return c
		},
		"not encrypted as it says": func() *client {
			c := established(connect(false))
			b, _, err := c.sc.Wrap([]byte("signed"), false, 0)
			require.NoError(t, err)
			c.send(flagData|flagWrapped|flagEncrypted, b)
			return c
		},
		"no data": func() *client { c := established(connect(false)); c.send(flagMIC, nil); return c },
	} {
		t.Run(name, func(t *testing.T) {
			c := do()
			c.ended()
			next := established(connect(false))
			next.ask("well?", true)
			next.send(flagNoop, nil)
		})
	}
}
