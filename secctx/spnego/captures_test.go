package spnego

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCaptures reads tokens that MIT's and Heimdal's libraries made (interop/web:
// TestCaptures), and has an acceptor refuse them, whose tickets are of another realm.
func TestCaptures(t *testing.T) {
	r := newRig(t)
	b, err := os.ReadFile("testdata/captures.txt")
	require.NoError(t, err)
	read := 0
	for line := range strings.Lines(string(b)) {
		name, text, ok := strings.Cut(strings.TrimSpace(line), ": ")
		require.True(t, ok)
		token, err := hex.DecodeString(text)
		require.NoError(t, err)
		read++
		if strings.Contains(name, "accepts") {
			resp, ok := parseResp(token)
			require.True(t, ok, name)
			require.Equal(t, acceptCompleted, resp.state, name)
			require.Equal(t, []byte(oidKrb5), resp.mech, name)
			require.NotEmpty(t, resp.token, name)
			require.Nil(t, resp.mic, name)
			require.Equal(t, token, resp.build(), "%s: written as it was read", name)
			continue
		}
		oid, body, ok := openFrame(token)
		require.True(t, ok, name)
		require.Equal(t, []byte(oidSPNEGO), oid, name)
		init, ok := parseInit(body)
		require.True(t, ok, name)
		list, _ := mechList(init.mechTypes)
		first, ok := nextMech(&list)
		require.True(t, ok)
		require.Equal(t, []byte(oidKrb5), plainOID(first), name)
		require.NotEmpty(t, init.mechToken, name)
		acc := r.accept(r.acceptorP)
		_, _, err = acc.Continue(token)
		require.Error(t, err, name)
		dead(t, acc)
	}
	require.Equal(t, 6, read)
}
