package opener

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
	"github.com/stretchr/testify/require"
)

const (
	python = "/usr/bin/python3" // Debian's, which finds python3-cryptography
	format = "test/1/any"
)

// TestVectors runs the checked-in vectors. The control is a directory in which
// one token was altered.
func TestVectors(t *testing.T) {
	const dir = "../../seal/testdata/vectors"
	out := runOpener(t, nil, "vectors", dir)
	require.Contains(t, out, " 0 failed")
	t.Log(strings.TrimSpace(out))

	altered := t.TempDir()
	text, err := os.ReadFile(filepath.Join(dir, "gcm-size-1.txt"))
	require.NoError(t, err)
	text = bytes.Replace(text, []byte("token: 534c4358"), []byte("token: 534c4359"), 1)
	require.NoError(t, os.WriteFile(filepath.Join(altered, "altered.txt"), text, 0o600))
	got, err := opener(nil, "vectors", altered).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(got), "malformed instead of success")
}

// TestFreshTokens seals tokens of many sizes and opens them with the other
// opener, which finds the keys in the runtime directory as the specification
// says; then with this one, and then with the other again.
func TestFreshTokens(t *testing.T) {
	for _, st := range suite.All() {
		t.Run(st.String(), func(t *testing.T) {
			h := newHost(t, st)
			var tokens [][]byte
			var want []string
			for n := 0; n <= token.MaxPlain; n = n*5/4 + 1 {
				plain := make([]byte, n)
				_, _ = rand.Read(plain)
				tokens = append(tokens, sealPlain(t, h, plain, seal.Request{Format: format}))
				want = append(want, opened(plain))
			}
			require.Equal(t, want, openWith(t, h, "open", format, tokens))
			require.Equal(t, all("wrong-format", tokens), openWith(t, h, "open", format+"/x", tokens))
			for i, token := range tokens {
				plain, err := h.Open(token, format)
				require.NoError(t, err)
				require.Equal(t, want[i], opened(plain.Bytes()))
				plain.Wipe()
			}
			require.Equal(t, all("spent", tokens), openWith(t, h, "open", format, tokens))
		})
	}
}

// TestRefusals: the two agree on what does not open, and why.
func TestRefusals(t *testing.T) {
	h := newHost(t, suite.Default())
	plain := []byte("a plain token")
	good := sealPlain(t, h, plain, seal.Request{Format: format})
	here, err := seal.Process(os.Getpid())
	require.NoError(t, err)
	mine := sealPlain(t, h, plain, seal.Request{Format: format, Audience: here})
	brief := sealPlain(t, h, plain, seal.Request{Format: format, Lifetime: time.Millisecond})
	altered := bytes.Clone(good)
	altered[len(altered)-1] ^= 1
	forged := bytes.Clone(good)
	forged[40] ^= 1
	elsewhere := sealPlain(t, newHost(t, suite.Default()), plain, seal.Request{Format: format})
	retired := sealPlain(t, h, plain, seal.Request{Format: format})
	require.NoError(t, h.Rotate())
	closed := good // its epoch does not seal any more
	later := sealPlain(t, h, plain, seal.Request{Format: format})
	time.Sleep(2 * time.Millisecond)

	tokens := [][]byte{good, mine, brief, altered, forged, good[1:], elsewhere, closed, later}
	require.Equal(t, []string{
		opened(plain), "unauthorized", "expired", "body-altered", "header-not-authentic", "malformed", "unknown-epoch", opened(plain), opened(plain),
	}, openWith(t, h, "open", format, tokens))
	require.Equal(t, []string{opened(plain)}, openWith(t, h, "take-back", format, [][]byte{mine}))

	header, err := seal.Inspect(retired)
	require.NoError(t, err)
	require.NoError(t, h.Retire(header.Epoch))
	require.Equal(t, []string{"unknown-epoch", opened(plain)}, openWith(t, h, "open", format, [][]byte{retired, later}))
}

func newHost(t *testing.T, st suite.Suite) *seal.Host {
	t.Helper()
	h, err := seal.OpenHost(&seal.Options{Directory: filepath.Join(t.TempDir(), "ring"), Suite: st.String(), AnyFilesystem: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

func sealPlain(t *testing.T, h *seal.Host, plain []byte, req seal.Request) []byte {
	t.Helper()
	r, err := h.Reserve(req)
	require.NoError(t, err)
	sealed, err := r.Seal(plain)
	require.NoError(t, err)
	return sealed
}

// opened is what the other opener prints for a token that opens.
func opened(plain []byte) string {
	return fmt.Sprintf("success %d %x", len(plain), sha256.Sum256(plain))
}

func all(class string, tokens [][]byte) []string {
	lines := make([]string, len(tokens))
	for i := range lines {
		lines[i] = class
	}
	return lines
}

// openWith returns what the other opener says of each token.
func openWith(t *testing.T, h *seal.Host, action, format string, tokens [][]byte) []string {
	t.Helper()
	var in strings.Builder
	for _, token := range tokens {
		fmt.Fprintln(&in, hex.EncodeToString(token))
	}
	out := runOpener(t, []byte(in.String()), action, strings.TrimPrefix(h.String(), "keyring "), format)
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n")
}

func opener(stdin []byte, args ...string) *exec.Cmd {
	cmd := exec.Command(python, append([]string{"opener.py"}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	return cmd
}

func runOpener(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	cmd := opener(stdin, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s\n%s(run.sh installs what it needs)", out, &stderr)
	return string(out)
}
