package interop

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestHalfEstablished shows that an initiator which waits for the acceptor's
// answer cannot be exported (RFC 2743 2.2.8). The control: the library alone
// does it.
func TestHalfEstablished(t *testing.T) {
	n := nodes(t, mit, 1)[0]
	firstToken(t, n)
	_, err := n.try("export")
	require.ErrorContains(t, err, "no-context")

	plain := nodes(t, mit, 1, "-plain")[0]
	firstToken(t, plain)
	plain.do("export")
}

// TestExpired shows that a context which has outlived its ticket is not
// exported, and says so (RFC 2744 5.14). The control: the C libraries
// alone export and import it as if it were alive.
func TestExpired(t *testing.T) {
	const life = 2 * time.Second
	conf, err := os.ReadFile(filepath.Join(realm.Dir(), "krb5.conf"))
	require.NoError(t, err)
	strict := bytes.Replace(conf, []byte("[libdefaults]\n"), []byte("[libdefaults]\n\tclockskew = 1\n"), 1)
	path := filepath.Join(t.TempDir(), "krb5.conf")
	require.NoError(t, os.WriteFile(path, strict, 0o600))

	for _, library := range makers {
		t.Run(string(library), func(t *testing.T) {
			env := append(sealerEnv(t), "KRB5_CONFIG="+path)
			var args []string
			if library == golang {
				args = []string{"-skew", "1s"} // it does not read krb5.conf
			}
			sealed := node(t, buildNode(t, library, raceFlags...), "sealed", env, args...)
			plain := node(t, buildNode(t, library, raceFlags...), "plain", env, append(args, "-plain")...)
			cache, err := realm.LoginFor(user, life)
			require.NoError(t, err)
			for _, n := range []*proc{sealed, plain} {
				peer := start(t, "cpeer", buildCPeer(t, mit), []string{"KRB5CCNAME=FILE:" + cache})
				establish(t, peer, n, "e18@localhost", allFlags)
			}
			time.Sleep(life + 2*time.Second) // the ticket's life, the skew, and a second of grain
			_, err = sealed.try("export")
			require.ErrorContains(t, err, "context-expired")
			if library != golang {
				plain.do("import", plain.do("export"))
				return
			}
			_, err = plain.try("export")
			require.ErrorContains(t, err, "context-expired", "sealctx's own mechanism refuses by itself")
		})
	}
}
