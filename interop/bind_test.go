package interop

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Response codes of DNS (RFC 1035, RFC 2136).
const (
	noError = 0
	notAuth = 9
)

// A nameserver is BIND with a zone that a GSS-TSIG key may update.
type nameserver struct {
	in   *interposed
	dir  string
	port string
	cmd  *exec.Cmd
	log  *syncBuffer
}

const bindZone = `$TTL 60
@ IN SOA ns.sealctx.test. admin.sealctx.test. 1 3600 600 86400 60
@ IN NS ns.sealctx.test.
ns IN A 127.0.0.1
`

var bindService = sync.OnceValue(func() error { return realm.AddService("DNS/ns.sealctx.test", "aes256-cts-hmac-sha1-96") })

func newNameserver(t *testing.T, in *interposed) *nameserver {
	t.Helper()
	for _, tool := range []string{"named", "nsupdate"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s (Debian: bind9, bind9-dnsutils)", tool)
		}
	}
	require.NoError(t, bindService())
	n := &nameserver{in: in, dir: t.TempDir(), port: freePort(t)}
	conf := fmt.Sprintf(`options {
	directory %q;
	listen-on port %s { 127.0.0.1; };
	listen-on-v6 { none; };
	pid-file none;
	session-keyfile none;
	recursion no;
	notify no;
	dnssec-validation no;
	tkey-gssapi-keytab %q;
};
controls { };
zone "sealctx.test" { type primary; file "zone"; update-policy { grant * subdomain sealctx.test ANY; }; };
`, n.dir, n.port, realm.Keytab())
	require.NoError(t, os.WriteFile(filepath.Join(n.dir, "named.conf"), []byte(conf), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(n.dir, "zone"), []byte(bindZone), 0o600))
	return n
}

func (n *nameserver) start(t *testing.T) {
	t.Helper()
	path, err := exec.LookPath("named")
	require.NoError(t, err)
	n.cmd, n.log = n.in.command(path, "-g", "-n", "1", "-c", filepath.Join(n.dir, "named.conf")), new(syncBuffer)
	n.cmd.Stderr = n.log
	require.NoError(t, n.cmd.Start())
	cmd := n.cmd
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		n.log.mu.Lock()
		defer n.log.mu.Unlock()
		return strings.Contains(n.log.b.String(), " running\n")
	}, time.Minute, 20*time.Millisecond, "%s", n.log)
}

// end sends a signal and waits. SIGTERM has named write its keys down.
func (n *nameserver) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, n.cmd.Process.Signal(sig))
	done := make(chan error, 1)
	go func() { done <- n.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(answerTimeout):
		require.Fail(t, "named does not end", "%s", n.log)
	}
}

// prepare has nsupdate negotiate a context and sign an update, which is kept from named
// and returned: named has the context and has not seen the message.
func (n *nameserver) prepare(t *testing.T, name string) []byte {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	update := make(chan []byte, 1)
	go n.keepUpdate(l, update)
	cmd := nsupdate(strconv.Itoa(l.Addr().(*net.TCPAddr).Port), name)
	require.NoError(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	select {
	case m := <-update:
		return m
	case <-time.After(answerTimeout):
		require.Fail(t, "no update was seen", "%s", n.log)
		return nil
	}
}

// update adds a record.
func (n *nameserver) update(t *testing.T, name string) {
	t.Helper()
	out, err := nsupdate(n.port, name).CombinedOutput()
	require.NoError(t, err, "%s\n%s", out, n.log)
}

func nsupdate(port, name string) *exec.Cmd {
	cmd := exec.Command("nsupdate", "-v", "-g", "-t", "600")
	cmd.Env = append(os.Environ(), realm.Env()...)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("server 127.0.0.1 %s\nzone sealctx.test\nupdate add %s.sealctx.test 60 A 127.0.0.2\nsend\n", port, name))
	return cmd
}

// keepUpdate passes DNS messages on to named, but for the first update.
func (n *nameserver) keepUpdate(l net.Listener, update chan<- []byte) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", "127.0.0.1:"+n.port)
			if err != nil {
				return
			}
			defer server.Close()
			go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
			for {
				m, err := readMessage(client)
				if err != nil {
					return
				}
				if m[2]>>3&15 == 5 { // the operation UPDATE
					update <- m
					return
				}
				if _, err := server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)); err != nil {
					return
				}
			}
		}()
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	m := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, m)
	return m, err
}

// replay sends a recorded message and returns the response code.
func (n *nameserver) replay(t *testing.T, m []byte) int {
	t.Helper()
	c, err := net.Dial("tcp", "127.0.0.1:"+n.port)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(answerTimeout)))
	_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	require.NoError(t, err)
	answer, err := readMessage(c)
	require.NoError(t, err)
	return int(answer[3] & 15)
}

// BIND keeps the keys of GSS-TSIG over a restart. With the library they are sealed and
// each is restored once. After a crash an update that was carried out before is refused.
// Without the library it is carried out again, which is the control.
func TestInterposeBIND(t *testing.T) {
	in := interpose(t, mit, "")
	in.options += " lifetime=3600"
	for _, c := range []struct {
		name  string
		in    *interposed
		again int
	}{{"sealed", in, notAuth}, {"plain", in.without(), noError}} {
		t.Run(c.name, func(t *testing.T) {
			n := newNameserver(t, c.in)
			n.start(t)
			messages := [][]byte{n.prepare(t, "a"), n.prepare(t, "b"), n.prepare(t, "c")}
			n.end(t, syscall.SIGTERM)
			keys, err := filepath.Glob(filepath.Join(n.dir, "*.tsigkeys"))
			require.NoError(t, err)
			require.Len(t, keys, 1, "%s", n.log)
			before := in.opened()
			n.start(t)
			for _, m := range messages { // a restart keeps all three keys
				require.Equal(t, noError, n.replay(t, m), "%s", n.log)
			}
			if c.in.lib != "" {
				in.requireOpened(t, before+3)
			}
			n.end(t, syscall.SIGKILL)
			n.start(t) // it finds the same file again
			for _, m := range messages {
				require.Equal(t, c.again, n.replay(t, m), "%s", n.log)
			}
			n.update(t, "d") // and it serves
			n.end(t, syscall.SIGTERM)
		})
	}
}

// named ends and starts whatever is the matter with the agent: it keeps no keys then,
// and serves.
func TestInterposeBINDWithoutAgent(t *testing.T) {
	for _, away := range []string{"at dump", "at load", "restarted between"} {
		t.Run(away, func(t *testing.T) {
			in := interpose(t, mit, "")
			in.options += " lifetime=3600"
			n := newNameserver(t, in)
			n.start(t)
			m := n.prepare(t, "a")
			end := func() {
				require.NoError(t, in.agent.Process.Kill())
				_ = in.agent.Wait()
			}
			if away == "at dump" {
				end()
			}
			n.end(t, syscall.SIGTERM)
			if away != "at dump" {
				end()
			}
			if away != "at load" {
				in.startAgent(t, "")
			}
			n.start(t)
			require.Equal(t, notAuth, n.replay(t, m), "%s", n.log)
			n.update(t, "b")
		})
	}
}
