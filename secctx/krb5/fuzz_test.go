package krb5_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// A fuzzed context ends well or not at all: established and usable, or an error
// with a status and nothing left in locked memory.
func settle(t *testing.T, p *krb5.Provider, before int, sc gssapi.SecContext, err error) {
	t.Helper()
	if err != nil {
		var status gssapi.FatalStatus
		require.ErrorAs(t, err, &status)
		// Less, where the collector has found a context of the set-up by now.
		require.LessOrEqual(t, p.LockedBytes(), before, "secrets left")
		_, err := sc.Inquire()
		require.ErrorIs(t, err, gssapi.ErrNoContext)
		return
	}
	_, _, err = sc.Wrap([]byte("m"), true, 0)
	require.NoError(t, err)
	info, err := sc.Inquire()
	require.NoError(t, err)
	text, _, err := info.InitiatorName.Display()
	require.NoError(t, err)
	require.NotEmpty(t, text)
	tok, err := sc.Export()
	require.NoError(t, err)
	sc, err = p.ImportSecContext(tok)
	require.NoError(t, err, "what is exported is imported")
	_, err = sc.Delete()
	require.NoError(t, err)
	require.Equal(t, before, p.LockedBytes())
}

// The processes of a fuzz run share their inputs and nothing else: whatever an
// input depends on must be the same in all of them.
var (
	fuzzNow = time.Date(2026, 11, 23, 14, 28, 30, 0, time.UTC)
	fuzzKey = bytes.Repeat([]byte{7}, 32)
)

// captured returns an acceptor with the keytab of a KDC that is long gone, at a
// time when it was there, and the context tokens that clients sent it then.
func captured(t testing.TB, maker string) (*bench, [][]byte) {
	t.Helper()
	b := newBench(t, krb5.Config{})
	b.ageReplayCache(t)
	b.p.SetNow(func() time.Time { return fuzzNow })
	data, err := os.ReadFile("internal/keytab/testdata/" + maker + ".keytab")
	require.NoError(t, err)
	b.acceptor, err = b.p.KeytabCredential(nil, data)
	require.NoError(t, err)
	files, err := filepath.Glob("internal/kmsg/testdata/captured/token-" + maker + "-*")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var toks [][]byte
	for _, f := range files {
		tok, err := os.ReadFile(f)
		require.NoError(t, err)
		toks = append(toks, tok)
	}
	return b, toks
}

// TestCaptured accepts what MIT's and Heimdal's clients sent, PACs included.
func TestCaptured(t *testing.T) {
	for _, maker := range []string{"mit", "heimdal"} {
		b, toks := captured(t, maker)
		for _, tok := range toks {
			acc, out, err := b.show(t, tok)
			require.NoError(t, err, maker)
			require.NotEmpty(t, out)
			info, err := acc.Inquire()
			require.NoError(t, err)
			text, _, err := info.InitiatorName.Display()
			require.NoError(t, err)
			require.Equal(t, "alice@SEALCTX.TEST", text)
			require.Equal(t, allFlags, info.Flags&allFlags)
		}
	}
}

// FuzzAccept gives an acceptor any token.
func FuzzAccept(f *testing.F) {
	b, toks := captured(f, "mit")
	for _, tok := range toks {
		f.Add(tok)
		sc, _, err := b.show(f, tok) // from now on a replay, whoever fuzzes it first
		require.NoError(f, err)
		_, err = sc.Delete()
		require.NoError(f, err)
	}
	before := b.p.LockedBytes()
	f.Fuzz(func(t *testing.T, tok []byte) {
		sc, _, err := b.show(t, tok)
		settle(t, b.p, before, sc, err)
	})
}

// FuzzAcceptInside changes what stands inside ticket and authenticator, under
// keys that fit, and the fields in clear.
func FuzzAcceptInside(f *testing.F) {
	b := newBench(f, krb5.Config{ReplayCapacity: 1 << 24})
	b.p.SetNow(func() time.Time { return fuzzNow })
	marshal := func(m interface{ MarshalTo([]byte) ([]byte, error) }) []byte {
		plain, err := m.MarshalTo(make([]byte, 4096))
		require.NoError(f, err)
		return plain
	}
	g := b.forge(f, 18)
	g.part.Key.Value, g.part.AuthTime, g.part.EndTime = fuzzKey, fuzzNow.Add(-time.Hour), fuzzNow.Add(time.Hour)
	g.auth.CTime, g.auth.Subkey.Value = fuzzNow, fuzzKey
	f.Add(marshal(&g.part), marshal(&g.auth), int32(18), uint32(2), uint32(0))
	g.auth.Subkey, g.auth.HasSeq = kmsg.Key{}, false
	g.part.StartTime, g.part.RenewTill, g.part.AuthData = g.part.AuthTime, g.part.EndTime, der(0x30, nil)
	f.Add(marshal(&g.part), marshal(&g.auth), int32(18), uint32(2), kmsg.OptMutualRequired)
	before := b.p.LockedBytes()
	f.Fuzz(func(t *testing.T, ticket, auth []byte, id int32, kvno, options uint32) {
		h := b.forge(t, 18)
		h.part.Key.Value = fuzzKey // what the authenticator is encrypted with
		h.plainTicket = func([]byte) []byte { return ticket }
		h.plainAuth = func([]byte) []byte { return auth }
		h.etypes = func(_, a *int32) { *a = id }
		h.kvno, h.options = kvno, options
		sc, _, err := b.show(t, h.bytes(t))
		settle(t, b.p, before, sc, err)
	})
}

// FuzzFinish gives an initiator any answer, and any content of an AP-REP under
// the right key.
func FuzzFinish(f *testing.F) {
	b := newBench(f, krb5.Config{}, krb5test.Ticket{Start: fuzzNow.Add(-time.Hour)})
	part := kmsg.APRepPart{CTime: fuzzNow, Subkey: kmsg.Key{EType: 17, Value: make([]byte, 16)}, HasSeq: true}
	plain, err := part.MarshalTo(make([]byte, 256))
	require.NoError(f, err)
	f.Add(plain, true)
	e := kmsg.Error{Code: 37, STime: fuzzNow, Service: httpName}
	msg, err := e.Marshal()
	require.NoError(f, err)
	tok, err := kmsg.MarshalToken(kmsg.TokenError, msg)
	require.NoError(f, err)
	f.Add(tok, false)
	f.Add([]byte(nil), false)
	f.Fuzz(func(t *testing.T, answer []byte, inside bool) {
		b.p.SetNow(func() time.Time { return fuzzNow })
		before := b.p.LockedBytes()
		init, _ := b.start(t, allFlags)
		_, _, err := init.Continue(nil)
		require.NoError(t, err)
		if inside {
			key, _ := krb5.Pending(init)
			enc := kmsg.Encrypted{EType: 18}
			enc.Cipher, err = etype.Encrypt(nil, 18, key, kmsg.UsageAPRepPart, answer)
			require.NoError(t, err)
			msg, err := kmsg.MarshalAPRep(enc)
			require.NoError(t, err)
			answer, err = kmsg.MarshalToken(kmsg.TokenAPRep, msg)
			require.NoError(t, err)
		}
		_, _, err = init.Continue(answer)
		settle(t, b.p, before, init, err)
	})
}
