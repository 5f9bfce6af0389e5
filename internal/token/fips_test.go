package token

import (
	"crypto/fips140"
	"crypto/rand"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/suite"
)

// TestFIPSOnly runs itself again under GODEBUG=fips140=only: there suite 1 seals
// and opens, and suite 2 is an error before any plain byte is laid open.
func TestFIPSOnly(t *testing.T) {
	if !fips140.Enabled() {
		self, err := os.Executable()
		require.NoError(t, err)
		child := exec.Command(self, "-test.run=^TestFIPSOnly$", "-test.v")
		child.Env = append(os.Environ(), "GODEBUG=fips140=only")
		out, err := child.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestFIPSOnly/enforced")
		return
	}
	t.Run("enforced", func(t *testing.T) {
		plain := randomBytes(1165)
		sealed := sealToken(t, testHeader(suite.AES256GCM), testKey, plain)
		got, err := open(testKey, sealed)
		require.NoError(t, err)
		require.Equal(t, plain, got)

		_, err = Seal(suite.ChaCha20Poly1305, nil, testKey, plain, rand.Reader)
		require.ErrorContains(t, err, "ChaCha20-Poly1305", "control: the mode is in force")
	})
}
