package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// A place where somebody else could have put a socket is refused before anything
// is sent.
func TestUntrustedPlaces(t *testing.T) {
	in := serveHere(t, nil)
	dir := filepath.Dir(in.path)
	dials := func() error {
		c, err := Dial(in.path)
		if err == nil {
			require.NoError(t, c.Close())
		}
		return err
	}
	require.NoError(t, dials())
	for _, mode := range []os.FileMode{0o775, 0o757, 0o777, 0o777 | os.ModeSticky} {
		require.NoError(t, os.Chmod(dir, mode))
		err := dials()
		require.ErrorIs(t, err, ErrImpostor, "mode %o", mode)
		require.ErrorIs(t, err, seal.ErrUnavailable)
		_, err = Listen(filepath.Join(dir, "another"))
		require.ErrorIs(t, err, ErrImpostor)
	}
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, dials())

	link := filepath.Join(publicDir(t), "link")
	require.NoError(t, os.Symlink(dir, link))
	for _, path := range []string{link + "/agent.sock", "agent.sock", dir + "/../" + filepath.Base(dir) + "/agent.sock", "", dir + "//agent.sock"} {
		_, err := Dial(path)
		require.ErrorIs(t, err, ErrImpostor, path)
	}
	for _, path := range []string{dir + "/nothing", dir + "/nowhere/agent.sock"} {
		_, err := Dial(path)
		require.ErrorIs(t, err, ErrAway, path)
	}
	long := dir + "/" + strings.Repeat("x", maxPath)
	_, err := Dial(long)
	require.ErrorContains(t, err, "at most 107 bytes")
	_, err = Listen(long)
	require.ErrorContains(t, err, "at most 107 bytes")
}

// What the owner of a directory is worth depends on who vouches for it. Root.
func TestOwners(t *testing.T) {
	needRoot(t)
	base := publicDir(t) // root's, in a sticky directory
	sub := filepath.Join(base, "sub")
	require.NoError(t, os.Mkdir(sub, 0o755))
	path := filepath.Join(sub, "agent.sock")

	owner, err := checkPath(path)
	require.NoError(t, err)
	require.Zero(t, owner)
	require.NoError(t, os.Chown(sub, otherUID, otherUID)) // as a service manager makes it for the agent's user
	owner, err = checkPath(path)
	require.NoError(t, err)
	require.EqualValues(t, otherUID, owner)
	_, err = Listen(path) // he could put another there
	require.ErrorIs(t, err, ErrImpostor)
	require.NoError(t, TrustedByAll(path))

	require.NoError(t, os.Chmod(base, 0o777|os.ModeSticky)) // anybody can make such a directory here
	_, err = checkPath(path)
	require.ErrorIs(t, err, ErrImpostor)
	require.ErrorContains(t, err, "put it below a directory that only root can write")
	_, err = checkPathFor(path, otherUID) // the control: to its owner it is his own
	require.NoError(t, err)
	require.ErrorIs(t, TrustedByAll(path), ErrImpostor)
	require.NoError(t, os.Chmod(base, 0o755))
	require.NoError(t, os.Chown(base, thirdUID, thirdUID)) // its owner can put another in its place
	_, err = checkPath(path)
	require.ErrorIs(t, err, ErrImpostor)
	require.ErrorContains(t, err, "must be root's")

	require.NoError(t, os.Chown(base, otherUID, otherUID)) // both are the agent's user's
	_, err = checkPathFor(path, otherUID)
	require.NoError(t, err)
	require.ErrorIs(t, TrustedByAll(path), ErrImpostor)
	require.ErrorIs(t, TrustedByAll(base+"/none/agent.sock"), ErrImpostor)
	require.ErrorIs(t, TrustedByAll("/nowhere/agent.sock"), ErrAway)
}

// A false agent in a trusted directory: of another user it is refused, though it
// speaks the protocol. Root.
func TestFalseAgent(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(publicDir(t), "sub")
	require.NoError(t, os.Mkdir(dir, 0o755))
	path := filepath.Join(dir, "agent.sock")
	// It can listen there only because the test lets it for a moment.
	require.NoError(t, os.Chown(dir, otherUID, otherUID))
	require.Equal(t, "ready", spawn(t, "agent", path, as(otherUID)).line(t))
	c, err := Dial(path) // the directory is its own
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, os.Chown(dir, 0, 0))
	_, err = Dial(path)
	require.ErrorIs(t, err, ErrImpostor)
}

