package krb5_test

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
)

// TestContextVectors: the vectors of doc/krb5-context.md.
func TestContextVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/contexts.txt")
	require.NoError(t, err)
	p := newBench(t, krb5.Config{}).p
	counts := map[string]int{}
	for _, section := range strings.Split(string(b), "\n\n")[1:] {
		c := map[string]string{}
		for _, line := range strings.Split(strings.TrimSpace(section), "\n") {
			key, value, found := strings.Cut(line, ":")
			require.True(t, found, line)
			c[key] = strings.TrimSpace(value)
		}
		t.Run(c["name"], func(t *testing.T) {
			tok, err := hex.DecodeString(c["token"])
			require.NoError(t, err)
			sc, err := p.ImportSecContext(tok)
			counts[c["expect"]]++
			switch c["expect"] {
			case "imported":
				require.NoError(t, err)
				again, err := sc.Export()
				require.NoError(t, err)
				require.Equal(t, tok, again)
			case "defective":
				require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
			case "expired":
				require.ErrorIs(t, err, gssapi.ErrContextExpired)
			default:
				t.Fatalf("expect %q", c["expect"])
			}
		})
	}
	require.Greater(t, counts["imported"], 10)
	require.Greater(t, counts["defective"], 20)
	require.Positive(t, counts["expired"])
}
