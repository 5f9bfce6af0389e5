package spnego

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

const (
	mutual      = gssapi.ContextFlagMutual | gssapi.ContextFlagReplay | gssapi.ContextFlagSequence | gssapi.ContextFlagInteg
	oneWay      = mutual &^ gssapi.ContextFlagMutual
	ntlm        = "\x2b\x06\x01\x04\x01\x82\x37\x02\x02\x0a"
	negoEx      = "\x2b\x06\x01\x04\x01\x82\x37\x02\x02\x1e"
	ticketFlags = "\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x05\x01" // an inquiry that secctx lets pass
	ntlmHead    = "NTLMSSP\x00\x01\x00\x00\x00"
)

// oid is a mechanism by its identifier alone.
type oid string

func (o oid) Oid() gssapi.Oid   { return gssapi.Oid(o) }
func (o oid) OidString() string { return string(o) }
func (o oid) String() string    { return string(o) }

// rig is a realm with an acceptor's and an initiator's mechanism.
type rig struct {
	t                    testing.TB
	acceptor, initiator  *krb5.Provider
	service, user        gssapi.Credential
	name                 gssapi.GssName
	acceptorP, initatorP *Provider // over them, with the zero Config
}

func newRig(t testing.TB) *rig {
	t.Helper()
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", "HTTP/www.example.test")
	require.NoError(t, err)
	r := &rig{t: t}
	r.acceptor, err = krb5.New(&krb5.Config{ReplayCache: filepath.Join(t.TempDir(), "replay")})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.acceptor.Release() })
	r.initiator, err = krb5.New(nil)
	require.NoError(t, err)
	r.service, err = realm.Acceptor(r.acceptor)
	require.NoError(t, err)
	r.user, err = realm.Initiator(r.initiator, "alice")
	require.NoError(t, err)
	r.name, err = r.initiator.ImportName("HTTP@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	r.acceptorP, r.initatorP = r.over(r.acceptor, nil), r.over(r.initiator, nil)
	return r
}

// in is the rig for another test.
func (r *rig) in(t testing.TB) *rig {
	other := *r
	other.t = t
	return &other
}

func (r *rig) over(inner gssapi.Provider, c *Config) *Provider {
	r.t.Helper()
	p, err := New(inner, c)
	require.NoError(r.t, err)
	return p
}

func (r *rig) accept(p gssapi.Provider) gssapi.SecContext {
	r.t.Helper()
	sc, err := p.AcceptSecContext(gssapi.WithAcceptorCredential(r.service))
	require.NoError(r.t, err)
	return sc
}

func (r *rig) initiate(p gssapi.Provider, flags gssapi.ContextFlag) gssapi.SecContext {
	r.t.Helper()
	sc, err := p.InitSecContext(r.name, gssapi.WithInitiatorCredential(r.user), gssapi.WithInitiatorFlags(flags))
	require.NoError(r.t, err)
	return sc
}

// apReq is a token of the mechanism itself, and its context.
func (r *rig) apReq(flags gssapi.ContextFlag) ([]byte, gssapi.SecContext) {
	r.t.Helper()
	sc := r.initiate(r.initiator, flags)
	token, _, err := sc.Continue(nil)
	require.NoError(r.t, err)
	return token, sc
}

// establish runs a negotiation to its end and returns the acceptor's answers.
func (r *rig) establish(init, acc gssapi.SecContext) (answers [][]byte) {
	r.t.Helper()
	token, info, err := init.Continue(nil)
	require.NoError(r.t, err)
	for range maxLegs {
		require.NotEmpty(r.t, token)
		token, info, err = acc.Continue(token)
		require.NoError(r.t, err)
		answers = append(answers, token)
		require.Equal(r.t, info.FullyEstablished, !acc.ContinueNeeded())
		if len(token) == 0 {
			break
		}
		token, info, err = init.Continue(token)
		require.NoError(r.t, err)
		require.Equal(r.t, info.FullyEstablished, !init.ContinueNeeded())
		if len(token) == 0 {
			break
		}
	}
	require.False(r.t, acc.ContinueNeeded())
	require.False(r.t, init.ContinueNeeded())
	r.talk(init, acc)
	return answers
}

// talk requires that both sides have the same context.
func (r *rig) talk(init, acc gssapi.SecContext) {
	r.t.Helper()
	info, err := acc.Inquire()
	require.NoError(r.t, err)
	require.True(r.t, info.FullyEstablished)
	text, _, err := info.InitiatorName.Display()
	require.NoError(r.t, err)
	require.Equal(r.t, "alice@EXAMPLE.TEST", text)
	for _, way := range [][2]gssapi.SecContext{{init, acc}, {acc, init}} {
		sealed, _, err := way[0].Wrap([]byte("message"), true, 0)
		require.NoError(r.t, err)
		plain, _, _, err := way[1].Unwrap(sealed)
		require.NoError(r.t, err)
		require.Equal(r.t, "message", string(plain))
	}
}

