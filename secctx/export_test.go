package secctx

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// TestExportImport is the main job: the importer goes on in the message stream,
// and the exporter has nothing.
func TestExportImport(t *testing.T) {
	h := newHost(t, nil)
	r := newRig(t, h)
	for range 3 {
		r.talk(t, r.sc)
	}
	token, err := r.sc.Export()
	require.NoError(t, err)
	require.NotContains(t, string(token), fakeMagic)
	require.Equal(t, 1, outstanding(t, h))
	r.dead(t, r.sc)

	imported, err := r.p.ImportSecContext(token)
	require.NoError(t, err)
	r.talk(t, imported)
	r.dead(t, r.sc)
	require.Zero(t, outstanding(t, h))

	_, err = r.p.ImportSecContext(token)
	require.ErrorIs(t, err, seal.ErrSpent)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	require.EqualValues(t, 1, r.fake.imports.Load(), "the mechanism saw the second import")
}

// TestExportImported: A to B to C, each going on in the stream.
func TestExportImported(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	sc := r.sc
	for hop := range 4 {
		r.talk(t, sc)
		token, err := sc.Export()
		require.NoError(t, err, hop)
		r.dead(t, sc)
		sc, err = r.p.ImportSecContext(token)
		require.NoError(t, err, hop)
	}
	r.talk(t, sc)
}

// TestPlainTokenIsWiped looks at the very slices that the mechanism returned
// and was given.
func TestPlainTokenIsWiped(t *testing.T) {
	zero := func(b []byte) bool { return len(b) > 0 && !bytes.ContainsFunc(b, func(r rune) bool { return r != 0 }) }
	r := newRig(t, newHost(t, nil))

	control, err := r.sc.(*secContext).inner.Export() // what the mechanism itself leaves
	require.NoError(t, err)
	require.False(t, zero(control), "positive control: an unwrapped export is not wiped")

	r.establish(t)
	token, err := r.sc.Export()
	require.NoError(t, err)
	require.True(t, zero(r.fake.plain))

	_, err = r.p.ImportSecContext(token)
	require.NoError(t, err)
	require.Contains(t, string(r.fake.importedCopy), fakeMagic)
	require.True(t, zero(r.fake.imported))
}

// TestExportRefused: the statuses of RFC 2743 2.2.8, without any slot taken or
// the mechanism asked.
func TestExportRefused(t *testing.T) {
	h := newHost(t, nil)
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Second)
	for _, tc := range []struct {
		name   string
		spoil  func(*fakeSecContext)
		status error
		err    error
	}{
		{"half-established", func(c *fakeSecContext) { c.established = false }, gssapi.ErrNoContext, errHalf},
		{"mechanism undecided", func(c *fakeSecContext) { c.wantsMore = true }, gssapi.ErrNoContext, errHalf},
		{"untransferable", func(c *fakeSecContext) { c.transferable = false }, gssapi.ErrUnavailable, errUntransferable},
		{"expired", func(c *fakeSecContext) { c.expiry.Status = gssapi.GssLifetimeExpired }, gssapi.ErrContextExpired, errExpired},
		{"past its time", func(c *fakeSecContext) { c.expiry = gssapi.GssLifetime{ExpiresAt: past} }, gssapi.ErrContextExpired, errExpired},
		{"strange lifetime", func(c *fakeSecContext) { c.expiry.Status = 77 }, gssapi.ErrContextExpired, errExpired},
		{"no lifetime", func(c *fakeSecContext) { c.expiry.Status = -1 }, gssapi.ErrFailure, errNothing},
		{"positive control", func(c *fakeSecContext) { c.expiry = gssapi.GssLifetime{ExpiresAt: soon} }, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, h)
			tc.spoil(r.sc.(*secContext).inner.(*fakeSecContext))
			_, err := r.sc.Inquire() // the wrapper keeps what the mechanism says
			require.NoError(t, err)
			before := outstanding(t, h)
			_, asked := Status(r.sc)
			token, err := r.sc.Export()
			if tc.err == nil {
				require.NoError(t, err)
				require.NoError(t, asked)
				state, asked := Status(r.sc)
				require.ErrorIs(t, asked, errExported)
				require.Equal(t, seal.Outstanding, state)
				_, asked = Status(nil)
				require.ErrorIs(t, asked, ErrNotWrapped)
				return
			}
			require.Equal(t, err, asked)
			require.ErrorIs(t, err, tc.err)
			require.ErrorIs(t, err, tc.status)
			require.Nil(t, token)
			require.Zero(t, r.fake.exports.Load())
			require.Equal(t, before, outstanding(t, h))
			r.talk(t, r.sc)
		})
	}
}

