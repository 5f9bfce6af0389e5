package krb5

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/mitctx"
)

// A mitVector is a context that MIT's library exported in the middle of a stream:
// interop/cexport capture.
type mitVector struct {
	name string
	keys map[string]string
}

func mitVectors(t testing.TB) []mitVector {
	t.Helper()
	files, err := filepath.Glob("testdata/mit/*.txt")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 11, "the vectors are gone")
	var all []mitVector
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		v := mitVector{filepath.Base(file), map[string]string{}}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			v.keys[key] = value
		}
		all = append(all, v)
	}
	return all
}

func (v mitVector) bytes(t testing.TB, key string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.keys[key])
	require.NoError(t, err)
	require.NotEmpty(t, b, "%s: %s", v.name, key)
	return b
}

// mitProvider imports at a moment at which the context of the token was alive.
func mitProvider(t testing.TB, token []byte) *Provider {
	t.Helper()
	p, err := New(nil)
	require.NoError(t, err)
	if m, err := mitctx.Parse(token); err == nil {
		p.now = func() time.Time { return time.Unix(int64(m.EndTime), 0).Add(-time.Second) }
	}
	return p
}

// A context of MIT's library goes on in the middle of its stream: what had come before
// is a duplicate, what was missing is late, and the next messages are in sequence.
func TestImportMIT(t *testing.T) {
	for _, v := range mitVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			token := v.bytes(t, "token")
			sc, err := mitProvider(t, token).ImportSecContext(token)
			require.NoError(t, err)
			clear(token) // nothing aliases it
			info, err := sc.Inquire()
			require.NoError(t, err)
			require.Equal(t, "alice@SEALCTX.TEST", info.InitiatorName.(*name).principal.String())
			require.Equal(t, "e"+v.keys["enctype"]+"/localhost@SEALCTX.TEST", info.AcceptorName.(*name).principal.String())
			require.Equal(t, v.keys["role"] == "initiator", info.LocallyInitiated)
			require.NotZero(t, info.Flags&gssapi.ContextFlagSequence)

			_, _, _, err = sc.Unwrap(v.bytes(t, "duplicate"))
			require.ErrorIs(t, err, gssapi.InfoDuplicateToken)
			_, _, _, err = sc.Unwrap(v.bytes(t, "late"))
			require.ErrorIs(t, err, gssapi.InfoUnseqToken)
			_, _, _, err = sc.Unwrap(v.bytes(t, "late"))
			require.ErrorIs(t, err, gssapi.InfoDuplicateToken)
			plain, _, _, err := sc.Unwrap(v.bytes(t, "signed"))
			require.NoError(t, err)
			require.Equal(t, "message 4", string(plain))
			_, err = sc.VerifyMIC([]byte("message 5"), v.bytes(t, "mic"))
			require.NoError(t, err)

			// From here on it is a context of ours: it exports in our format and goes on.
			again, err := sc.Export()
			require.NoError(t, err)
			require.False(t, mitctx.Is(again))
			next, err := mitProvider(t, v.bytes(t, "token")).ImportSecContext(again)
			require.NoError(t, err)
			_, err = next.VerifyMIC([]byte("message 5"), v.bytes(t, "mic"))
			require.ErrorIs(t, err, gssapi.InfoDuplicateToken)
			_, _ = next.Delete()
		})
	}
}

// SPNEGO's frame may stand before the mechanism's, once.
func TestImportMITFromSPNEGO(t *testing.T) {
	token := mitVectors(t)[0].bytes(t, "token")
	frame := []byte{0, 0, 0, 6, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02}
	framed := append(bytes.Clone(frame), token...)
	sc, err := mitProvider(t, framed).ImportSecContext(framed)
	require.NoError(t, err)
	_, _ = sc.Delete()
	twice := append(bytes.Clone(frame), framed...)
	_, err = mitProvider(t, framed).ImportSecContext(twice)
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
}