// dead requires that a context that failed stays dead.
func dead(t testing.TB, sc gssapi.SecContext) {
	t.Helper()
	require.False(t, sc.ContinueNeeded())
	_, info, err := sc.Continue([]byte("anything"))
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	require.Zero(t, info)
	silent(t, sc)
	_, err = sc.Inquire()
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	_, err = sc.Delete()
	require.NoError(t, err)
}

// silent requires that no call but Continue, Inquire and Delete does anything.
func silent(t testing.TB, sc gssapi.SecContext) {
	t.Helper()
	calls := map[string]func() error{
		"GetMIC":        func() error { _, err := sc.GetMIC(nil, 0); return err },
		"VerifyMIC":     func() error { _, err := sc.VerifyMIC(nil, nil); return err },
		"Wrap":          func() error { _, _, err := sc.Wrap(nil, true, 0); return err },
		"Unwrap":        func() error { _, _, _, err := sc.Unwrap(nil); return err },
		"Export":        func() error { _, err := sc.Export(); return err },
		"ExpiresAt":     func() error { _, err := sc.ExpiresAt(); return err },
		"WrapSizeLimit": func() error { _, err := sc.WrapSizeLimit(true, 100, 0); return err },
		"ProcessToken":  func() error { return sc.ProcessToken(nil) },
		"WrapAEAD": func() error {
			_, _, err := sc.(gssapi.SecContextExtRFC4121).WrapAEAD(nil, nil, true, 0)
			return err
		},
		"UnwrapAEAD": func() error {
			_, _, err := sc.(gssapi.SecContextExtRFC4121).UnwrapAEAD(nil, nil)
			return err
		},
	}
	if ggf, ok := sc.(gssapi.SecContextExtGGF); ok {
		calls["InquireByOid"] = func() error { _, err := ggf.InquireByOid(gssapi.Oid(ticketFlags)); return err }
		calls["SetOption"] = func() error { return ggf.SetOption(nil, nil) }
	}
	for name, call := range calls {
		require.ErrorIs(t, call(), gssapi.ErrNoContext, name)
	}
}

// host returns a sealer whose keys end with the test.
func host(t testing.TB) *seal.Host {
	t.Helper()
	h, err := seal.OpenHost(&seal.Options{Private: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// several is the Kerberos mechanism beside others that only know how to begin.
// An initiator over it offers them.
type several struct {
	*krb5.Provider
	others  []gssapi.GssMech
	without string // an identifier whose mechanism cannot begin
}

func (s *several) IndicateMechs() ([]gssapi.GssMech, error) {
	return append(slices.Clone(s.others), gssapi.GSS_MECH_KRB5, gssapi.GSS_MECH_SPNEGO), nil
}

func (s *several) InitSecContext(name gssapi.GssName, opts ...gssapi.InitSecContextOption) (gssapi.SecContext, error) {
	var o gssapi.InitSecContextOptions
	for _, opt := range opts {
		opt(&o)
	}
	if !bytes.Equal(o.Mech.Oid(), oidKrb5) {
		return &beginner{fails: s.without == string(o.Mech.Oid())}, nil
	}
	return s.Provider.InitSecContext(name, opts...)
}

// beginner is a context that has a first token at most.
type beginner struct {
	gssapi.SecContext
	fails, deleted bool
}

func (b *beginner) Continue(token []byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	if b.fails || len(token) > 0 {
		return nil, gssapi.SecContextInfoPartial{}, errors.Join(gssapi.ErrNoCred)
	}
	return []byte(ntlmHead), gssapi.SecContextInfoPartial{}, nil
}

func (b *beginner) ContinueNeeded() bool { return true }

func (b *beginner) Delete() ([]byte, error) {
	b.deleted = true
	return nil, nil
}

// initOf builds an initial token as a client would.
func initOf(mechToken []byte, oids ...string) []byte {
	var list [][]byte
	for _, o := range oids {
		list = append(list, []byte(o))
	}
	t := initToken{mechTypes: buildMechs(list), mechToken: mechToken}
	return t.build()
}

// initWithMIC is initOf with a signature.
func initWithMIC(mechToken, mic []byte, oids ...string) []byte {
	var list [][]byte
	for _, o := range oids {
		list = append(list, []byte(o))
	}
	b := newBuilder(len(mechToken) + len(mic) + 200)
	end := b.mark()
	b.value(3, derOctets, mic)
	if mechToken != nil {
		b.value(2, derOctets, mechToken)
	}
	b.initial(buildMechs(list), end)
	return b.bytes()
}

func respOf(t respToken) []byte { return t.build() }

// read takes an acceptor's answer apart.
func read(t testing.TB, b []byte) respToken {
	t.Helper()
	resp, ok := parseResp(b)
	require.True(t, ok, "%x", b)
	return resp
}

// sign gives an initiator of the mechanism alone the answer of an acceptor that
// asked for signatures, and returns its signature.
func (r *rig) sign(init gssapi.SecContext, resp respToken, list []byte) []byte {
	r.t.Helper()
	_, _, err := init.Continue(resp.token)
	require.NoError(r.t, err)
	_, err = init.VerifyMIC(list, resp.mic)
	require.NoError(r.t, err)
	mic, err := init.GetMIC(list, 0)
	require.NoError(r.t, err)
	return mic
}
