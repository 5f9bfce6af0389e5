package krb5_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// move exports a context and imports it, into another provider.
func move(t testing.TB, sc gssapi.SecContext) gssapi.SecContext {
	t.Helper()
	tok, err := sc.Export()
	require.NoError(t, err)
	p, err := krb5.New(nil)
	require.NoError(t, err)
	next, err := p.ImportSecContext(tok)
	require.NoError(t, err)
	return next
}

// TestExportImport: a stream goes on through A to B to C, on both sides and
// with every enctype, and what Inquire tells stays.
func TestExportImport(t *testing.T) {
	for _, id := range krb5test.Enctypes() {
		for _, flags := range []gssapi.ContextFlag{0, gssapi.ContextFlagMutual, allFlags} {
			b := newBench(t, krb5.Config{}, krb5test.Ticket{Etype: id})
			init, acc := b.establish(t, flags)
			for range 3 {
				converse(t, init, acc)
				before, err := acc.Inquire()
				require.NoError(t, err)
				acc = move(t, acc)
				after, err := acc.Inquire()
				require.NoError(t, err)
				require.Equal(t, before, after)
				init = move(t, init)
				converse(t, acc, init)
			}
		}
	}
}

// TestWindowSurvivesExport: gap, late and duplicate are told apart across an
// export as they are without one.
func TestWindowSurvivesExport(t *testing.T) {
	b := newBench(t, krb5.Config{})
	init, acc := b.establish(t, allFlags)
	var toks [][]byte
	for range 6 {
		tok, _, err := init.Wrap([]byte("m"), true, 0)
		require.NoError(t, err)
		toks = append(toks, tok)
	}
	unwrap := func(i int) error {
		msg, _, _, err := acc.Unwrap(toks[i])
		require.Equal(t, []byte("m"), msg)
		return err
	}
	require.NoError(t, unwrap(0))
	require.ErrorIs(t, unwrap(2), gssapi.InfoGapToken)
	acc = move(t, acc)
	require.ErrorIs(t, unwrap(2), gssapi.InfoDuplicateToken)
	require.ErrorIs(t, unwrap(1), gssapi.InfoUnseqToken)
	acc = move(t, acc)
	require.ErrorIs(t, unwrap(0), gssapi.InfoDuplicateToken)
	require.NoError(t, unwrap(3))
	require.ErrorIs(t, unwrap(5), gssapi.InfoGapToken)
}

// TestAfterExport: the exporter's context is gone, for every call; Delete
// succeeds and does nothing; names obtained before still display.
func TestAfterExport(t *testing.T) {
	b := newBench(t, krb5.Config{})
	init, acc := b.establish(t, allFlags)
	wrapped, _, err := init.Wrap([]byte("m"), true, 0)
	require.NoError(t, err)
	mic, err := init.GetMIC([]byte("m"), 0)
	require.NoError(t, err)
	for _, end := range []struct {
		name string
		sc   gssapi.SecContext
		f    func(gssapi.SecContext) error
	}{
		{"export", acc, func(sc gssapi.SecContext) error { _, err := sc.Export(); return err }},
		{"delete", init, func(sc gssapi.SecContext) error { _, err := sc.Delete(); return err }},
	} {
		t.Run(end.name, func(t *testing.T) {
			info, err := end.sc.Inquire()
			require.NoError(t, err)
			require.NoError(t, end.f(end.sc))
			requireGone(t, end.sc, wrapped, mic)
			tok, err := end.sc.Delete()
			require.NoError(t, err)
			require.Empty(t, tok)
			text, _, err := info.InitiatorName.Display()
			require.NoError(t, err)
			require.Equal(t, "alice@EXAMPLE.TEST", text)
		})
	}
	require.Equal(t, lockedByCreds(t, b), b.p.LockedBytes())
}

