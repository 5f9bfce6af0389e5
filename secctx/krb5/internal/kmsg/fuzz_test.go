package kmsg

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fuzz runs one parser. What it takes it must write again so that it takes
// that too, and writes the same: reading loses nothing that writing needs.
func fuzz(f *testing.F, rewrite func([]byte) ([]byte, error), kinds ...string) {
	for name, s := range samples(f) {
		for _, k := range kinds {
			if strings.HasSuffix(name, k) {
				f.Add(s.msg)
			}
		}
	}
	for _, b := range captured(f, kinds) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := bytes.Clone(b)
		once, err := rewrite(b)
		require.Equal(t, whole, b, "the input was written to")
		if err != nil {
			return
		}
		twice, err := rewrite(once)
		require.NoError(t, err)
		require.Equal(t, once, twice)
	})
}

// captured returns what testdata has of these kinds: messages that other
// makers' programs sent.
func captured(t testing.TB, kinds []string) [][]byte {
	var all [][]byte
	for _, k := range kinds {
		files, err := filepath.Glob(filepath.Join("testdata", "captured", strings.ReplaceAll(k, " ", "-")+"-[hm]*-e*"))
		require.NoError(t, err)
		for _, name := range files {
			b, err := os.ReadFile(name)
			require.NoError(t, err)
			all = append(all, b)
		}
	}
	return all
}

// TestCaptured: what MIT and Heimdal sent is read, and the seeds are there.
func TestCaptured(t *testing.T) {
	for kind, rewrite := range map[string]func([]byte) ([]byte, error){
		"AP-REQ": rewriteAPReq, "AP-REP": rewriteAPRep, "ticket": rewriteTicket,
		"ticket part": rewriteTicketPart, "authenticator": rewriteAuthenticator,
		"AP-REP part": rewriteAPRepPart, "KRB-ERROR": rewriteError, "token": rewriteToken,
	} {
		all := captured(t, []string{kind})
		require.NotEmpty(t, all, kind)
		for _, b := range all {
			_, err := rewrite(b)
			require.NoError(t, err, kind)
		}
	}
}

func FuzzToken(f *testing.F)         { fuzz(f, rewriteToken, "token") }
func FuzzTicket(f *testing.F)        { fuzz(f, rewriteTicket, "ticket") }
func FuzzTicketPart(f *testing.F)    { fuzz(f, rewriteTicketPart, "ticket part") }
func FuzzAuthenticator(f *testing.F) { fuzz(f, rewriteAuthenticator, "authenticator") }
func FuzzAPReq(f *testing.F)         { fuzz(f, rewriteAPReq, "AP-REQ") }
func FuzzAPRep(f *testing.F)         { fuzz(f, rewriteAPRep, "AP-REP") }
func FuzzAPRepPart(f *testing.F)     { fuzz(f, rewriteAPRepPart, "AP-REP part") }
func FuzzCred(f *testing.F)          { fuzz(f, rewriteCred, "KRB-CRED") }
func FuzzCredPart(f *testing.F)      { fuzz(f, rewriteCredPart, "KRB-CRED part") }
func FuzzError(f *testing.F)         { fuzz(f, rewriteError, "KRB-ERROR") }

func FuzzGSSChecksum(f *testing.F) {
	f.Add(GSSChecksum{Flags: 0x3e}.Marshal())
	f.Add(append(GSSChecksum{Flags: 0x3f}.Marshal(), 1, 0, 2, 0, 'a', 'b'))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseGSSChecksum(b)
		if err == nil {
			require.True(t, bytes.HasPrefix(b, c.Marshal()))
		}
	})
}

func FuzzPrincipal(f *testing.F) {
	f.Add("alice@EXAMPLE.TEST")
	f.Add(`a\/b/c\@d@R`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePrincipal(text)
		if err != nil {
			return
		}
		again, err := ParsePrincipal(p.String())
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}

// FuzzExportedName: a name that was read is written so that it is read again as
// the same, and from there on in the same bytes.
func FuzzExportedName(f *testing.F) {
	for _, text := range []string{"alice@R", `a\/b\@c\\d\n\t\b@R\/S`, "m\xfcller@R", `\x41@R`, "@R"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseExported(text)
		if err != nil {
			require.ErrorIs(t, err, ErrName)
			return
		}
		again, err := ParseExported(p.Exported())
		require.NoError(t, err)
		require.Equal(t, p, again)
		require.Equal(t, p.Exported(), again.Exported())
	})
}
