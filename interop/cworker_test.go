package interop

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
	"github.com/sealctx/sealctx/secctx"
	"github.com/sealctx/sealctx/secctx/krb5"
)

// A context that a C program has accepted goes on in a Go program without C: sealed by
// the library in front of MIT's, opened through the agent, imported by secctx/krb5 in
// the middle of its stream, and only once.
func TestInterposeToGo(t *testing.T) {
	in := interpose(t, mit, "")
	client, err := agent.Dial(in.socket)
	require.NoError(t, err)
	defer client.Close()
	mechanism, err := krb5.New(nil)
	require.NoError(t, err)
	p := secctx.Wrap(mechanism, client)
	for _, role := range []string{"acceptor", "initiator"} {
		for _, enctype := range []string{"17", "18", "19", "20"} {
			captured := map[string][]byte{}
			for line := range strings.Lines(in.run(t, nil, "capture", role, enctype)) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				captured[key], _ = hex.DecodeString(value)
			}
			sc, err := p.ImportSecContext(captured["token"])
			require.NoError(t, err)
			info, err := sc.Inquire()
			require.NoError(t, err)
			require.Equal(t, role == "initiator", info.LocallyInitiated)
			_, _, _, err = sc.Unwrap(captured["duplicate"])
			require.ErrorIs(t, err, gssapi.InfoDuplicateToken)
			_, _, _, err = sc.Unwrap(captured["late"])
			require.ErrorIs(t, err, gssapi.InfoUnseqToken)
			plain, _, _, err := sc.Unwrap(captured["signed"])
			require.NoError(t, err)
			require.Equal(t, "message 4", string(plain))
			_, err = p.ImportSecContext(captured["token"])
			require.ErrorIs(t, err, seal.ErrSpent)

			// It is handed on from Go to Go, sealed again.
			again, err := sc.Export()
			require.NoError(t, err)
			next, err := p.ImportSecContext(again)
			require.NoError(t, err)
			_, err = next.VerifyMIC([]byte("message 5"), captured["mic"])
			require.NoError(t, err)
			_, _ = next.Delete()
		}
	}
}
