package interop

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// take is what a process says of the next frame, without the kind; the libraries
// may or may not give a message beside a supplementary status.
func take(p *proc) string {
	p.t.Helper()
	return strings.Fields(p.do("take"))[1]
}

// TestWindow shows that the replay and sequence window travels: messages that
// the peer made before a handover and that arrive after it, or again, or never,
// get the status that they would have got without a handover. And the same of
// the other direction: what the holders make, the peer sees as one stream.
func TestWindow(t *testing.T) {
	for _, library := range makers {
		for _, peerMaker := range libraries {
			for _, kind := range []string{"W", "S", "M"} {
				t.Run(fmt.Sprintf("library=%s/initiator=%s/kind=%s", library, peerMaker, kind), func(t *testing.T) {
					n := nodes(t, library, 2)
					peer := cpeer(t, peerMaker)
					establish(t, peer, n[0], "e18@localhost", allFlags)
					move := func() *proc {
						hand(t, n[0], n[1])
						n[0], n[1] = n[1], n[0]
						return n[0]
					}
					t.Run("in", func(t *testing.T) { windowOfHolder(t, peer, n[0], kind, move) })
					t.Run("out", func(t *testing.T) { windowOfPeer(t, peer, n[0], kind, move) })
				})
			}
		}
	}
}

// primed is how many messages open each stream: Heimdal 7 answers FAILURE where
// the oldest message that it remembers comes again, handover or not.
const primed = 3

// windowOfHolder sends from the peer; the holder changes between messages.
func windowOfHolder(t *testing.T, peer, holder *proc, kind string, move func() *proc) {
	for range primed {
		peer.do("put", kind, peer.do("make", kind, 100))
		require.Equal(t, "complete", take(holder))
	}
	made := make([]string, 6)
	for i := range made {
		made[i] = peer.do("make", kind, i)
	}
	put := func(i int) string {
		peer.do("put", kind, made[i])
		return take(holder)
	}
	require.Equal(t, "complete", put(0))
	holder = move()
	require.Equal(t, "complete", put(1), "the next one after a handover")
	require.Equal(t, "duplicate", put(0), "seen by another process")
	holder = move()
	require.Equal(t, "gap", put(3), "2 is missing")
	holder = move()
	require.Equal(t, "unseq", put(2), "late: its gap was noticed by another process")
	require.Equal(t, "duplicate", put(3))
	holder = move()
	require.Equal(t, "duplicate", put(2))
	require.Equal(t, "complete", put(4), "the stream goes on")
	require.Equal(t, "complete", put(5))
}

// windowOfPeer sends from whoever holds the context.
func windowOfPeer(t *testing.T, peer, holder *proc, kind string, move func() *proc) {
	put := func(frame string) string {
		holder.do("put", kind, frame)
		return take(peer)
	}
	for range primed {
		require.Equal(t, "complete", put(holder.do("make", kind, 0)))
	}
	late := holder.do("make", kind, 1)
	holder = move()
	again := holder.do("make", kind, 2)
	require.Equal(t, "gap", put(again), "1 was made by the former holder, and is missing")
	holder = move()
	require.Equal(t, "unseq", put(late))
	require.Equal(t, "duplicate", put(again))
	require.Equal(t, "complete", put(holder.do("make", kind, 3)), "no number twice, none left out")
}

// TestJump lets a peer leave out as many messages as the window is long, and one
// more or less, and then send the latest of those left out. The holder is
// sealctx's own mechanism: MIT takes the first message after a jump of exactly
// 64 for a duplicate.
func TestJump(t *testing.T) {
	for _, peerMaker := range libraries {
		for jump := 62; jump <= 66; jump++ {
			t.Run(fmt.Sprintf("initiator=%s/jump=%d", peerMaker, jump), func(t *testing.T) {
				n := nodes(t, golang, 2)
				peer := cpeer(t, peerMaker)
				establish(t, peer, n[0], "e18@localhost", allFlags)
				put := func(holder *proc, frame string) string {
					peer.do("put", "W", frame)
					return take(holder)
				}
				require.Equal(t, "complete", put(n[0], peer.do("make", "W", 0)))
				missing := make([]string, jump-1)
				for i := range missing {
					missing[i] = peer.do("make", "W", i)
				}
				hand(t, n[0], n[1])
				require.Equal(t, "gap", put(n[1], peer.do("make", "W", jump)))
				require.Equal(t, "complete", put(n[1], peer.do("make", "W", jump+1)))
				hand(t, n[1], n[0])
				late := missing[jump-2]
				require.Equal(t, "unseq", put(n[0], late))
				require.Equal(t, "duplicate", put(n[0], late))
				require.Equal(t, "complete", put(n[0], peer.do("make", "W", jump+2)))
			})
		}
	}
}
