package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/handoff"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

const (
	warming = 2 * time.Second
	moves   = 50               // of one context, before the next is established
	ample   = 30 * time.Second // for what takes a millisecond on an idle machine
	lanes   = 2                // side by side, of each kind and for each holder
)

// A counter counts what the lanes did.
type counter struct {
	mu       sync.Mutex
	imports  int
	handoffs int
	epochs   map[[16]byte]bool // under which tokens were sealed
}

func (c *counter) imported(epoch [16]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.imports++
	c.epochs[epoch] = true
}

func (c *counter) handed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handoffs++
}

// A soaker is what all lanes share.
type soaker struct {
	mech *krb5.Provider
	name gssapi.GssName
	from gssapi.Credential
	with gssapi.Credential
}

func newSoaker(t *testing.T) *soaker {
	mech, err := krb5.New(&krb5.Config{ReplayCache: t.TempDir(), ReplayCapacity: 1 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { _ = mech.Release() })
	s := &soaker{mech: mech}
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "host/www.example.test")
	require.NoError(t, err)
	s.with, err = realm.Acceptor(mech)
	require.NoError(t, err)
	s.from, err = realm.Initiator(mech, "alice")
	require.NoError(t, err)
	s.name, err = mech.ImportName("host@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	return s
}

// establish makes a context that p accepts, and its initiator's.
func (s *soaker) establish(p gssapi.Provider) (initiator, sc gssapi.SecContext, err error) {
	initiator, err = s.mech.InitSecContext(s.name, gssapi.WithInitiatorCredential(s.from),
		gssapi.WithInitiatorFlags(gssapi.ContextFlagSequence|gssapi.ContextFlagReplay|gssapi.ContextFlagConf|gssapi.ContextFlagInteg))
	if err != nil {
		return nil, nil, err
	}
	if sc, err = p.AcceptSecContext(gssapi.WithAcceptorCredential(s.with)); err != nil {
		return nil, nil, err
	}
	out, _, err := initiator.Continue(nil)
	if err == nil {
		_, _, err = sc.Continue(out)
	}
	return initiator, sc, err
}

// talk sends a message each way: each must be the next of its stream.
func talk(a, b gssapi.SecContext) error {
	for _, way := range [][2]gssapi.SecContext{{a, b}, {b, a}} {
		out, _, err := way[0].Wrap([]byte("still here"), true, 0)
		if err != nil {
			return err
		}
		if _, _, _, err = way[1].Unwrap(out); err != nil {
			return err
		}
	}
	return nil
}

// tokens moves contexts back and forth between two providers. Both show each
// token at once: one gets the context, and the other is told that it is spent.
func (s *soaker) tokens(ctx context.Context, here, there gssapi.Provider, count *counter) error {
	for ctx.Err() == nil {
		initiator, sc, err := s.establish(here)
		if err != nil {
			return err
		}
		for range moves {
			token, err := sc.Export()
			if err != nil {
				return fmt.Errorf("export: %w", err)
			}
			_, _ = sc.Delete()
			if sc, err = contend(here, there, token); err != nil {
				return err
			}
			if err := talk(initiator, sc); err != nil {
				return fmt.Errorf("after a move: %w", err)
			}
			head, err := seal.Inspect(token)
			if err != nil {
				return err
			}
			count.imported(head.Epoch)
		}
		_, _ = sc.Delete()
		_, _ = initiator.Delete()
	}
	return nil
}

var (
	errLost  = errors.New("token lost: nobody could import it")
	errTwice = errors.New("token opened twice")
)

// contend has two providers import the same token side by side.
func contend(here, there gssapi.Provider, token []byte) (gssapi.SecContext, error) {
	var got [2]gssapi.SecContext
	var errs [2]error
	var both sync.WaitGroup
	for i, p := range []gssapi.Provider{here, there} {
		both.Go(func() { got[i], errs[i] = p.ImportSecContext(bytes.Clone(token)) })
	}
	both.Wait()
	return verdict(got, errs)
}

func verdict(got [2]gssapi.SecContext, errs [2]error) (gssapi.SecContext, error) {
	switch {
	case errs[0] == nil && errs[1] == nil:
		return nil, errTwice
	case errs[0] != nil && errs[1] != nil:
		return nil, fmt.Errorf("%w: %w", errLost, errors.Join(errs[:]...))
	case errs[0] != nil && !errors.Is(errs[0], seal.ErrSpent), errs[1] != nil && !errors.Is(errs[1], seal.ErrSpent):
		return nil, fmt.Errorf("the second import: %w", errors.Join(errs[:]...))
	case errs[0] == nil:
		return got[0], nil
	}
	return got[1], nil
}

// handovers hands contexts and their connections to a worker, until ctx is done
// but at least one; the worker answers a message on each.
func (s *soaker) handovers(ctx context.Context, p gssapi.Provider, worker *process, count *counter) error {
	for {
		if err := s.handover(p, worker); err != nil {
			return fmt.Errorf("%s: %w", worker.name, err)
		}
		count.handed()
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (s *soaker) handover(p gssapi.Provider, worker *process) error {
	initiator, sc, err := s.establish(p)
	if err != nil {
		return err
	}
	defer func() { _, _ = initiator.Delete() }()
	defer func() { _, _ = sc.Delete() }()
	client, conn, err := connected()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), ample)
	defer cancel()
	if err := handoff.Send(ctx, worker.link, sc, conn, nil); err != nil {
		return errors.Join(err, conn.Close())
	}
	_ = client.SetDeadline(time.Now().Add(ample))
	out, _, err := initiator.Wrap([]byte("are you there?"), true, 0)
	if err != nil {
		return err
	}
	if err := writeMessage(client, out); err != nil {
		return err
	}
	in, err := readMessage(client)
	if err != nil {
		return err
	}
	_, _, _, err = initiator.Unwrap(in)
	return err
}

// connected returns both ends of a connection.
func connected() (client, conn net.Conn, err error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if client, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr)); err != nil {
		return nil, nil, err
	}
	if conn, err = l.Accept(); err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return client, conn, nil
}

