package spnego

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx"
)

// TestExport hands established contexts of both roles over, sealed: wrapping is
// all that it takes.
func TestExport(t *testing.T) {
	r := newRig(t)
	s := host(t)
	accP, initP := secctx.Wrap(r.acceptorP, s), secctx.Wrap(r.initatorP, s)
	acc, init := r.accept(accP), r.initiate(initP, mutual)
	r.establish(init, acc)
	for range 2 {
		for _, sc := range []*gssapi.SecContext{&acc, &init} {
			info, err := (*sc).Inquire()
			require.NoError(t, err)
			token, err := (*sc).Export()
			require.NoError(t, err)
			noContext(t, *sc)
			p := accP
			if info.LocallyInitiated {
				p = initP
			}
			*sc, err = p.ImportSecContext(token)
			require.NoError(t, err)
			_, err = p.ImportSecContext(token)
			require.ErrorIs(t, err, seal.ErrSpent)
		}
		r.talk(init, acc)
	}
}

// noContext requires that an exported context answers nothing.
func noContext(t *testing.T, sc gssapi.SecContext) {
	t.Helper()
	silent(t, sc)
	_, _, err := sc.Continue(nil)
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	_, err = sc.Inquire()
	require.ErrorIs(t, err, gssapi.ErrNoContext)
}

// TestHalfIsNotExported refuses to export what is not fully established.
func TestHalfIsNotExported(t *testing.T) {
	r := newRig(t)
	p := secctx.Wrap(r.acceptorP, host(t))
	acc := r.accept(p)
	_, _, err := acc.Continue(initOf([]byte(ntlmHead), ntlm, string(oidKrb5)))
	require.NoError(t, err)
	_, err = acc.Export()
	require.ErrorIs(t, err, gssapi.ErrNoContext)
	token, _ := r.apReq(mutual)
	_, _, err = acc.Continue(respOf(respToken{state: acceptIncomplete, token: token})) // a signature is missing
	require.NoError(t, err)
	_, err = acc.Export()
	require.ErrorIs(t, err, gssapi.ErrNoContext)
}

// TestPlainToken imports what Export wrote and nothing else.
func TestPlainToken(t *testing.T) {
	r := newRig(t)
	acc := r.accept(r.acceptorP)
	r.establish(r.initiate(r.initatorP, mutual), acc)
	plain, err := acc.Export()
	require.NoError(t, err)
	require.Equal(t, len(plain), cap(plain))
	for name, b := range map[string][]byte{
		"empty":        nil,
		"head alone":   plain[:plainHead],
		"inner alone":  plain[plainHead:],
		"another role": append([]byte(plainMagic+"\x02"), plain[plainHead:]...),
		"cut short":    plain[:len(plain)-1],
		"more":         append(bytes.Clone(plain), 0),
	} {
		_, err := r.acceptorP.ImportSecContext(b)
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken, name)
	}
	_, err = r.acceptorP.ImportSecContext(plain)
	require.NoError(t, err)
}

// halfway are negotiations that another process can take up: the initiator's
// tokens so far, and what the initiator sends next.
var halfway = map[string]struct {
	first []byte
	legs  int // after which the negotiation moves
}{
	"hints":            {nil, 1},
	"no token yet":     {initOf(nil, string(oidKrb5)), 1},
	"another's token":  {initOf([]byte(ntlmHead), ntlm, string(oidKrb5)), 1},
	"before signature": {initOf([]byte(ntlmHead), ntlm, string(oidKrb5)), 2},
}

// TestHalf moves half-open negotiations to another provider over the same keys,
// as another process has it, at each point, also behind secctx. Once, and bound.
func TestHalf(t *testing.T) {
	r := newRig(t)
	s := host(t)
	list := buildMechs([][]byte{[]byte(ntlm), oidKrb5})
	for name, run := range halfway {
		for wrapped, wrap := range map[string]func(*Provider) gssapi.Provider{
			"":         func(p *Provider) gssapi.Provider { return p },
			", sealed": func(p *Provider) gssapi.Provider { return secctx.Wrap(p, s) },
		} {
			t.Run(name+wrapped, func(t *testing.T) {
				here, there := wrap(r.acceptorP), wrap(r.over(r.acceptor, nil))
				acc := r.accept(here)
				_, _, err := acc.Continue(run.first)
				require.NoError(t, err)
				request, init := r.apReq(mutual)
				next := respOf(respToken{state: acceptIncomplete, token: request})
				if run.first == nil {
					next = initOf(request, string(oidKrb5))
				}
				if run.legs == 2 {
					out, _, err := acc.Continue(next)
					require.NoError(t, err)
					mic := r.sign(init, read(t, out), list)
					next = respOf(respToken{state: acceptCompleted, mic: mic})
				}
				token, err := ExportHalf(acc, s, []byte("bind"))
				require.NoError(t, err)
				noContext(t, acc)
				require.Less(t, base64.RawURLEncoding.EncodedLen(len(token)), 3072, "it goes into a cookie")
				_, err = ExportHalf(acc, s, []byte("bind"))
				require.ErrorIs(t, err, gssapi.ErrNoContext)

				_, err = ImportHalf(there, s, token, []byte("bound otherwise"))
				require.ErrorIs(t, err, seal.ErrFormat)
				_, err = secctx.Wrap(r.acceptorP, s).ImportSecContext(token)
				require.ErrorIs(t, err, seal.ErrFormat, "it is no context")
				moved, err := ImportHalf(there, s, token, []byte("bind"), gssapi.WithAcceptorCredential(r.service))
				require.NoError(t, err)
				_, err = ImportHalf(there, s, token, []byte("bind"))
				require.ErrorIs(t, err, seal.ErrSpent)
				silent(t, moved)

				out, info, err := moved.Continue(next)
				require.NoError(t, err)
				for range 2 {
					if info.FullyEstablished {
						break
					}
					mic := r.sign(init, read(t, out), list)
					out, info, err = moved.Continue(respOf(respToken{state: acceptCompleted, mic: mic}))
					require.NoError(t, err)
				}
				if len(out) > 0 {
					_, _, err = init.Continue(read(t, out).token)
					require.NoError(t, err)
				}
				r.talk(init, moved)
			})
		}
	}
}