func requireGone(t *testing.T, sc gssapi.SecContext, wrapped, mic []byte) {
	t.Helper()
	aead := sc.(gssapi.SecContextExtRFC4121)
	for name, f := range map[string]func() error{
		"Wrap":          func() error { _, _, err := sc.Wrap([]byte("m"), true, 0); return err },
		"Unwrap":        func() error { _, _, _, err := sc.Unwrap(wrapped); return err },
		"WrapAEAD":      func() error { _, _, err := aead.WrapAEAD([]byte("m"), nil, true, 0); return err },
		"UnwrapAEAD":    func() error { _, _, err := aead.UnwrapAEAD(wrapped, nil); return err },
		"GetMIC":        func() error { _, err := sc.GetMIC([]byte("m"), 0); return err },
		"VerifyMIC":     func() error { _, err := sc.VerifyMIC([]byte("m"), mic); return err },
		"WrapSizeLimit": func() error { _, err := sc.WrapSizeLimit(true, 100, 0); return err },
		"Export":        func() error { _, err := sc.Export(); return err },
		"Inquire":       func() error { _, err := sc.Inquire(); return err },
		"ExpiresAt":     func() error { _, err := sc.ExpiresAt(); return err },
		"ProcessToken":  func() error { return sc.ProcessToken(nil) },
		"Continue":      func() error { tok, _, err := sc.Continue(nil); require.Empty(t, tok); return err },
	} {
		require.ErrorIs(t, f(), gssapi.ErrNoContext, name)
		require.ErrorIs(t, f(), krb5.ErrGone, name)
	}
	require.False(t, sc.ContinueNeeded())
}

// TestExportRefused: not started, half established, expired; the context is
// untouched.
func TestExportRefused(t *testing.T) {
	b := newBench(t, krb5.Config{})
	now := time.Now()
	b.p.SetNow(func() time.Time { return now })
	init, acc := b.start(t, allFlags)
	for _, sc := range []gssapi.SecContext{init, acc} {
		_, err := sc.Export()
		require.ErrorIs(t, err, gssapi.ErrNoContext)
		require.ErrorIs(t, err, krb5.ErrNotStarted)
	}
	tok, _, err := init.Continue(nil)
	require.NoError(t, err)
	_, err = init.Export()
	require.ErrorIs(t, err, gssapi.ErrUnavailable)
	require.ErrorIs(t, err, krb5.ErrNotEstablished)
	_, _, err = init.Wrap(nil, true, 0)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	tok, _, err = acc.Continue(tok)
	require.NoError(t, err)
	_, _, err = init.Continue(tok)
	require.NoError(t, err)
	converse(t, init, acc)

	good, err := acc.Export()
	require.NoError(t, err)
	acc, err = b.p.ImportSecContext(good)
	require.NoError(t, err)

	expiry, err := acc.ExpiresAt()
	require.NoError(t, err)
	require.Equal(t, gssapi.GssLifetimeAvailable, expiry.Status)
	now = expiry.ExpiresAt
	_, err = acc.Export()
	require.ErrorIs(t, err, gssapi.ErrContextExpired)
	_, _, err = acc.Wrap([]byte("m"), true, 0)
	require.ErrorIs(t, err, gssapi.ErrContextExpired)
	_, _, _, err = acc.Unwrap([]byte("m"))
	require.ErrorIs(t, err, gssapi.ErrContextExpired)
	expiry, err = acc.ExpiresAt()
	require.NoError(t, err)
	require.Equal(t, gssapi.GssLifetimeExpired, expiry.Status)
	_, err = b.p.ImportSecContext(good)
	require.ErrorIs(t, err, gssapi.ErrContextExpired)

	now = now.Add(-time.Hour) // untouched all the same
	_, err = acc.GetMIC([]byte("m"), 0)
	require.NoError(t, err)
}

