package interop

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/interop/wire"
)

// player is one implementation that can initiate and accept.
type player struct {
	name  string
	start func(*testing.T) *proc
}

// players are the C libraries alone, the same through Go with sealed exports, and
// sealctx's own mechanism, which may leave the acceptor's subkey out.
func players() []player {
	var all []player
	for _, m := range libraries {
		all = append(all, player{string(m), func(t *testing.T) *proc { return cpeer(t, m) }})
	}
	for _, m := range makers {
		all = append(all, player{"sealed-" + string(m), func(t *testing.T) *proc { return nodes(t, m, 1)[0] }})
	}
	return append(all, player{"sealed-go-no-subkey", func(t *testing.T) *proc {
		return nodes(t, golang, 1, "-no-subkey")[0]
	}})
}

// TestMatrix lets every implementation talk to every other: each encryption
// type, with mutual authentication (and then with an acceptor's subkey, unless
// the player's name says otherwise) and without; PACs are in the tickets. Both contexts are exported and imported after each message.
func TestMatrix(t *testing.T) {
	for _, initiator := range players() {
		for _, acceptor := range players() {
			t.Run(initiator.name+"-to-"+acceptor.name, func(t *testing.T) {
				i, a := initiator.start(t), acceptor.start(t)
				for enctype := 17; enctype <= 20; enctype++ {
					for _, flags := range []string{allFlags, strings.TrimPrefix(allFlags, "mutual,")} {
						ok := t.Run(fmt.Sprintf("e%d,%s", enctype, flags), func(t *testing.T) {
							establish(t, i, a, fmt.Sprintf("e%d@localhost", enctype), flags)
							prime(t, i, a)
							converse(t, i, a)
							disorder(t, i, a)
							disorder(t, a, i)
							i.do("close")
							a.do("close")
						})
						if !ok {
							return // the two may wait for each other
						}
					}
				}
			})
		}
	}
}

// prime opens both streams. Without mutual authentication nothing tells the
// initiator where the acceptor's sequence begins: MIT takes the initiator's
// own number, Heimdal zero, so between makers that first message is a gap.
// Later ones count. Heimdal wants more than one before duplicates; see primed.
func prime(t *testing.T, i, a *proc) {
	t.Helper()
	for n := range primed {
		for _, way := range [][2]*proc{{i, a}, {a, i}} {
			way[0].do("put", "W", way[0].do("make", "W", n))
			if status := take(way[1]); n > 0 || status != "gap" {
				require.Equal(t, "complete", status, "message %d", n)
			}
		}
	}
}

// TestChannelBindings shows that the implementations compute the same bindings:
// equal ones establish a context, different ones are refused.
func TestChannelBindings(t *testing.T) {
	for _, initiator := range players() {
		for _, acceptor := range players() {
			t.Run(initiator.name+"-to-"+acceptor.name, func(t *testing.T) {
				i, a := initiator.start(t), acceptor.start(t)
				i.do("bind", "tls-unique:one")
				a.do("bind", "tls-unique:one")
				establish(t, i, a, "e18@localhost", allFlags)
				i.do("close")
				a.do("close")

				a.do("bind", "tls-unique:two")
				initiated := i.send("connect", a.do("listen"), "e18@localhost", allFlags)
				_, err := a.try("accept")
				require.ErrorContains(t, err, "bad-bindings")
				a.do("close")
				_, err = initiated()
				require.Error(t, err)
			})
		}
	}
}

// converse sends messages of each kind both ways, some of 64 KiB, and exports and
// imports both contexts after each.
func converse(t *testing.T, i, a *proc) {
	t.Helper()
	for step := range 12 {
		from, to := i, a
		if step%2 == 1 {
			from, to = a, i
		}
		n, kind := step/2, kindName(step/2)
		if step >= 6 {
			n += wire.Large
		}
		from.do("put", kind, from.do("make", kind, n))
		require.Equal(t, fmt.Sprintf("%s complete %d", kind, n), to.do("take"))
		from.do("travel")
		to.do("travel")
	}
}

// disorder sends out of order; the receiving context is exported and imported
// after each message.
func disorder(t *testing.T, from, to *proc) {
	t.Helper()
	made := make([]string, 5)
	for n := range made {
		made[n] = from.do("make", kindName(n), n)
		from.do("travel")
	}
	for _, step := range []struct {
		n    int
		want string
	}{
		{0, "complete"}, {0, "duplicate"}, {1, "complete"}, {3, "gap"}, {2, "unseq"}, {2, "duplicate"}, {4, "complete"},
	} {
		from.do("put", kindName(step.n), made[step.n])
		require.Equal(t, step.want, take(to), "message %d", step.n)
		to.do("travel")
	}
}

// kindName is the kind of message n, as a command's argument.
func kindName(n int) string { return string(rune(wire.KindOf(uint64(n)))) }

// TestReplayedRequest sends one initiator's first token twice: the acceptor, and
// another process that shares its replay cache, have to refuse the second.
// Heimdal is left out: its GSS acceptor accepts both, having no replay cache
// unless told to.
func TestReplayedRequest(t *testing.T) {
	for _, acceptor := range players() {
		if strings.HasSuffix(acceptor.name, string(heimdal)) {
			continue
		}
		t.Run(acceptor.name, func(t *testing.T) {
			token := firstToken(t, cpeer(t, mit))
			a := acceptor.start(t)
			require.NoError(t, offer(t, a, token), "the first time is the control")
			a.do("close")
			require.Error(t, offer(t, a, token), "the second time, the same process")
			require.Error(t, offer(t, acceptor.start(t), token), "the second time, another process")
		})
	}
}

// firstToken is what an initiator sends first. It gets no answer.
func firstToken(t *testing.T, initiator *proc) []byte {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer l.Close()
	initiated := initiator.send("connect", strconv.Itoa(l.Addr().(*net.TCPAddr).Port), "e18@localhost", allFlags)
	require.NoError(t, l.SetDeadline(time.Now().Add(answerTimeout)))
	c, err := l.Accept()
	require.NoError(t, err)
	kind, token, err := wire.Read(bufio.NewReader(c))
	require.NoError(t, err)
	require.Equal(t, wire.Token, kind)
	require.NoError(t, c.Close())
	_, err = initiated()
	require.Error(t, err, "it waits for an answer that does not come")
	return token
}

// offer sends a first token to an acceptor, and answers what that said.
func offer(t *testing.T, acceptor *proc, token []byte) error {
	t.Helper()
	port := acceptor.do("listen")
	accepted := acceptor.send("accept")
	c, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", port))
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, wire.Write(c, wire.Token, token))
	_, err = accepted()
	return err
}