// A side is a holder of keys as several processes use it.
type side struct {
	place  string
	open   func(place string) (*holder, error)
	worker *process
}

// soak runs all lanes for a while, then waits until the keys have gone that they
// used, and returns how many bytes of secrets this process has not wiped.
func (s *soaker) soak(t *testing.T, d time.Duration, sides []*side, count *counter) (secrets int) {
	t.Helper()
	s.run(t, d, sides, count)
	time.Sleep(calm)
	return s.run(t, 0, sides, count) // so that everybody looks at the clock
}

func (s *soaker) run(t *testing.T, d time.Duration, sides []*side, count *counter) (secrets int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var all sync.WaitGroup
	errs := make(chan error, 16)
	lane := func(f func() error) {
		all.Go(func() {
			if err := f(); err != nil {
				errs <- err
				cancel()
			}
		})
	}
	var holders []*holder
	for _, side := range sides {
		var p [2]gssapi.Provider
		for i := range p {
			h, err := side.open(side.place)
			require.NoError(t, err)
			holders = append(holders, h)
			p[i] = secctx.Wrap(s.mech, h)
		}
		for range lanes {
			lane(func() error { return s.tokens(ctx, p[0], p[1], count) })
		}
		lane(func() error { return s.handovers(ctx, p[0], side.worker, count) })
	}
	all.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	for _, h := range holders {
		secrets += h.secrets()
		require.NoError(t, h.close())
	}
	return secrets
}

// After as long a time as one likes every process holds what it held after
// warming up, no token was lost, and none opened twice.
func TestSoak(t *testing.T) {
	dir := filepath.Join(shm(t), "keys")
	require.NoError(t, unix.Mkdir(dir, 0o700))
	path := filepath.Join(shm(t), "agent.sock")
	agentProcess := start(t, "agent", path, false)
	agentProcess.holds(t) // it listens, by now
	sides := []*side{
		{path, dial, start(t, "worker of agent", path, true)},
		{dir, embed, start(t, "worker of keyring", dir, true)},
	}
	s := newSoaker(t)

	warm := &counter{epochs: map[[16]byte]bool{}}
	secrets := s.soak(t, warming, sides, warm)
	here := func() usage {
		u, err := measure(secrets)
		require.NoError(t, err)
		return u
	}
	all := []*process{agentProcess, sides[0].worker, sides[1].worker}
	before := []usage{steady(here)}
	for _, p := range all {
		before = append(before, steady(func() usage { return p.holds(t) }))
	}

	count := &counter{epochs: map[[16]byte]bool{}}
	secrets = s.soak(t, *duration, sides, count)
	after := settled(t, before[0], here)
	t.Logf("this process: before %+v, after %+v", before[0], after)
	require.Empty(t, grown(before[0], after), "of this process")
	for i, p := range all {
		after := settled(t, before[i+1], func() usage { return p.holds(t) })
		t.Logf("%s: before %+v, after %+v", p.name, before[i+1], after)
		require.Empty(t, grown(before[i+1], after), "of %s", p.name)
	}
	t.Logf("%v: %d contexts imported, %d handed over with their connections, %d keys", *duration, count.imports, count.handoffs, len(count.epochs))
	require.Greater(t, count.imports, moves)
	require.Greater(t, count.handoffs, 2*len(sides))
	require.Greater(t, len(count.epochs), int(duration.Seconds()/2), "keys do not rotate")
}

// The control: what befalls a token is told apart.
func TestVerdict(t *testing.T) {
	_, err := verdict([2]gssapi.SecContext{}, [2]error{})
	require.ErrorIs(t, err, errTwice)
	_, err = verdict([2]gssapi.SecContext{}, [2]error{seal.ErrSpent, seal.ErrSpent})
	require.ErrorIs(t, err, errLost)
	_, err = verdict([2]gssapi.SecContext{}, [2]error{seal.ErrDefective, nil})
	require.ErrorIs(t, err, seal.ErrDefective)
	_, err = verdict([2]gssapi.SecContext{}, [2]error{nil, seal.ErrSpent})
	require.NoError(t, err)
}