// scripted is an agent that answers whatever the test says.
func scripted(t *testing.T, answer func(op wire.Op) []byte) *Client {
	t.Helper()
	path := filepath.Join(publicDir(t), "agent.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b := make([]byte, wire.MaxFrame)
				for {
					if _, err := conn.Read(b); err != nil {
						return
					}
					out := answer(wire.Op(b[5]))
					if out == nil {
						return
					}
					_, _ = conn.Write(out)
				}
			}()
		}
	}()
	c, err := (&Dialer{Timeout: time.Second}).Dial(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Whatever an agent answers, the client neither crashes nor believes it, and has
// no secret left.
func TestFoolishAgent(t *testing.T) {
	start := realStart(t)
	reply := func(op wire.Op, body ...byte) []byte { return wire.Frame(wire.Header{Op: op, Reply: true}, body) }
	key := make([]byte, 32)
	reserved := func(key, start []byte) []byte {
		return append(append(wire.KeyPrefix(len(key), len(start)), key...), wire.KeySuffix(start)...)
	}
	for name, answer := range map[string]func(op wire.Op) []byte{
		"nothing":          func(wire.Op) []byte { return nil },
		"noise":            func(wire.Op) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") },
		"a request":        func(op wire.Op) []byte { return wire.Frame(wire.Header{Op: op}, nil) },
		"another's answer": func(op wire.Op) []byte { return reply(op%8 + 1) },
		"half":             func(op wire.Op) []byte { return reply(op)[:5] },
		"too much":         func(op wire.Op) []byte { return append(reply(op), 0) },
		"far too much":     func(op wire.Op) []byte { return reply(op, make([]byte, 50000)...) },
		"a length of lies": func(op wire.Op) []byte { b := reply(op); b[10] = 0x80; return b },
		"an odd status":    func(op wire.Op) []byte { b := wire.Failure(op, wire.Refused, ""); b[7] = 99; return b },
		"a bare refusal":   func(op wire.Op) []byte { b := reply(op); b[7] = byte(wire.Refused); return b },
		"an empty key":     func(op wire.Op) []byte { return reserved(nil, start) },
		"a short key":      func(op wire.Op) []byte { return reserved(key[:31], start) },
		"no start":         func(op wire.Op) []byte { return reserved(key, nil) },
		"a long start": func(op wire.Op) []byte {
			return reserved(key, append(start[:len(start):len(start)], make([]byte, 200)...))
		},
		"another start": func(op wire.Op) []byte { return reserved(key, start) }, // good, and not what was asked for
	} {
		t.Run(name, func(t *testing.T) {
			c := scripted(t, answer)
			_, err := c.Reserve(testRequest)
			require.ErrorIs(t, err, seal.ErrUnavailable)
			for _, open := range []func([]byte, ...string) (*memsafe.Secret, error){c.Open, c.TakeBack} {
				secret, err := open([]byte("token"), testFormat)
				require.ErrorIs(t, err, seal.ErrUnavailable)
				require.Nil(t, secret)
			}
			_, err = c.Status([]byte("token"))
			require.Error(t, err)
			_, err = c.Account()
			require.Error(t, err)
			require.Zero(t, c.pool.InUse())
		})
	}
}

// realStart is what an agent answers to another request than testRequest.
func realStart(t *testing.T) []byte {
	t.Helper()
	c := serveHere(t, nil).dial(t)
	frame, _, err := reserveRequest(seal.Request{Format: "another/1/format"}, []byte{1, 2})
	require.NoError(t, err)
	g, err := c.reserve(frame, -1, c.deadline())
	require.NoError(t, err)
	g.Key.Wipe()
	return g.Start
}

// A refusal's text cannot do things to a terminal.
func TestPrintable(t *testing.T) {
	c := scripted(t, func(op wire.Op) []byte { return wire.Failure(op, wire.Refused, "no \x1b[2Jway\n") })
	_, err := c.Account()
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, "no ?[2Jway?")
}

