package secctx

import (
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
)

// TestPassThrough: on a live context every call is the mechanism's.
func TestPassThrough(t *testing.T) {
	fake := &fakeProvider{contextSet: 3}
	r := newRigOf(t, &Config{Sealer: newHost(t, nil)}, fake)
	for name, call := range calls(r.sc) {
		if name == "Export" {
			continue // it does more, and ends the rest
		}
		asked := false
		fake.at = func(string) error {
			asked = true
			return errFake
		}
		_, err := call()
		require.Equal(t, errFake, err, "%s: not the mechanism's own error", name)
		require.True(t, asked, name)
	}
	fake.at = nil
	r.talk(t, r.sc)

	mic, err := r.sc.GetMIC([]byte("m"), 0)
	require.NoError(t, err)
	_, err = r.peer.VerifyMIC([]byte("m"), mic)
	require.NoError(t, err)
	mic, err = r.peer.GetMIC([]byte("m"), 0)
	require.NoError(t, err)
	_, err = r.sc.VerifyMIC([]byte("m"), mic)
	require.NoError(t, err)
	n, err := r.sc.WrapSizeLimit(true, 100, 0)
	require.NoError(t, err)
	require.EqualValues(t, 60, n)
	require.NoError(t, r.sc.ProcessToken(nil))
	info, err := r.sc.Inquire()
	require.NoError(t, err)
	require.True(t, info.FullyEstablished)
	require.True(t, info.AcceptorName == nil, "a nil pointer in an interface")
	require.True(t, info.DelegatedCredential == nil, "a nil pointer in an interface")
	life, err := r.sc.ExpiresAt()
	require.NoError(t, err)
	require.Equal(t, gssapi.GssLifetimeIndefinite, life.Status)
}

// TestPassThroughProvider: names, credentials and the rest are the inner one's.
func TestPassThroughProvider(t *testing.T) {
	fake := &fakeProvider{name: "fake"}
	p := Wrap(fake.combine(0), newHost(t, nil))
	require.Equal(t, "fake", p.Name())
	name, err := p.ImportName("alice", gssapi.GSS_NT_USER_NAME)
	require.NoError(t, err)
	require.IsType(t, (*fakeName)(nil), name)
	cred, err := p.AcquireCredential(name, nil, gssapi.CredUsageAcceptOnly, nil)
	require.NoError(t, err)
	require.IsType(t, (*fakeCredential)(nil), cred)
	_, err = p.InitSecContext(nil)
	require.ErrorIs(t, err, gssapi.ErrBadName)
	types, err := p.InquireNamesForMech(gssapi.GSS_MECH_KRB5)
	require.NoError(t, err)
	require.Len(t, types, 1)
	mechs, err := p.IndicateMechs()
	require.NoError(t, err)
	require.Len(t, mechs, 1)
	require.True(t, p.HasExtension(gssapi.HasExtLocalname))
	require.False(t, p.HasExtension(gssapi.HasExtS4U))
	fake.at = func(string) error { return errFake }
	_, err = p.AcceptSecContext()
	require.Equal(t, errFake, err)
	require.NoError(t, p.Release())
	require.True(t, fake.released)
}

// TestContinueFails: the mechanism's token for the peer comes with its error.
func TestContinueFails(t *testing.T) {
	fake := &fakeProvider{name: "fake"}
	sc, err := Wrap(fake.combine(0), newHost(t, nil)).AcceptSecContext()
	require.NoError(t, err)
	fake.at = func(string) error { return gssapi.ErrDefectiveToken }
	out, _, err := sc.Continue([]byte("x"))
	require.Equal(t, gssapi.ErrDefectiveToken, err)
	require.Equal(t, "error token", string(out))
	_, err = sc.Export()
	require.ErrorIs(t, err, errHalf)
}

// TestContinueAfterExport: the mechanism alone begins a second handshake, or
// panics; behind the wrapper it is not asked.
func TestContinueAfterExport(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	inner := r.sc.(*secContext).inner
	_, err := inner.Export()
	require.NoError(t, err)
	_, _, err = inner.Continue([]byte("token"))
	require.NoError(t, err)
	require.EqualValues(t, 1, r.fake.restarts.Swap(0), "positive control: the mechanism begins anew")

	r.establish(t)
	token, err := r.sc.Export()
	require.NoError(t, err)
	_, _, err = r.sc.Continue([]byte("token"))
	require.Equal(t, errExported, err)

	imported, err := r.p.ImportSecContext(token)
	require.NoError(t, err)
	_, _, err = imported.Continue([]byte("token"))
	require.ErrorIs(t, err, gssapi.ErrFailure)
	require.False(t, imported.ContinueNeeded())
	r.talk(t, imported)
	_, err = imported.Export()
	require.NoError(t, err)
	require.Panics(t, func() { _, _, _ = imported.(*secContext).inner.Continue(nil) }, "positive control")
	_, _, err = imported.Continue(nil)
	require.Equal(t, errExported, err)
	require.Zero(t, r.fake.restarts.Load())
}

