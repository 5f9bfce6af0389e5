package soak

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/handoff"
	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
)

var duration = flag.Duration("soak", 3*time.Second, "how long to soak, after warming up")

// Other processes of the test are this program, told by the environment what to
// be, and where keys or agent are.
const (
	roleVariable  = "SEALCTX_SOAK_ROLE"
	placeVariable = "SEALCTX_SOAK_PLACE"
	workVariable  = "SEALCTX_SOAK_WORK"
)

func TestMain(m *testing.M) {
	role, place := os.Getenv(roleVariable), os.Getenv(placeVariable)
	if role == "" {
		apart.RefuseOverflowUser()
		os.Exit(m.Run())
	}
	if err := map[string]func(string) error{
		"agent": runAgent, "worker of agent": runWorker(dial), "worker of keyring": runWorker(embed),
	}[role](place); err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

// Keys rotate each second, and are gone soon after.
const (
	keySuite    = "AES-256-GCM"
	keyAge      = time.Second
	keyLifetime = 3 * time.Second
)

// calm is how long after the last token no key but the newest is left.
const calm = 4500 * time.Millisecond

// A holder is a sealer, and how many bytes of secrets it has in use.
type holder struct {
	seal.Sealer
	secrets func() int
	close   func() error
}

func dial(path string) (*holder, error) {
	c, err := agent.Dial(path)
	if err != nil {
		return nil, err
	}
	return &holder{c, func() int { return 0 }, c.Close}, nil
}

func embed(dir string) (*holder, error) {
	pool, err := memsafe.NewPool(1 << 18)
	if err != nil {
		return nil, err
	}
	host, err := seal.OpenHost(&seal.Options{Directory: dir, Suite: keySuite, Age: keyAge, MaxLifetime: keyLifetime, Pool: pool})
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return &holder{host, pool.InUse, func() error { return errors.Join(host.Close(), pool.Close()) }}, nil
}

// answer writes what this process holds for each line that it is sent, until
// there are no more.
func answer(secrets func() (int, error)) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		n, err := secrets()
		if err != nil {
			return err
		}
		u, err := measure(n)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(os.Stdout).Encode(u); err != nil {
			return err
		}
	}
	return lines.Err()
}

func runAgent(path string) error {
	l, err := agent.Listen(path)
	if err != nil {
		return err
	}
	s, err := agent.NewServer(&agent.Options{Suites: []string{keySuite}, Age: keyAge, MaxLifetime: keyLifetime})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	err = answer(func() (int, error) { st, err := s.Stats(); return st.LockedUsed, err })
	cancel()
	return errors.Join(err, <-done, s.Close())
}

// runWorker receives connections and answers one message on each.
func runWorker(open func(place string) (*holder, error)) func(string) error {
	return func(place string) error {
		link, err := handoff.FromParent()
		if err != nil {
			return err
		}
		h, err := open(place)
		if err != nil {
			return err
		}
		mech, err := krb5.New(&krb5.Config{ReplayCache: os.Getenv(workVariable)})
		if err != nil {
			return err
		}
		served := make(chan error, 1)
		go func() {
			served <- handoff.Serve(context.Background(), link, secctx.Wrap(mech, h), func(sc gssapi.SecContext, conn net.Conn) {
				if err := reply(sc, conn); err != nil {
					fmt.Fprintln(os.Stderr, "worker:", err)
				}
			})
		}()
		if err := answer(func() (int, error) { return h.secrets(), nil }); err != nil {
			return err
		}
		return errors.Join(<-served, h.close())
	}
}

// reply opens a sealed message and sends it back, sealed anew.
func reply(sc gssapi.SecContext, conn net.Conn) error {
	in, err := readMessage(conn)
	if err != nil {
		return err
	}
	plain, _, _, err := sc.Unwrap(in)
	if err != nil {
		return err
	}
	out, _, err := sc.Wrap(plain, true, 0)
	if err != nil {
		return err
	}
	return writeMessage(conn, out)
}

func writeMessage(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readMessage(r io.Reader) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	b := make([]byte, min(binary.BigEndian.Uint32(n[:]), 1<<16))
	_, err := io.ReadFull(r, b)
	return b, err
}

// shm is a directory on tmpfs that ends with the test.
func shm(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-soak-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// A process is another of the test's.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	link *net.UnixConn // of a worker
}

// start starts a process in a role; the cleanup wants it to end well.
func start(t *testing.T, role, place string, worker bool) *process {
	t.Helper()
	p := &process{name: role, cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role, placeVariable+"="+place, workVariable+"="+t.TempDir())
	p.cmd.Stderr = os.Stderr
	var err error
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.out = bufio.NewScanner(out)
	if worker {
		p.link, err = handoff.Spawn(p.cmd)
	} else {
		err = p.cmd.Start()
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		if p.link != nil {
			_ = p.link.Close()
		}
		_ = p.in.Close()
		require.NoError(t, p.cmd.Wait(), role)
	})
	return p
}

// holds asks the process what it holds.
func (p *process) holds(t *testing.T) (u usage) {
	t.Helper()
	_, err := fmt.Fprintln(p.in)
	require.NoError(t, err, p.name)
	require.True(t, p.out.Scan(), "%s has ended", p.name)
	require.NoError(t, json.Unmarshal(p.out.Bytes(), &u))
	return u
}
