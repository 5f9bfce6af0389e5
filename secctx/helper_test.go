package secctx

import (
	"bytes"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// newHost returns a sealer whose keys are its own, and end with the test.
func newHost(t testing.TB, o *seal.Options) *seal.Host {
	t.Helper()
	if o == nil {
		o = &seal.Options{}
	}
	o.Private = true
	h, err := seal.OpenHost(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// current is the key that seals.
func current(t testing.TB, h *seal.Host) seal.Key {
	t.Helper()
	keys, err := h.Keys()
	require.NoError(t, err)
	require.NotEmpty(t, keys)
	last := keys[len(keys)-1]
	require.True(t, last.Seals)
	return last
}

// outstanding counts the tokens of the current key.
func outstanding(t testing.TB, h *seal.Host) int {
	t.Helper()
	if keys, err := h.Keys(); err == nil && len(keys) == 0 {
		return 0
	}
	return current(t, h).Outstanding
}

// retire ends the current key.
func retire(t testing.TB, h *seal.Host) {
	t.Helper()
	require.NoError(t, h.Retire(current(t, h).ID))
}

// rig is a wrapped mechanism with an established acceptor context, and its
// peer, whose mechanism is not wrapped.
type rig struct {
	fake *fakeProvider
	p    gssapi.Provider
	sc   gssapi.SecContext
	name gssapi.GssName // the initiator's, as Continue gave it
	peer gssapi.SecContext
}

// newRig establishes a context over a sealer.
func newRig(t testing.TB, s seal.Sealer) *rig {
	return newRigOf(t, &Config{Sealer: s}, &fakeProvider{})
}

func newRigOf(t testing.TB, c *Config, fake *fakeProvider) *rig {
	t.Helper()
	if fake.name == "" {
		fake.name = "fake"
	}
	r := &rig{fake: fake, p: c.Wrap(fake.combine(0))}
	r.establish(t)
	return r
}

// establish makes a new context and its peer.
func (r *rig) establish(t testing.TB) {
	t.Helper()
	var err error
	r.sc, err = r.p.AcceptSecContext()
	require.NoError(t, err)
	plain := &fakeProvider{name: "peer"}
	name, err := plain.ImportName("host@acceptor", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	r.peer, err = plain.InitSecContext(name)
	require.NoError(t, err)
	hello, _, err := r.peer.Continue(nil)
	require.NoError(t, err)
	require.True(t, r.sc.ContinueNeeded())
	welcome, info, err := r.sc.Continue(hello)
	require.NoError(t, err)
	require.True(t, info.FullyEstablished)
	require.False(t, r.sc.ContinueNeeded())
	r.name = info.InitiatorName
	_, _, err = r.peer.Continue(welcome)
	require.NoError(t, err)
}

// talk sends a message each way; both must open, and be the next in order.
func (r *rig) talk(t testing.TB, sc gssapi.SecContext) {
	t.Helper()
	require.NoError(t, r.exchange(sc))
}

func (r *rig) exchange(sc gssapi.SecContext) error {
	out, _, err := r.peer.Wrap([]byte("to you"), true, 0)
	if err != nil {
		return err
	}
	if _, _, _, err = sc.Unwrap(out); err != nil {
		return err
	}
	if out, _, err = sc.Wrap([]byte("to me"), true, 0); err != nil {
		return err
	}
	_, _, _, err = r.peer.Unwrap(out)
	return err
}

// dead requires that every call on a handle answers NO_CONTEXT, and that none
// reaches the mechanism; but for Delete, which is not called.
func (r *rig) dead(t testing.TB, sc gssapi.SecContext) {
	t.Helper()
	hook := r.fake.at
	r.fake.at = func(step string) error {
		t.Errorf("%q reached the mechanism", step)
		return nil
	}
	defer func() { r.fake.at = hook }()
	for name, call := range calls(sc) {
		out, err := call()
		require.ErrorIs(t, err, gssapi.ErrNoContext, name)
		require.Empty(t, out, name)
	}
	require.False(t, sc.ContinueNeeded())
	require.Zero(t, r.fake.restarts.Load())
}

// calls are all the calls that a context has and that can fail, but Delete, and
// what bytes they return.
func calls(sc gssapi.SecContext) map[string]func() ([]byte, error) {
	all := map[string]func() ([]byte, error){
		"ProcessToken":  func() ([]byte, error) { return nil, sc.ProcessToken([]byte("token")) },
		"ExpiresAt":     func() ([]byte, error) { l, err := sc.ExpiresAt(); return present(l != nil), err },
		"Inquire":       func() ([]byte, error) { i, err := sc.Inquire(); return present(i != nil), err },
		"WrapSizeLimit": func() ([]byte, error) { n, err := sc.WrapSizeLimit(true, 100, 0); return make([]byte, n), err },
		"Export":        sc.Export,
		"GetMIC":        func() ([]byte, error) { return sc.GetMIC([]byte("m"), 0) },
		"VerifyMIC":     func() ([]byte, error) { _, err := sc.VerifyMIC([]byte("m"), []byte("mic")); return nil, err },
		"Wrap":          func() ([]byte, error) { out, _, err := sc.Wrap([]byte("m"), true, 0); return out, err },
		"Unwrap":        func() ([]byte, error) { out, _, _, err := sc.Unwrap([]byte("m")); return out, err },
		"Continue": func() ([]byte, error) {
			out, info, err := sc.Continue([]byte("token"))
			return append(out, present(info != gssapi.SecContextInfoPartial{})...), err
		},
	}
	if x, ok := sc.(gssapi.SecContextExtGGF); ok {
		all["InquireByOid"] = func() ([]byte, error) { out, err := x.InquireByOid(harmless()[0]); return bytes.Join(out, nil), err }
		all["SetOption"] = func() ([]byte, error) { return nil, x.SetOption(gssapi.Oid("oid"), nil) }
	}
	if x, ok := sc.(gssapi.SecContextExtRFC4121); ok {
		all["WrapAEAD"] = func() ([]byte, error) { out, _, err := x.WrapAEAD([]byte("m"), nil, true, 0); return out, err }
		all["UnwrapAEAD"] = func() ([]byte, error) { out, _, err := x.UnwrapAEAD([]byte("m"), nil); return out, err }
	}
	return all
}

// present stands for a result that is no bytes.
func present(is bool) []byte { return make([]byte, flag(is)) }

// failing is a sealer that can be told to fail.
type failing struct {
	seal.Sealer
	reserve, open, takeBack error
	plain                   *memsafe.Secret // what Open gives instead
}

func (f *failing) Reserve(q seal.Request) (*seal.Reservation, error) {
	if f.reserve != nil {
		return nil, f.reserve
	}
	return f.Sealer.Reserve(q)
}

func (f *failing) Open(token []byte, formats ...string) (*memsafe.Secret, error) {
	if f.open != nil {
		return nil, f.open
	}
	if f.plain != nil {
		return f.plain, nil
	}
	return f.Sealer.Open(token, formats...)
}

func (f *failing) TakeBack(token []byte, formats ...string) (*memsafe.Secret, error) {
	if f.takeBack != nil {
		return nil, f.takeBack
	}
	return f.Sealer.TakeBack(token, formats...)
}