// Each of an agent's statuses is its own error, with the agent's text behind it, and
// a defective token without a text is the one value.
func TestErrors(t *testing.T) {
	for code, want := range map[wire.Code]error{
		wire.Defective: seal.ErrDefective, wire.Expired: seal.ErrExpired, wire.Unauthorized: seal.ErrUnauthorized,
		wire.OtherFormat: seal.ErrFormat, wire.Spent: seal.ErrSpent, wire.Unavailable: seal.ErrUnavailable,
		wire.BadRequest: seal.ErrRequest, wire.BadAudience: errAudience, wire.Refused: ErrRefused,
		wire.Quota: ErrQuota, wire.Protocol: ErrProtocol, wire.NotYou: ErrRefused, wire.Unknown: ErrUnknownEpoch, wire.Stopping: ErrAway,
		wire.Lost: seal.ErrLost,
	} {
		require.ErrorIs(t, errorOf(code, "why"), want, code)
		require.Equal(t, want.Error()+": why", errorOf(code, "why").Error())
		require.Equal(t, want, errorOf(code, ""))
		// What the agent's own error says already is not said twice.
		require.Equal(t, want.Error(), errorOf(code, want.Error()).Error())
		require.Equal(t, errorOf(code, "why").Error(), errorOf(code, want.Error()+": why").Error())
	}
	require.Equal(t, wire.Unavailable, codeOf(net.ErrClosed))

	// Every code of the protocol has one row, and goes to the client and back.
	for code := wire.OK + 1; code.Known(); code++ {
		rows := 0
		for _, s := range statuses {
			if s.code == code {
				rows++
				if s.of != nil {
					require.Equal(t, code, codeOf(fmt.Errorf("%w: why", s.err)), code)
				}
			}
		}
		require.Equal(t, 1, rows, code)
	}
}

// A token that was claimed too late is spent, and whoever asked is told so and
// not that it expired, which spends nothing. What an agent says of it goes
// through frames as it sends them.
func TestLostThroughProtocol(t *testing.T) {
	for _, cause := range []error{seal.ErrExpired, seal.ErrDefective, seal.ErrUnavailable} {
		late := fmt.Errorf("%w: %w", seal.ErrLost, cause) // as seal.Host makes it
		c := scripted(t, func(op wire.Op) []byte { return wire.Failure(op, codeOf(late), late.Error()) })
		for _, ask := range []func([]byte, ...string) (*memsafe.Secret, error){c.Open, c.TakeBack} {
			secret, err := ask([]byte("token"), testFormat)
			require.Nil(t, secret)
			require.ErrorIs(t, err, seal.ErrLost)
			require.ErrorContains(t, err, cause.Error())
			require.NotErrorIs(t, err, cause, "that would say it is not spent")
			require.NotErrorIs(t, err, ErrUncertain)
		}
		require.Zero(t, c.pool.InUse())
	}
}

// A closed client says so; a full one gives up in time.
func TestClientLimits(t *testing.T) {
	in := serveHere(t, nil)
	c, err := (&Dialer{Timeout: 50 * time.Millisecond}).Dial(in.path)
	require.NoError(t, err)
	for range clientConnections {
		c.slots <- struct{}{}
	}
	_, err = c.Account()
	require.ErrorIs(t, err, ErrAway)
	for range clientConnections {
		<-c.slots
	}
	_, err = c.Account()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	_, err = c.Account()
	require.ErrorIs(t, err, ErrClosed)
}

// An idle connection that the agent has closed is no reason to fail, even for an
// open: not a byte of it was sent.
func TestStaleConnection(t *testing.T) {
	s, err := NewServer(nil)
	require.NoError(t, err)
	s.times.idle = 50 * time.Millisecond
	in := serveAs(t, s)
	c := in.dial(t)
	b := reserve(t, c, seal.Party{})
	settles(t, 0, in.connections)
	secret, err := c.Open(b, testFormat)
	require.NoError(t, err)
	secret.Wipe()
}