// TestExportHalfEstablished: an initiator between its two tokens, and a context
// that has seen none, can go on and be exported when they are done.
func TestExportHalfEstablished(t *testing.T) {
	fake := &fakeProvider{name: "fake"}
	p := Wrap(fake.combine(0), newHost(t, nil))
	name, err := p.ImportName("host@acceptor", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	sc, err := p.InitSecContext(name, gssapi.WithInitiatorFlags(gssapi.ContextFlagConf))
	require.NoError(t, err)
	refused := func() {
		t.Helper()
		_, err := sc.Export()
		require.ErrorIs(t, err, gssapi.ErrNoContext)
		require.Zero(t, fake.exports.Load())
	}
	refused()
	hello, info, err := sc.Continue(nil)
	require.NoError(t, err)
	require.NotEmpty(t, hello)
	require.Equal(t, gssapi.ContextFlagConf, info.Flags, "options reach the mechanism")
	require.True(t, info.InitiatorName == nil, "a nil pointer in an interface")
	require.True(t, info.DelegatedCredential == nil, "a nil pointer in an interface")
	refused()
	_, _, err = sc.Continue([]byte("welcome"))
	require.NoError(t, err)
	_, err = sc.Export()
	require.NoError(t, err)
}

// TestExportNeverInquires: Inquire would release the names that are out.
func TestExportNeverInquires(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	token, err := r.sc.Export()
	require.NoError(t, err)
	require.Zero(t, r.fake.inquired.Load())
	_, err = r.p.ImportSecContext(token)
	require.NoError(t, err)
	require.EqualValues(t, 1, r.fake.inquired.Load(), "an import inquires once")
}

// TestNamesOutliveExport: until Delete, as without the wrapper until Delete.
func TestNamesOutliveExport(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	display := func() error {
		_, _, err := r.name.Display()
		return err
	}
	token, err := r.sc.Export()
	require.NoError(t, err)
	require.NoError(t, display())
	require.NoError(t, TakeBack(r.sc, token))
	require.NoError(t, display(), "taken back")
	info, err := r.sc.Inquire() // of the context that came back, which gave out no names yet
	require.NoError(t, err)
	require.NoError(t, display(), "inquired after it came back")
	again := info.InitiatorName
	token, err = r.sc.Export()
	require.NoError(t, err)
	_, err = r.p.ImportSecContext(token)
	require.NoError(t, err)
	require.NoError(t, display())
	_, _, err = again.Display()
	require.NoError(t, err)

	_, err = r.sc.Delete()
	require.NoError(t, err)
	require.Error(t, display(), "positive control: Delete releases names")
	_, _, err = again.Display()
	require.Error(t, err, "positive control")
}

// TestInquiredNamesOutliveExport: also those that an imported context gave out by
// Inquire alone.
func TestInquiredNamesOutliveExport(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	token, err := r.sc.Export()
	require.NoError(t, err)
	sc, err := r.p.ImportSecContext(token)
	require.NoError(t, err)
	info, err := sc.Inquire()
	require.NoError(t, err)
	token, err = sc.Export()
	require.NoError(t, err)
	require.NoError(t, TakeBack(sc, token))
	_, _, err = info.InitiatorName.Display()
	require.NoError(t, err)
	_, err = sc.Delete()
	require.NoError(t, err)
	_, _, err = info.InitiatorName.Display()
	require.Error(t, err, "positive control: Delete releases names")
}

// TestLeftoversAreFreed: contexts that come and go behind one handle do not
// pile up where nobody holds a name of them.
func TestLeftoversAreFreed(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	for range 5 {
		token, err := r.sc.Export()
		require.NoError(t, err)
		require.NoError(t, TakeBack(r.sc, token))
	}
	require.Len(t, r.sc.(*secContext).kept, 1, "the first one, whose names are out")
	require.EqualValues(t, 4, r.fake.deletes.Load())
	r.talk(t, r.sc)
}

// TestExportAudience: the method exports for the configured audience, the
// function for the one it is given.
func TestExportAudience(t *testing.T) {
	h := newHost(t, nil)
	self, err := seal.Process(1) // not this process, but alive
	require.NoError(t, err)
	r := newRigOf(t, &Config{Sealer: h, Audience: self}, &fakeProvider{})
	token, err := r.sc.Export()
	require.NoError(t, err)
	head, err := seal.Inspect(token)
	require.NoError(t, err)
	require.Equal(t, self, head.Audience)
	_, err = r.p.ImportSecContext(token)
	require.ErrorIs(t, err, seal.ErrUnauthorized)
	require.ErrorIs(t, err, gssapi.ErrUnauthorized)
	require.Zero(t, r.fake.imports.Load())
	require.NoError(t, TakeBack(r.sc, token), "whoever exported may, whatever the audience")
	r.talk(t, r.sc)

	token, err = Export(r.sc, seal.Party{})
	require.NoError(t, err)
	imported, err := r.p.ImportSecContext(token)
	require.NoError(t, err)
	r.talk(t, imported)

	_, err = Export(imported, seal.Group(4711))
	require.ErrorIs(t, err, seal.ErrRequest)
	require.ErrorIs(t, err, gssapi.ErrFailure)
	r.talk(t, imported)
}

// TestExportersDemanded: a token of an exporter that the importer does not take is
// refused before it is spent and before the mechanism sees a byte.
func TestExportersDemanded(t *testing.T) {
	h := newHost(t, nil)
	own := seal.User(uint32(os.Geteuid()))
	other := seal.User(uint32(os.Geteuid()) + 1)
	r := newRig(t, h)
	token, err := r.sc.Export()
	require.NoError(t, err)
	for _, tc := range []struct {
		from       []seal.Party
		is, status error
	}{
		{[]seal.Party{other}, seal.ErrUnauthorized, gssapi.ErrUnauthorized},
		{[]seal.Party{own, seal.Group(4711)}, seal.ErrRequest, gssapi.ErrFailure}, // without an agent nobody can tell
	} {
		importer := (&Config{Sealer: h, Exporters: tc.from}).Wrap(r.fake)
		_, err := importer.ImportSecContext(token)
		require.ErrorIs(t, err, tc.is)
		require.ErrorIs(t, err, tc.status)
		require.Zero(t, r.fake.imports.Load())
	}
	c := &Config{Sealer: h, Exporters: []seal.Party{own}}
	importer := c.Wrap(r.fake)
	c.Exporters[0] = other // of the next Wrap
	imported, err := importer.ImportSecContext(token)
	require.NoError(t, err)
	r.talk(t, imported)
	_, err = importer.ImportSecContext(token)
	require.ErrorIs(t, err, seal.ErrSpent)
}

// TestOtherKeyring: an importer that has other keys reads where it looked for them.
func TestOtherKeyring(t *testing.T) {
	h := newHost(t, nil)
	r := newRig(t, h)
	token, err := r.sc.Export()
	require.NoError(t, err)
	_, err = Wrap(r.fake, newHost(t, nil)).ImportSecContext(token)
	require.ErrorIs(t, err, seal.ErrDefective)
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	require.ErrorContains(t, err, "no living key ")
	require.ErrorContains(t, err, " in the memory of process ")
	require.Zero(t, r.fake.imports.Load())
	_, err = r.p.ImportSecContext(token)
	require.NoError(t, err)
}

// TestTokenHeader: what the wrapper tells the sealer.
func TestTokenHeader(t *testing.T) {
	h := newHost(t, nil)
	reservation, err := h.Reserve(seal.Request{Format: "x"})
	require.NoError(t, err)
	bare, err := reservation.Seal(nil)
	require.NoError(t, err)
	head, err := seal.Inspect(bare)
	require.NoError(t, err)
	require.Equal(t, defaultLifetime, head.Expires-head.Issued, "the default of package seal is another")
	for _, tc := range []struct {
		name            string
		config          time.Duration
		left            time.Duration // of the context; 0: indefinite
		atLeast, atMost time.Duration
	}{
		{"default", 0, 0, defaultLifetime, defaultLifetime},
		{"negative", -time.Second, 0, defaultLifetime, defaultLifetime},
		{"configured", time.Minute, 0, time.Minute, time.Minute},
		{"context ends first", 0, 30 * time.Second, 25 * time.Second, 30 * time.Second},
		{"token ends first", time.Second, 30 * time.Second, time.Second, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRigOf(t, &Config{Sealer: h, Lifetime: tc.config, Format: "test/1"}, &fakeProvider{})
			if tc.left != 0 {
				r.sc.(*secContext).inner.(*fakeSecContext).expiry = gssapi.GssLifetime{ExpiresAt: time.Now().Add(tc.left)}
			}
			token, err := r.sc.Export()
			require.NoError(t, err)
			head, err := seal.Inspect(token)
			require.NoError(t, err)
			life := head.Expires - head.Issued
			require.GreaterOrEqual(t, life, tc.atLeast)
			require.LessOrEqual(t, life, tc.atMost)
			require.Equal(t, "test/1", head.Format)
			require.Equal(t, []byte(gssapi.GSS_MECH_KRB5.Oid()), head.Mechanism)
		})
	}
}

// TestExportBySmallSealer: a register and a pool of just enough.
func TestExportBySmallSealer(t *testing.T) {
	pool, err := memsafe.NewPool(4096)
	require.NoError(t, err)
	r := newRig(t, newHost(t, &seal.Options{Capacity: 1, Pool: pool}))
	for range 50 {
		token, err := r.sc.Export()
		require.NoError(t, err)
		r.sc, err = r.p.ImportSecContext(token)
		require.NoError(t, err)
	}
	r.talk(t, r.sc)
	require.Zero(t, pool.InUse(), "secrets left")
}

// TestExportWithoutMechanism: a provider need not say which mechanism it is.
func TestExportWithoutMechanism(t *testing.T) {
	r := newRig(t, newHost(t, nil))
	r.sc.(*secContext).learn(&gssapi.SecContextInfoPartial{FullyEstablished: true, Transferrable: true})
	token, err := r.sc.Export()
	require.NoError(t, err)
	head, err := seal.Inspect(token)
	require.NoError(t, err)
	require.Empty(t, head.Mechanism)
}