// TestHalfLifetime seals a half-open negotiation for a minute, for this user, under
// the identifier of SPNEGO.
func TestHalfLifetime(t *testing.T) {
	r := newRig(t)
	s := host(t)
	acc := r.accept(r.acceptorP)
	_, _, err := acc.Continue(initOf(nil, string(oidKrb5)))
	require.NoError(t, err)
	token, err := ExportHalf(acc, s, nil)
	require.NoError(t, err)
	head, err := seal.Inspect(token)
	require.NoError(t, err)
	require.Equal(t, HalfLifetime, head.Expires-head.Issued)
	require.Equal(t, []byte(oidSPNEGO), head.Mechanism)
	require.Equal(t, seal.User(head.Exporter), head.Audience)
}

// TestNoHalf refuses what is not a half-open acceptor.
func TestNoHalf(t *testing.T) {
	r := newRig(t)
	s := host(t)
	init, acc := r.initiate(r.initatorP, mutual), r.accept(r.acceptorP)
	for name, sc := range map[string]gssapi.SecContext{"initiator": init, "new": acc, "mechanism": r.accept(r.acceptor), "wrapped mechanism": r.accept(secctx.Wrap(r.acceptor, s))} {
		_, err := ExportHalf(sc, s, nil)
		require.ErrorIs(t, err, gssapi.ErrUnavailable, name)
	}
	r.establish(init, acc)
	_, err := ExportHalf(acc, s, nil)
	require.ErrorIs(t, err, gssapi.ErrUnavailable)
	for _, p := range []gssapi.Provider{r.acceptor, secctx.Wrap(r.acceptor, s)} {
		_, err = ImportHalf(p, s, nil, nil)
		require.ErrorIs(t, err, gssapi.ErrUnavailable)
	}
	_, err = ImportHalf(r.acceptorP, s, []byte("token"), nil)
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)

	// A mechanism that is half open itself cannot be moved.
	half := r.accept(r.over(&endless{r.acceptor}, nil))
	_, _, err = half.Continue(initOf([]byte("begin"), string(oidKrb5)))
	require.NoError(t, err)
	_, err = ExportHalf(half, s, nil)
	require.ErrorIs(t, err, gssapi.ErrUnavailable)
	require.True(t, half.ContinueNeeded(), "it is as it was")
}

// refusing is a sealer that cannot seal: its epoch is retired between Reserve and
// Seal.
type refusing struct{ *seal.Host }

func (f refusing) Reserve(req seal.Request) (*seal.Reservation, error) {
	r, err := f.Host.Reserve(req)
	if err != nil {
		return nil, err
	}
	keys, err := f.Keys()
	for _, k := range keys {
		err = errors.Join(err, f.Retire(k.ID))
	}
	return r, err
}

// TestHalfUnsealed leaves the negotiation as it was where it cannot be sealed.
func TestHalfUnsealed(t *testing.T) {
	r := newRig(t)
	acc := r.accept(r.acceptorP)
	_, _, err := acc.Continue(initOf([]byte(ntlmHead), ntlm, string(oidKrb5)))
	require.NoError(t, err)
	_, err = ExportHalf(acc, refusing{host(t)}, nil)
	require.ErrorIs(t, err, seal.ErrUnavailable)
	request, init := r.apReq(mutual)
	out, _, err := acc.Continue(respOf(respToken{state: acceptIncomplete, token: request}))
	require.NoError(t, err)
	_, err = ExportHalf(acc, refusing{host(t)}, nil)
	require.ErrorIs(t, err, seal.ErrUnavailable)
	mic := r.sign(init, read(t, out), buildMechs([][]byte{[]byte(ntlm), oidKrb5}))
	_, _, err = acc.Continue(respOf(respToken{state: acceptCompleted, mic: mic}))
	require.NoError(t, err)
	r.talk(init, acc)
}