// find returns where a 32-bit integer stands in a token, the nth time.
func find(t testing.TB, token []byte, value uint32, nth int) int {
	t.Helper()
	want := binary.BigEndian.AppendUint32(nil, value)
	at := -1
	for range nth {
		next := bytes.Index(token[at+1:], want)
		require.GreaterOrEqual(t, next, 0)
		at += 1 + next
	}
	return at
}

// What is inconsistent, cut, lengthened or of an older mechanism is refused, and an
// expired context too. Nothing of it makes a context.
func TestImportMITRefuses(t *testing.T) {
	v := mitVectors(t)[0]
	good := v.bytes(t, "token")
	const head = 4 + 9 // the frame
	set := func(at int, value uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], value); return b }
	}
	window := find(t, good, 0x970ea738, 1) + 4
	queueWord := func(at int, value byte) func([]byte) []byte {
		return func(b []byte) []byte { b[window+at] = value; return b }
	}
	key := find(t, good, 0x970ea703, 1)
	for what, alter := range map[string]func([]byte) []byte{
		"initiator is 2":             set(head+4, 2),
		"half established":           set(head+8, 0),
		"no acceptor subkey":         set(head+12, 0),
		"enctype of the key":         set(key+4, 23),
		"enctype beyond a byte":      set(key+4, 256+18),
		"key too short":              set(key+8, 16),
		"key of 4 GiB":               set(key+8, 0xffffffff),
		"replay flag without window": queueWord(0, 0),
		"window's flag is 2":         queueWord(4, 2),
		"impossible window":          queueWord(8+8+8, 1),
		"another first number":       queueWord(8+8, 0xff),
		"window of 32 bits":          queueWord(12, 0),
		"trailing byte":              func(b []byte) []byte { return append(b, 0) },
		"trailer":                    func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"end time":                   set(find(t, good, 0x025ea108, 1)+4+5*4+16+3*4+2*4, 0),
	} {
		b := alter(bytes.Clone(good))
		_, err := mitProvider(t, good).ImportSecContext(b)
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken, what)
	}
	p := mitProvider(t, good) // one: a plain user may lock little memory
	for n := range good {
		_, err := p.ImportSecContext(good[:n])
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken, "cut to %d", n)
	}
	m, err := mitctx.Parse(good)
	require.NoError(t, err)
	p.now = func() time.Time { return time.Unix(int64(m.EndTime), 0) }
	_, err = p.ImportSecContext(good)
	require.ErrorIs(t, err, gssapi.ErrContextExpired)
}

// The layout of 1.15 to 1.17 has three integers more than that of 1.18. No release of
// it is at hand; this is 1.18's token with them.
func TestImportMITOldLayout(t *testing.T) {
	for _, v := range mitVectors(t) {
		if !strings.HasPrefix(v.name, "1.18") {
			continue
		}
		token := v.bytes(t, "token")
		at := find(t, token, 0x970ea725, 1) // os_context, behind the integers
		old := append(bytes.Clone(token[:at]), make([]byte, 12)...)
		old = append(old, token[at:]...)
		sc, err := mitProvider(t, token).ImportSecContext(old)
		require.NoError(t, err)
		_, _ = sc.Delete()
		_, err = mitProvider(t, token).ImportSecContext(append(bytes.Clone(old[:at]), old[at+4:]...))
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	}
}

// No bytes make the parser panic, and what it takes has a key of the right size. The
// seeds are real tokens, so that the fuzzer alters fields.
func FuzzImportMIT(f *testing.F) {
	for _, v := range mitVectors(f) {
		f.Add(v.bytes(f, "token"))
	}
	p, err := New(nil)
	require.NoError(f, err)
	p.now = func() time.Time { return time.Unix(1, 0) }
	f.Fuzz(func(t *testing.T, b []byte) {
		sc, err := p.ImportSecContext(b)
		if err != nil {
			return
		}
		info, err := sc.Inquire()
		if err != nil || info.InitiatorName == nil {
			t.Fatalf("an imported context does not answer: %v", err)
		}
		_, _ = sc.Delete()
	})
}
