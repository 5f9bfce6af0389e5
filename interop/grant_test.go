package interop

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGrant lets sealctx's own mechanism ask a real KDC for its tickets, with the
// ticket-granting ticket of a cache that MIT's kinit made, and with a keytab
// alone; and then talk to an acceptor in C, with each encryption type.
func TestGrant(t *testing.T) {
	keytab, err := realm.UserKeytab(user)
	require.NoError(t, err)
	empty := "KRB5CCNAME=FILE:" + filepath.Join(t.TempDir(), "none")
	path := buildNode(t, golang, raceFlags...)
	for name, env := range map[string][]string{
		"cache":  {"KRB5CCNAME=FILE:" + realm.CCache()},
		"keytab": {empty, "KRB5_CLIENT_KTNAME=FILE:" + keytab},
	} {
		for enctype := 17; enctype <= 20; enctype++ {
			t.Run(fmt.Sprintf("%s/e%d", name, enctype), func(t *testing.T) {
				n := node(t, path, "go", append(sealerEnv(t), env...), "-grant")
				peer := cpeer(t, mit)
				establish(t, n, peer, fmt.Sprintf("e%d@localhost", enctype), allFlags)
				require.Equal(t, user+"@SEALCTX.TEST true true", info(t, n))
				prime(t, n, peer)
				converse(t, n, peer)
			})
		}
	}
	t.Run("neither", func(t *testing.T) {
		n := node(t, path, "go", append(sealerEnv(t), empty), "-grant")
		peer := cpeer(t, mit)
		_, err := n.try("connect", peer.do("listen"), "e18@localhost", allFlags)
		require.ErrorContains(t, err, "no-cred", "the control: nothing of the system's is used")
	})
}
