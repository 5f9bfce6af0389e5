package handoff

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/secctx"
)

// startAgent runs an agent in a process of its own and returns it and its
// socket.
func (h *house) startAgent() (*worker, string) {
	h.t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-handoff-")
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(h.t, os.Chmod(dir, 0o755)) // other users are to reach it
	socket := filepath.Join(dir, "agent.sock")
	w := h.spawn("agent", "", asking(socket))
	require.True(h.t, strings.HasPrefix(w.until(started), started), "the agent has not started")
	return w, socket
}

// asking makes a worker use an agent.
func asking(socket string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, agentVariable+"="+socket) }
}

// throughAgent is the house's provider, sealed by an agent.
func (h *house) throughAgent(socket string) gssapi.Provider {
	h.t.Helper()
	client, err := agent.Dial(socket)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = client.Close() })
	return secctx.Wrap(h.mech, client)
}

// TestThroughAgent hands over through an agent; a worker that the policy has
// nothing for gets nothing, and neither does any without the agent.
func TestThroughAgent(t *testing.T) {
	h := newHouse(t)
	a, socket := h.startAgent()
	p := h.throughAgent(socket)
	w := h.spawn("serve", "", asking(socket))
	s := h.session(p)
	require.NoError(t, Send(within(t, ample), w.conn, s.sc, s.conn, nil))
	require.NoError(t, s.ask("there?"))
	_ = s.client.Close()

	s = h.session(p)
	other := Sender{Audience: func(Peer) (seal.Party, error) { return seal.User(54321), nil }}
	require.ErrorIs(t, other.Send(within(t, ample), w.conn, s.sc, s.conn, nil), gssapi.ErrUnauthorized)
	require.NoError(t, s.works())
	a.end()
	require.ErrorIs(t, Send(within(t, ample), w.conn, s.sc, s.conn, nil), seal.ErrUnavailable)
	require.NoError(t, s.works())
	s.open()
}

// TestVerify: a worker's word is enough where only the agent knows better, and a
// lie is no way to a second owner; a Sender with Verify finds the lie.
func TestVerify(t *testing.T) {
	h := newHouse(t)
	_, socket := h.startAgent()
	p := h.throughAgent(socket)
	for _, verify := range []bool{false, true} {
		sender := &Sender{Verify: verify}
		a, b := unixPair(t, unix.SOCK_STREAM)
		h.session(p).handedOver(sender, a, b, p)

		s := h.session(p)
		tokens := make(chan []byte, 1)
		go func() { // the liar
			_ = say(b, ready)
			tok, _ := getToken(b)
			tokens <- tok
			_ = say(b, imported)
		}()
		err := sender.Send(within(t, ample), a, s.sc, s.conn, nil)
		sc, claim := p.ImportSecContext(<-tokens)
		if verify {
			s.returned(err)
			require.ErrorIs(t, err, ErrProtocol)
			require.ErrorIs(t, claim, gssapi.ErrNoContext)
			continue
		}
		require.NoError(t, err)
		s.gone()
		require.NoError(t, claim, "it can still claim what is its own")
		s.sc = sc
		require.NoError(t, s.works())
	}
}

// TestVerifyWithoutAgent: where the agent does not tell, nobody knows whether the
// worker lies, and it does not get the connection.
func TestVerifyWithoutAgent(t *testing.T) {
	h := newHouse(t)
	agent, socket := h.startAgent()
	p := h.throughAgent(socket)
	a, b := unixPair(t, unix.SOCK_STREAM)
	s := h.session(p)
	go func() {
		_ = say(b, ready)
		_, _ = getToken(b)
		agent.end()
		_ = say(b, imported)
	}()
	sender := Sender{Verify: true}
	err := sender.Send(within(t, 2*time.Second), a, s.sc, s.conn, nil) // the agent is asked until then
	require.ErrorIs(t, err, ErrClaimed)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	require.ErrorContains(t, err, "taking it back")
	s.gone()
	s.hungUp()
}

// TestAnotherUsersProcess: without a line in the policy, a process of another
// user is none that a token is made for. Root has a worker of another user; who
// is not root takes the first process, which is root's.
func TestAnotherUsersProcess(t *testing.T) {
	h := newHouse(t)
	_, socket := h.startAgent()
	p := h.throughAgent(socket)
	sender, as := new(Sender), func(*exec.Cmd) {}
	if os.Geteuid() == 0 {
		as = func(cmd *exec.Cmd) {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
		}
	} else {
		sender.Audience = func(Peer) (seal.Party, error) { return seal.Process(1) }
	}
	stranger := h.spawn("peer", "", as)
	s := h.session(p)
	require.ErrorIs(t, sender.Send(within(t, ample), stranger.conn, s.sc, s.conn, nil), gssapi.ErrUnauthorized)
	require.NoError(t, s.works())
	s.open()
}

// TestAgentDies between the token and its claim. Its register is gone, so nobody
// can tell who has the context, and nobody gets it.
func TestAgentDies(t *testing.T) {
	h := newHouse(t)
	a, socket := h.startAgent()
	p := h.throughAgent(socket)
	w := h.spawn("stop", hasToken, asking(socket), func(cmd *exec.Cmd) { cmd.Stderr = nil })
	s := h.session(p)
	ctx, cancel := context.WithCancel(context.Background())
	steps := make(chan string, 1)
	go func() {
		steps <- w.until(hasToken)
		a.end()
		cancel()
	}()
	err := Send(ctx, w.conn, s.sc, s.conn, nil)
	require.ErrorIs(t, err, ErrClaimed)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	s.gone()
	s.hungUp()
	all := <-steps + w.goOn()
	require.Contains(t, all, failed)
	require.NotContains(t, all, hasClaim)
}
