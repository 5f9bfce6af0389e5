package interop

import (
	"encoding/base64"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/interop/kdc"
)

// halfNegotiation is a SPNEGO token that offers Kerberos and has nothing of it.
const halfNegotiation = "YBsGBisGAQUFAqARMA+gDTALBgkqhkiG9xIBAgI="

// TestHalfNegotiation sends half a negotiation to go-gssapi's own HTTP handler
// over a C library. Bare, the handler panics on the name that is not there;
// wrapped by secctx, it refuses the request and never calls the next handler.
func TestHalfNegotiation(t *testing.T) {
	raw, err := base64.StdEncoding.DecodeString(halfNegotiation)
	require.NoError(t, err)
	half := hex.EncodeToString(raw)
	for _, library := range libraries {
		t.Run(string(library), func(t *testing.T) {
			path := buildNode(t, library, raceFlags...)
			client := node(t, buildNode(t, mit, raceFlags...), "client", append(sealerEnv(t), "KRB5CCNAME=FILE:"+tickets))
			sealed := node(t, path, "sealed", sealerEnv(t))
			bare := node(t, path, "bare", sealerEnv(t), "-plain")

			require.Equal(t, "panic", bare.do("negotiate", half), "positive control: the library takes the first half")
			require.Equal(t, "403 refused", sealed.do("negotiate", half))
			require.Equal(t, "403 refused", sealed.do("negotiate", half), "the second time")
			for name, p := range map[string]*proc{"sealed": sealed, "bare": bare} {
				require.Equal(t, `200 "`+user+"@"+kdc.Name+`"-true`, p.do("negotiate", client.do("hello", "e18@localhost")), "positive control: %s", name)
			}
		})
	}
}
