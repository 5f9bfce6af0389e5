package token

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"path/filepath"
	"testing"

	"github.com/sealctx/sealctx/internal/vectors"
	"github.com/stretchr/testify/require"
)

// TestVectors runs the vectors through this package: what parses, the keys, and
// what opens. What needs a register and an opener is in package seal's tests.
func TestVectors(t *testing.T) {
	all, err := vectors.Read(filepath.Join("../..", vectors.Dir))
	require.NoError(t, err)
	for _, v := range all {
		t.Run(v.Name, func(t *testing.T) {
			tok, err := Parse(v.Token)
			if v.Expect == vectors.Malformed {
				require.Equal(t, ErrMalformed, err)
				return
			}
			require.NoError(t, err)
			requireSameBytes(t, tok, v.Token)
			if v.KEnc == nil {
				return
			}
			enc, com := deriveKeys(t, v.HostKey, tok.Bound)
			require.Equal(t, v.KEnc, enc)
			require.Equal(t, v.KCom, com)
			plain, err := open(v.HostKey, v.Token)
			switch v.Expect {
			case vectors.Header:
				require.Equal(t, errCommitment, err)
			case vectors.Body:
				require.Equal(t, ErrOpen, err)
			case vectors.Success:
				require.NoError(t, err)
				require.Len(t, plain, v.PlainLength)
				require.Equal(t, v.PlainSHA256, sum(plain))
			default: // authentic, and refused by what is not this package's
				require.NoError(t, err)
			}
		})
	}
}

// TestSealAgrees holds that Seal writes what the vectors' own writer does: the
// one with the other's nonce gives the same bytes.
func TestSealAgrees(t *testing.T) {
	for _, st := range suites {
		for _, n := range []int{0, 1, 511, 512, 1165, MaxPlain} {
			plain := randomBytes(n)
			sealed := sealToken(t, testHeader(st), testKey, plain)
			tok, err := Parse(sealed)
			require.NoError(t, err)
			p := parts(&tok.Header)
			p.Nonce, p.Body = tok.Sealed[:NonceSize], vectors.Pad(plain)
			again, err := p.Seal()
			require.NoError(t, err)
			require.Equal(t, again, sealed)
		}
	}
}

func requireSameBytes(t *testing.T, tok Token, b []byte) {
	t.Helper()
	again, err := tok.Header.Append(nil)
	require.NoError(t, err)
	require.Equal(t, tok.Bound, again)
	require.Equal(t, b, append(append([]byte{}, tok.Prefix...), tok.Sealed...))
}

// deriveKeys is SPEC section 3 by the standard library.
func deriveKeys(t testing.TB, hostKey, bound []byte) (enc, com []byte) {
	t.Helper()
	enc, err := hkdf.Expand(sha256.New, hostKey, EncLabel+string(bound), KeySize)
	require.NoError(t, err)
	return enc, sum(append([]byte(ComLabel), enc...))
}

// open is an opener without a register, as far as a host key takes it.
func open(hostKey, b []byte) ([]byte, error) {
	tok, err := Parse(b)
	if err != nil {
		return nil, err
	}
	enc, err := hkdf.Expand(sha256.New, hostKey, EncLabel+string(tok.Bound), KeySize)
	if err != nil {
		return nil, err
	}
	com := make([]byte, CommitmentSize)
	Commit(com, enc)
	if subtle.ConstantTimeCompare(com, tok.Commitment) != 1 {
		return nil, errCommitment
	}
	dst := make([]byte, tok.BodySize())
	n, err := tok.Open(dst, enc)
	if err != nil {
		return nil, err
	}
	return dst[:n], nil
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}
