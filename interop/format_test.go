package interop

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
)

// exported establishes a context with a node and exports it; the peer waits for
// whoever imports it.
func exported(t *testing.T, exporter *proc) (token string) {
	t.Helper()
	peer := cpeer(t, mit)
	establish(t, peer, exporter, "e18@localhost", allFlags)
	return exporter.do("export")
}

// TestForeignFormat shows that an authentic token of one library's context is
// refused by the other library's worker of the same host, before its parser
// sees it, and is good for the right worker afterwards. MIT, Heimdal and
// sealctx's own mechanism share one mechanism OID; the plain format tells them
// apart, as secctx names it by itself.
func TestForeignFormat(t *testing.T) {
	for _, from := range makers {
		for _, to := range makers {
			if from == to {
				continue
			}
			t.Run(string(from)+"-to-"+string(to), func(t *testing.T) {
				env := sealerEnv(t)
				exporter := node(t, buildNode(t, from, raceFlags...), "exporter", env)
				right := node(t, buildNode(t, from, raceFlags...), "right", env)
				wrong := node(t, buildNode(t, to, raceFlags...), "wrong", env)
				token := exported(t, exporter)

				_, err := wrong.try("import", token)
				require.ErrorContains(t, err, "defective-token")
				require.Equal(t, "0", wrong.do("imports"), "the mechanism saw the token")
				right.do("import", token)
				require.Equal(t, "1", right.do("imports"))

				// The control: a worker that lies about its format passes the
				// token on to its mechanism.
				token = exported(t, exporter)
				raw, err := hex.DecodeString(token)
				require.NoError(t, err)
				head, err := seal.Inspect(raw)
				require.NoError(t, err)
				liar := node(t, buildNode(t, to, raceFlags...), "liar", env, "-format", head.Format)
				_, err = liar.try("import", token)
				require.Error(t, err, "another maker's plain token")
				require.Equal(t, "1", liar.do("imports"))
			})
		}
	}
}

// TestBadTokens shows on real contexts that bytes which are no authentic token
// never reach the library's parser, and spend nothing: a bit flipped in every
// place, every truncation, a trailing byte, the library's own plain token, and
// nothing at all.
func TestBadTokens(t *testing.T) {
	for _, library := range makers {
		t.Run(string(library), func(t *testing.T) {
			n := nodes(t, library, 2)
			exporter, importer := n[0], n[1]
			plain := node(t, buildNode(t, library, raceFlags...), "plain", sealerEnv(t), "-plain")
			plainToken := exported(t, plain)
			token := exported(t, exporter)
			raw, err := hex.DecodeString(token)
			require.NoError(t, err)

			answers := map[string]bool{}
			refuse := func(what string, bad []byte) {
				t.Helper()
				_, err := importer.try("import", hex.EncodeToString(bad))
				require.ErrorContains(t, err, "defective-token", what)
				_, answer, _ := strings.Cut(err.Error(), "error ")
				answers[answer] = true
			}
			for i := range raw {
				bad := slices.Clone(raw)
				bad[i] ^= 1 << (i % 8)
				refuse("altered", bad)
				if i > 0 { // an empty argument is no command
					refuse("truncated", raw[:i])
				}
			}
			refuse("trailing", append(slices.Clone(raw), 0))
			rawPlain, err := hex.DecodeString(plainToken)
			require.NoError(t, err)
			refuse("plain", rawPlain)
			require.Len(t, answers, 1, "one error for whatever is wrong: %v", answers)
			require.Equal(t, "0", importer.do("imports"), "the mechanism saw a token that was refused")

			importer.do("import", token)
			require.Equal(t, "1", importer.do("imports"))
			plain.do("import", plainToken) // the control: what was refused is a token
		})
	}
}