// TestDelete: a live context's token is the peer's, an exported one's must not
// be: it would end what goes on elsewhere.
func TestDelete(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	token, err := r.sc.Export()
	require.NoError(t, err)
	out, err := r.sc.Delete()
	require.NoError(t, err)
	require.Empty(t, out)
	require.EqualValues(t, 1, r.fake.deletes.Load(), "what the mechanism kept was not freed")
	r.dead(t, r.sc)
	require.ErrorIs(t, TakeBack(r.sc, token), gssapi.ErrNoContext)
	out, err = r.sc.Delete()
	require.NoError(t, err)
	require.Empty(t, out)
	require.EqualValues(t, 1, r.fake.deletes.Load(), "deleted twice")

	imported, err := r.p.ImportSecContext(token)
	require.NoError(t, err)
	r.talk(t, imported)
	out, err = imported.Delete()
	require.NoError(t, err)
	require.Equal(t, "delete token", string(out))
	r.dead(t, imported)
}

// TestDeleteFails: that an exported context is not there is no failure of its
// Delete; anything else is told.
func TestDeleteFails(t *testing.T) {
	for _, tc := range []struct {
		name    string
		inner   error
		export  bool
		isError bool
	}{
		{"live", errFake, false, true},
		{"live, no context", gssapi.ErrNoContext, false, true},
		{"exported, no context", gssapi.ErrNoContext, true, false},
		{"exported, other", errFake, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, newHost(t, nil))
			if tc.export {
				_, err := r.sc.Export()
				require.NoError(t, err)
			}
			r.fake.at = func(string) error { return tc.inner }
			_, err := r.sc.Delete()
			if tc.isError {
				require.ErrorIs(t, err, tc.inner)
			} else {
				require.NoError(t, err)
			}
			r.dead(t, r.sc)
		})
	}
}

// TestTakeBack: back behind the same handle, once, and only if nobody else has
// imported.
func TestTakeBack(t *testing.T) {
	h := newHost(t, nil)
	r := newRig(t, h)
	r.talk(t, r.sc)
	shows(t, r.sc, seal.Unknown)
	token, err := r.sc.Export()
	require.NoError(t, err)
	shows(t, r.sc, seal.Outstanding)
	require.NoError(t, TakeBack(r.sc, token))
	shows(t, r.sc, seal.Unknown)
	r.talk(t, r.sc)
	require.Zero(t, outstanding(t, h))
	err = TakeBack(r.sc, token)
	require.Equal(t, errNotExported, err)
	require.ErrorIs(t, err, gssapi.ErrFailure)
	_, err = r.p.ImportSecContext(token)
	require.ErrorIs(t, err, seal.ErrSpent)
	r.talk(t, r.sc)

	token, err = r.sc.Export()
	require.NoError(t, err)
	imported, err := r.p.ImportSecContext(token)
	require.NoError(t, err)
	shows(t, r.sc, seal.Gone)
	shows(t, imported, seal.Unknown)
	err = TakeBack(r.sc, token)
	require.ErrorIs(t, err, seal.ErrSpent)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	r.dead(t, r.sc)
	r.talk(t, imported)
	_, err = r.sc.Delete()
	require.NoError(t, err)
	shows(t, r.sc, seal.Unknown)
}

// shows requires the state of the token that a handle's context is in.
func shows(t *testing.T, sc gssapi.SecContext, want seal.State) {
	t.Helper()
	got, _ := Status(sc)
	require.Equal(t, want, got)
}

// TestTakeBackOtherToken: a genuine token of another context must not come back
// behind this handle, and is not spent by the attempt.
func TestTakeBackOtherToken(t *testing.T) {
	h := newHost(t, nil)
	r, other := newRig(t, h), newRig(t, h)
	token, err := r.sc.Export()
	require.NoError(t, err)
	foreign, err := other.sc.Export()
	require.NoError(t, err)
	altered := append([]byte(nil), token...)
	altered[len(altered)-20] ^= 1
	for _, bad := range [][]byte{nil, []byte("short"), foreign, altered, token[1:]} {
		require.Equal(t, errDefective, TakeBack(r.sc, bad))
	}
	altered = append([]byte(nil), token...)
	altered[10] ^= 1 // of the epoch's id
	require.ErrorIs(t, TakeBack(r.sc, altered), seal.ErrDefective)
	require.NoError(t, TakeBack(other.sc, foreign))
	require.NoError(t, TakeBack(r.sc, token))
	other.talk(t, other.sc)
	r.talk(t, r.sc)
}

// TestTakeBackOwnTokenOnly: every byte of the tail tells the handle's own token from
// another one, which the sealer is not asked about.
func TestTakeBackOwnTokenOnly(t *testing.T) {
	f := &failing{Sealer: newHost(t, nil)}
	r := newRig(t, f)
	token, err := r.sc.Export()
	require.NoError(t, err)
	f.takeBack = errFake // what the sealer answers if it is asked
	for i := range tagSize {
		other := append([]byte(nil), token...)
		other[len(other)-1-i] ^= 1
		require.Equal(t, errDefective, TakeBack(r.sc, other), i)
	}
	require.ErrorIs(t, TakeBack(r.sc, token), errFake, "positive control")
	f.takeBack = nil
	require.NoError(t, TakeBack(r.sc, token))
}

// TestNotWrapped: handles that are not the wrapper's.
func TestNotWrapped(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	for _, sc := range []gssapi.SecContext{nil, r.peer, struct{ gssapi.SecContext }{r.sc}} {
		_, err := Export(sc, seal.Party{})
		require.ErrorIs(t, err, ErrNotWrapped)
		require.ErrorIs(t, err, gssapi.ErrFailure)
		require.ErrorIs(t, TakeBack(sc, nil), ErrNotWrapped)
		shows(t, sc, seal.Unknown)
	}
	r.talk(t, r.sc)
}