// TestInterprocessToken: what is in the token, and what is not.
func TestInterprocessToken(t *testing.T) {
	require.Equal(t, 2425, krb5.MaxExport, "as doc/krb5-context.md says")
	for _, id := range krb5test.Enctypes() {
		b := newBench(t, krb5.Config{}, krb5test.Ticket{Etype: id})
		init, acc := b.start(t, allFlags)
		tok, _, err := init.Continue(nil)
		require.NoError(t, err)
		key, subkey := krb5.Pending(init)
		require.Len(t, key, len(subkey))
		tok, _, err = acc.Continue(tok)
		require.NoError(t, err)
		_, _, err = init.Continue(tok)
		require.NoError(t, err)

		plain, err := acc.Export()
		require.NoError(t, err)
		require.Equal(t, len(plain), cap(plain), "one exact allocation")
		require.LessOrEqual(t, len(plain), 400)
		require.LessOrEqual(t, len(plain), krb5.MaxExport)
		require.Equal(t, []byte("SCK5\x01"), plain[:5])
		for i := 0; i+16 <= len(key); i++ {
			require.False(t, bytes.Contains(plain, key[i:i+16]), "ticket session key")
			require.False(t, bytes.Contains(plain, subkey[i:i+16]), "initiator's subkey")
		}
		require.NotContains(t, string(plain), os.TempDir(), "a path of this process's")
	}
	require.Equal(t, "sealctx-krb5/1", newBench(t, krb5.Config{}).p.PlainFormat())
}

// exported returns a genuine interprocess token.
func exported(t testing.TB, b *bench) []byte {
	init, acc := b.establish(t, allFlags)
	tok, err := acc.Export()
	require.NoError(t, err)
	_, err = init.Delete()
	require.NoError(t, err)
	return tok
}

// TestImportDefective: every truncation, every length, and each field out of
// its range is GSS_S_DEFECTIVE_TOKEN, and leaves nothing in locked memory.
func TestImportDefective(t *testing.T) {
	b := newBench(t, krb5.Config{})
	good := exported(t, b)
	before := b.p.LockedBytes()
	for n := range good {
		_, err := b.p.ImportSecContext(good[:n])
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken, "cut to %d", n)
		require.ErrorIs(t, err, krb5.ErrFormat)
	}
	for name, change := range map[string]func([]byte) []byte{
		"trailing byte":      func(b []byte) []byte { return append(b, 0) },
		"magic":              func(b []byte) []byte { b[0] ^= 1; return b },
		"version 0":          func(b []byte) []byte { b[4] = 0; return b },
		"version 2":          func(b []byte) []byte { b[4] = 2; return b },
		"delegation flag":    func(b []byte) []byte { b[8] |= 1; return b },
		"unknown flag":       func(b []byte) []byte { b[5] |= 0x80; return b },
		"no expiry":          func(b []byte) []byte { clear(b[9:17]); return b },
		"expiry before 1970": func(b []byte) []byte { b[9] = 0xff; return b },
		"realm of no bytes":  func(b []byte) []byte { binary.BigEndian.PutUint16(b[21:], 0); return b },
		"realm too long":     func(b []byte) []byte { binary.BigEndian.PutUint16(b[21:], 2000); return b },
		"no components":      func(b []byte) []byte { b[23+len("EXAMPLE.TEST")] = 0; return b },
		"many components":    func(b []byte) []byte { b[23+len("EXAMPLE.TEST")] = 17; return b },
		"NUL in name":        func(b []byte) []byte { return bytes.Replace(b, []byte("alice"), []byte("al\x00ce"), 1) },
		"enctype 23":         func(b []byte) []byte { b[bytes.LastIndex(b, []byte(".test"))+6] = 23; return b },
		"enctype 17's keys":  func(b []byte) []byte { b[bytes.LastIndex(b, []byte(".test"))+6] = 17; return b },
		"session flags":      func(b []byte) []byte { b[bytes.LastIndex(b, []byte(".test"))+5] |= 0x10; return b },
		"services told":      func(b []byte) []byte { b[8] ^= byte(gssapi.ContextFlagReplay); return b },
		"services given":     func(b []byte) []byte { b[bytes.LastIndex(b, []byte(".test"))+5] ^= 8; return b },
		"too large":          func(b []byte) []byte { return append(b, make([]byte, krb5.MaxExport)...) },
		"MIT's token":        func([]byte) []byte { return append([]byte{0, 0, 0, 9}, gssapi.GSS_MECH_KRB5.Oid()...) },
	} {
		_, err := b.p.ImportSecContext(change(bytes.Clone(good)))
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken, name)
	}
	require.LessOrEqual(t, b.p.LockedBytes(), before) // less, where the collector has found a context by now
	_, err := b.p.ImportSecContext(good)
	require.NoError(t, err)
}

