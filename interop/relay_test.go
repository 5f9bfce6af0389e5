package interop

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// hop is how many messages each holder of a context receives, and answers.
const hop = 1000

// window is how many messages the initiator sends ahead of the answers, so that
// some are always under way when a context changes hands.
const window = 64

// TestRelay hands one sealed context A to B to C, and back through B to A, while
// a peer in C streams to whoever holds it: sealed, signed and detached
// signatures in turn, both ways. Each message has to be complete and the next
// one; the exporter's handle has to be dead, and the token good for one import.
func TestRelay(t *testing.T) {
	for _, library := range makers {
		for _, initiator := range libraries {
			t.Run("library="+string(library)+"/initiator="+string(initiator), func(t *testing.T) {
				n := nodes(t, library, 3)
				relay(t, n, cpeer(t, initiator), func(holder *proc, token string) {
					requireDead(t, holder)
					for _, importer := range n {
						_, err := importer.try("import", token)
						require.ErrorContains(t, err, "no-context", "second import")
					}
				})
			})
		}
	}
}

// TestRelayPlain is the control of TestRelay: the libraries alone relay the
// stream as well, but let a token be imported twice.
func TestRelayPlain(t *testing.T) {
	for _, library := range makers {
		t.Run(string(library), func(t *testing.T) {
			n := nodes(t, library, 3, "-plain")
			relay(t, n, cpeer(t, mit), func(holder *proc, token string) {
				holder.do("import", token)
			})
		})
	}
}

// relay streams through all hops; after each handover it shows the last holder
// and its token to after.
func relay(t *testing.T, n []*proc, peer *proc, after func(holder *proc, token string)) {
	t.Helper()
	establish(t, peer, n[0], "e18@localhost", allFlags)
	holders := []*proc{n[0], n[1], n[2], n[1], n[0]}

	streamed := peer.send("stream", 0, hop*len(holders), window)
	total := 0
	for i, holder := range holders {
		holder.do("serve", i*hop, hop)
		require.Equal(t, user+"@SEALCTX.TEST false true", info(t, holder), "names and state travel")
		if i+1 < len(holders) {
			token, underWay := hand(t, holder, holders[i+1])
			total += underWay
			after(holder, token)
		}
	}
	_, err := streamed()
	require.NoError(t, err)
	require.Positive(t, total, "no byte was under way in any handover: the test shows nothing")
	t.Logf("%d messages each way, %d handovers, %d bytes under way in them", hop*len(holders), len(holders)-1, total)
}

// TestRelayNoticesLoss is another control: a message lost in an otherwise equal
// stream is noticed by either side.
func TestRelayNoticesLoss(t *testing.T) {
	n := nodes(t, mit, 1)[0]
	peer := cpeer(t, mit)
	establish(t, peer, n, "e18@localhost", allFlags)

	peer.do("make", "W", 0) // never sent
	served := n.send("serve", 0, 1)
	peer.do("put", "S", peer.do("make", "S", 1))
	_, err := served()
	require.ErrorContains(t, err, "gap")

	n.do("make", "W", 0) // never sent
	n.do("put", "W", n.do("make", "W", 0))
	_, err = peer.try("stream", 0, 1, 1)
	require.ErrorContains(t, err, "gap")
}