// TestImportFlags: each of the 32 context flags is one that a context can have, and
// then comes back, or is refused.
func TestImportFlags(t *testing.T) {
	b := newBench(t, krb5.Config{})
	good := exported(t, b)
	const known = gssapi.ContextFlagMutual | gssapi.ContextFlagReplay | gssapi.ContextFlagSequence | gssapi.ContextFlagConf |
		gssapi.ContextFlagInteg | gssapi.ContextFlagChannelBound | gssapi.ContextFlagIdentify
	const services = gssapi.ContextFlagReplay | gssapi.ContextFlagSequence // the session says them too
	for bit := range 32 {
		flag := gssapi.ContextFlag(1) << bit
		tok := bytes.Clone(good)
		flags := binary.BigEndian.Uint32(tok[5:]) ^ uint32(flag)
		binary.BigEndian.PutUint32(tok[5:], flags)
		sc, err := b.p.ImportSecContext(tok)
		if flag&known == 0 || flag&services != 0 {
			require.ErrorIs(t, err, gssapi.ErrDefectiveToken, "bit %d", bit)
			continue
		}
		require.NoError(t, err, "bit %d", bit)
		info, err := sc.Inquire()
		require.NoError(t, err)
		require.Equal(t, gssapi.ContextFlag(flags), info.Flags)
		again, err := sc.Export()
		require.NoError(t, err)
		require.Equal(t, tok, again)
	}
}

// TestImportCanonical: with any one bit flipped the token is refused, expired,
// or another context's token, which exports to the same bytes.
func TestImportCanonical(t *testing.T) {
	b := newBench(t, krb5.Config{})
	good := exported(t, b)
	imported := 0
	for i := range 8 * len(good) {
		tok := bytes.Clone(good)
		tok[i/8] ^= 1 << (i % 8)
		requireCanonical(t, b.p, tok, &imported)
	}
	require.Positive(t, imported, "keys, numbers and names can be other ones")
}

func requireCanonical(t testing.TB, p *krb5.Provider, tok []byte, imported *int) {
	sc, err := p.ImportSecContext(bytes.Clone(tok))
	if err != nil {
		var status gssapi.FatalStatus
		require.ErrorAs(t, err, &status)
		return
	}
	*imported++
	again, err := sc.Export()
	require.NoError(t, err)
	require.Equal(t, tok, again)
}

// FuzzImport: whatever is imported exports to the same bytes, and can be used.
func FuzzImport(f *testing.F) {
	b := newBench(f, krb5.Config{})
	for _, id := range krb5test.Enctypes() {
		var err error
		b.initiator, err = b.realm.Initiator(b.p, "alice", krb5test.Ticket{Etype: id})
		require.NoError(f, err)
		f.Add(exported(f, b))
	}
	f.Fuzz(func(t *testing.T, tok []byte) {
		n := 0
		requireCanonical(t, b.p, tok, &n)
		if n == 0 {
			return
		}
		sc, err := b.p.ImportSecContext(tok)
		require.NoError(t, err)
		wrapped, _, err := sc.Wrap([]byte("m"), true, 0)
		require.NoError(t, err)
		_, _, _, err = sc.Unwrap(wrapped)
		require.ErrorIs(t, err, gssapi.ErrBadMic, "one's own message")
		_, err = sc.Delete()
		require.NoError(t, err)
	})
}
