package spnego

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	ghttp "github.com/golang-auth/go-gssapi/v3/http"
	"github.com/stretchr/testify/require"
)

// TestEstablish negotiates the first mechanism: one token each way, no signature.
func TestEstablish(t *testing.T) {
	r := newRig(t)
	for name, flags := range map[string]gssapi.ContextFlag{"mutual": mutual, "one way": oneWay} {
		t.Run(name, func(t *testing.T) {
			acc := r.accept(r.acceptorP)
			answers := r.establish(r.initiate(r.initatorP, flags), acc)
			require.Len(t, answers, 1)
			resp := read(t, answers[0])
			require.Equal(t, acceptCompleted, resp.state)
			require.Equal(t, []byte(oidKrb5), resp.mech)
			require.Equal(t, flags == mutual, resp.token != nil)
			require.Nil(t, resp.mic, "Windows hangs up on a signature that it did not ask for")
			info, err := acc.Inquire()
			require.NoError(t, err)
			require.Equal(t, gssapi.GSS_MECH_KRB5, info.Mech)
			require.Equal(t, flags&gssapi.ContextFlagMutual, info.Flags&gssapi.ContextFlagMutual)
		})
	}
}

// micRuns are negotiations in which the first mechanism is not the chosen one.
var micRuns = map[string]struct {
	flags gssapi.ContextFlag
	legs  int // of the initiator
}{
	"mutual":  {mutual, 3}, // the acceptor is done first and signs first
	"one way": {oneWay, 2}, // the initiator is done first and signs first
}

// TestNotFirst has both sides sign the list, since a mechanism that comes later in
// the list was chosen.
func TestNotFirst(t *testing.T) {
	r := newRig(t)
	p := r.over(&several{Provider: r.initiator, others: []gssapi.GssMech{oid(ntlm), oid(negoEx)}}, nil)
	for name, run := range micRuns {
		t.Run(name, func(t *testing.T) {
			acc, init := r.accept(r.acceptorP), r.initiate(p, run.flags)
			answers := r.establish(init, acc)
			require.Len(t, answers, run.legs)
			first := read(t, answers[0])
			require.Equal(t, requestMIC, first.state)
			require.Equal(t, []byte(oidKrb5), first.mech)
			require.Nil(t, first.token)
			second := read(t, answers[1])
			require.NotNil(t, second.mic)
			require.Nil(t, second.mech)
			if run.flags == mutual {
				require.Equal(t, acceptIncomplete, second.state)
				require.Empty(t, answers[2])
			} else {
				require.Equal(t, acceptCompleted, second.state)
			}
		})
	}
	t.Run("mechanisms that cannot begin are not offered", func(t *testing.T) {
		p := r.over(&several{Provider: r.initiator, others: []gssapi.GssMech{oid(ntlm)}, without: ntlm}, nil)
		require.Len(t, r.establish(r.initiate(p, mutual), r.accept(r.acceptorP)), 1)
	})
}

// TestSignedAsReceived signs the list byte for byte as it came, unknown entries and
// Windows' identifier included.
func TestSignedAsReceived(t *testing.T) {
	r := newRig(t)
	list := []string{negoEx, string(oidWindows), string(oidKrb5), ntlm}
	acc := r.accept(r.acceptorP)
	out, _, err := acc.Continue(initOf([]byte("negoex"), list...))
	require.NoError(t, err)
	require.Equal(t, respToken{state: requestMIC, mech: oidWindows}, read(t, out))
	token, init := r.apReq(mutual)
	out, _, err = acc.Continue(respOf(respToken{state: noState, token: token}))
	require.NoError(t, err)
	mic := r.sign(init, read(t, out), buildMechs([][]byte{[]byte(negoEx), oidWindows, oidKrb5, []byte(ntlm)}))
	_, info, err := acc.Continue(respOf(respToken{state: acceptCompleted, mic: mic}))
	require.NoError(t, err)
	require.True(t, info.FullyEstablished)
	require.NotNil(t, info.InitiatorName)
	r.talk(init, acc)
}

// TestWindowsIdentifier echoes the identifier that Windows has for Kerberos, and
// takes it as the first mechanism.
func TestWindowsIdentifier(t *testing.T) {
	r := newRig(t)
	token, init := r.apReq(mutual)
	acc := r.accept(r.acceptorP)
	out, info, err := acc.Continue(initOf(token, string(oidWindows), string(oidKrb5), negoEx, ntlm))
	require.NoError(t, err)
	require.True(t, info.FullyEstablished)
	resp := read(t, out)
	require.Equal(t, []byte(oidWindows), resp.mech)
	require.Nil(t, resp.mic)
	_, _, err = init.Continue(resp.token)
	require.NoError(t, err)
	r.talk(init, acc)
}

// TestEarlySignature verifies a signature that nobody asked for, and answers it.
func TestEarlySignature(t *testing.T) {
	r := newRig(t)
	list := buildMechs([][]byte{oidKrb5})
	for name, alter := range map[string]func(mic []byte) []byte{
		"true":            func(mic []byte) []byte { return mic },
		"one bit altered": func(mic []byte) []byte { mic[len(mic)-1] ^= 1; return mic },
		"cut short":       func(mic []byte) []byte { return mic[:len(mic)-1] },
		"of another list": nil,
	} {
		t.Run(name, func(t *testing.T) {
			token, init := r.apReq(oneWay) // done with its token, and so able to sign
			signed := list
			if alter == nil {
				signed, alter = buildMechs([][]byte{oidKrb5, []byte(ntlm)}), func(mic []byte) []byte { return mic }
			}
			mic, err := init.GetMIC(signed, 0)
			require.NoError(t, err)
			acc := r.accept(r.acceptorP)
			out, info, err := acc.Continue(initWithMIC(token, alter(mic), string(oidKrb5)))
			resp := read(t, out)
			if name != "true" {
				require.Error(t, err)
				require.Zero(t, info)
				require.Equal(t, reject, resp.state)
				dead(t, acc)
				return
			}
			require.NoError(t, err)
			require.Equal(t, acceptCompleted, resp.state)
			_, err = init.VerifyMIC(list, resp.mic)
			require.NoError(t, err)
			r.talk(init, acc)
		})
	}
}

// TestFirstToken has initial tokens that establish nothing.
func TestFirstToken(t *testing.T) {
	r := newRig(t)
	apReq, _ := r.apReq(mutual)
	long := make([]byte, DefaultMaxToken+1)
	many := make([]string, 200)
	for i := range many {
		many[i] = ntlm
	}
	for name, c := range map[string]struct {
		token []byte
		want  error
	}{
		"garbage":                    {[]byte("GET / HTTP/1.1"), gssapi.ErrDefectiveToken},
		"NTLM without a negotiation": {[]byte(ntlmHead), gssapi.ErrDefectiveToken},
		"Kerberos without one":       {apReq, gssapi.ErrBadMech},
		"a response":                 {respOf(respToken{state: acceptIncomplete, token: apReq}), gssapi.ErrDefectiveToken},
		"no mechanisms":              {initOf(apReq), gssapi.ErrDefectiveToken},
		"other mechanisms":           {initOf([]byte(ntlmHead), ntlm, negoEx), gssapi.ErrBadMech},
		"too many mechanisms":        {initOf([]byte(ntlmHead), many...), gssapi.ErrDefectiveToken},
		"an empty identifier":        {initOf(apReq, "", string(oidKrb5)), gssapi.ErrDefectiveToken},
		"a negotiation inside one":   {initOf(initOf(apReq, string(oidKrb5)), string(oidKrb5)), gssapi.ErrBadMech},
		"a false token":              {initOf([]byte("not Kerberos"), string(oidKrb5)), gssapi.ErrDefectiveToken},
		"a signature alone":          {initWithMIC(nil, []byte("mic"), string(oidKrb5)), gssapi.ErrDefectiveToken},
		"more behind it":             {append(initOf(apReq, string(oidKrb5)), 0), gssapi.ErrDefectiveToken},
		"cut short":                  {initOf(apReq, string(oidKrb5))[:40], gssapi.ErrDefectiveToken},
		"65 KiB":                     {long, gssapi.ErrDefectiveToken},
	} {
		t.Run(name, func(t *testing.T) {
			acc := r.accept(r.acceptorP)
			out, info, err := acc.Continue(c.token)
			require.ErrorIs(t, err, c.want)
			require.Zero(t, info)
			require.Equal(t, reject, read(t, out).state)
			dead(t, acc)
		})
	}
}

// secondTokens are what must not come second; mechanism is a genuine token.
var secondTokens = map[string]func(mechanism []byte) []byte{
	"empty":                func([]byte) []byte { return nil }, // CVE-2014-4344
	"garbage":              func([]byte) []byte { return []byte{0xa1, 0} },
	"an initial token":     func(m []byte) []byte { return initOf(m, string(oidKrb5)) },
	"the mechanism alone":  func(m []byte) []byte { return m },
	"no mechanism's token": func([]byte) []byte { return respOf(respToken{state: acceptIncomplete}) },
	"a signature alone":    func([]byte) []byte { return respOf(respToken{state: acceptIncomplete, mic: []byte("mic")}) },
	"a mechanism's choice": func(m []byte) []byte { return respOf(respToken{state: acceptIncomplete, mech: oidKrb5, token: m}) },
	"a rejection":          func(m []byte) []byte { return respOf(respToken{state: reject, token: m}) },
	"a request to sign":    func(m []byte) []byte { return respOf(respToken{state: requestMIC, token: m}) },
	"more behind it":       func(m []byte) []byte { return append(respOf(respToken{state: acceptIncomplete, token: m}), 0) },
	"a token that was altered": func(m []byte) []byte {
		m = bytes.Clone(m)
		m[len(m)-1] ^= 1
		return respOf(respToken{state: acceptIncomplete, token: m})
	},
}

// TestSecondToken ends a context for whatever is strange on the second leg.
func TestSecondToken(t *testing.T) {
	r := newRig(t)
	for start, first := range map[string][]byte{
		"no token yet":    initOf(nil, string(oidKrb5)),
		"another's token": initOf([]byte(ntlmHead), ntlm, string(oidKrb5)),
	} {
		for name, second := range secondTokens {
			t.Run(start+"/"+name, func(t *testing.T) {
				acc := r.accept(r.acceptorP)
				_, _, err := acc.Continue(first)
				require.NoError(t, err)
				token, _ := r.apReq(mutual)
				_, info, err := acc.Continue(second(token))
				require.Error(t, err)
				require.Zero(t, info)
				dead(t, acc)
			})
		}
		t.Run(start+"/control", func(t *testing.T) {
			acc := r.accept(r.acceptorP)
			_, _, err := acc.Continue(first)
			require.NoError(t, err)
			token, _ := r.apReq(mutual)
			_, _, err = acc.Continue(respOf(respToken{state: acceptIncomplete, token: token}))
			require.NoError(t, err)
		})
	}
}

// thirdTokens are what must not come where a signature is awaited.
var thirdTokens = map[string]func(mic []byte) []byte{
	"empty":        func([]byte) []byte { return nil },
	"no signature": func([]byte) []byte { return respOf(respToken{state: acceptCompleted}) },
	"a false signature": func(mic []byte) []byte {
		mic[len(mic)-1] ^= 1
		return respOf(respToken{state: acceptCompleted, mic: mic})
	},
	"a token as well": func(mic []byte) []byte {
		return respOf(respToken{state: acceptCompleted, mic: mic, token: []byte("token")})
	},
	"a rejection": func(mic []byte) []byte { return respOf(respToken{state: reject, mic: mic}) },
	"the choice":  func(mic []byte) []byte { return respOf(respToken{state: acceptCompleted, mech: oidKrb5, mic: mic}) },
}

// TestThirdToken establishes nothing without the signature that was required.
func TestThirdToken(t *testing.T) {
	r := newRig(t)
	waiting := func() (acc gssapi.SecContext, mic []byte) {
		acc = r.accept(r.acceptorP)
		_, _, err := acc.Continue(initOf([]byte(ntlmHead), ntlm, string(oidKrb5)))
		require.NoError(t, err)
		token, init := r.apReq(mutual)
		out, info, err := acc.Continue(respOf(respToken{state: acceptIncomplete, token: token}))
		require.NoError(t, err)
		require.False(t, info.FullyEstablished)
		require.Nil(t, info.InitiatorName, "the client may have been sent here by a false list")
		silent(t, acc)
		return acc, r.sign(init, read(t, out), buildMechs([][]byte{[]byte(ntlm), oidKrb5}))
	}
	for name, third := range thirdTokens {
		t.Run(name, func(t *testing.T) {
			acc, mic := waiting()
			_, info, err := acc.Continue(third(mic))
			require.Error(t, err)
			require.Zero(t, info)
			dead(t, acc)
		})
	}
	t.Run("control", func(t *testing.T) {
		acc, mic := waiting()
		_, info, err := acc.Continue(respOf(respToken{state: acceptCompleted, mic: mic}))
		require.NoError(t, err)
		require.True(t, info.FullyEstablished)
	})
}

// TestMissingSignature refuses an initiator that was done with its token, had to
// sign the list, and did not.
func TestMissingSignature(t *testing.T) {
	r := newRig(t)
	acc := r.accept(r.acceptorP)
	_, _, err := acc.Continue(initOf([]byte(ntlmHead), ntlm, string(oidKrb5)))
	require.NoError(t, err)
	token, _ := r.apReq(oneWay)
	out, _, err := acc.Continue(respOf(respToken{state: acceptIncomplete, token: token}))
	require.ErrorIs(t, err, errMICMissing)
	require.Equal(t, reject, read(t, out).state)
	dead(t, acc)
}

// knownHints is MIT's answer to an empty first token; interop: TestKnownAnswers
// takes it from MIT's library anew.
const knownHints = "604706062b0601050502a03d303ba00d300b06092a864886f712010202a32a3028a0261b24" +
	"6e6f745f646566696e65645f696e5f5246433431373840706c656173655f69676e6f7265"

// TestHints answers an empty first token with the mechanisms, and goes on with an
// initial token.
func TestHints(t *testing.T) {
	r := newRig(t)
	acc := r.accept(r.acceptorP)
	out, info, err := acc.Continue(nil)
	require.NoError(t, err)
	require.False(t, info.FullyEstablished)
	require.Len(t, out, 73)
	require.Equal(t, knownHints, hex.EncodeToString(out))
	init := r.initiate(r.initatorP, mutual)
	r.establish(init, acc)

	acc = r.accept(r.acceptorP)
	_, _, err = acc.Continue(nil)
	require.NoError(t, err)
	_, _, err = acc.Continue(nil)
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	dead(t, acc)
}

// TestHalfOpen asks a context about itself before, between and after its tokens
// (CVE-2015-2695).
func TestHalfOpen(t *testing.T) {
	r := newRig(t)
	for name, tokens := range map[string][][]byte{
		"new":         nil,
		"hinted":      {nil},
		"chosen":      {initOf(nil, string(oidKrb5))},
		"asked for":   {initOf([]byte(ntlmHead), ntlm, string(oidKrb5))},
		"after hints": {nil, initOf(nil, string(oidKrb5))},
	} {
		t.Run(name, func(t *testing.T) {
			acc := r.accept(r.acceptorP)
			for _, token := range tokens {
				_, info, err := acc.Continue(token)
				require.NoError(t, err)
				require.False(t, info.FullyEstablished)
				require.Nil(t, info.InitiatorName)
			}
			require.True(t, acc.ContinueNeeded())
			info, err := acc.Inquire()
			require.NoError(t, err)
			require.False(t, info.FullyEstablished)
			require.False(t, info.ProtectionReady)
			require.Nil(t, info.InitiatorName)
			require.Nil(t, info.AcceptorName)
			require.Nil(t, info.DelegatedCredential)
			require.Zero(t, info.Flags)
			silent(t, acc)
			_, err = acc.Delete()
			require.NoError(t, err)
			dead(t, acc)
		})
	}
	init := r.initiate(r.initatorP, mutual)
	_, info, err := init.Continue(nil)
	require.NoError(t, err)
	require.True(t, info.LocallyInitiated)
	silent(t, init)
}

// TestRaw takes a mechanism's own tokens only where that was configured.
func TestRaw(t *testing.T) {
	r := newRig(t)
	p := r.over(r.acceptor, &Config{Raw: true})
	token, init := r.apReq(mutual)
	acc := r.accept(p)
	out, info, err := acc.Continue(token)
	require.NoError(t, err)
	require.True(t, info.FullyEstablished)
	_, _, err = init.Continue(out) // no negotiation around it
	require.NoError(t, err)
	r.talk(init, acc)

	r.establish(r.initiate(r.initatorP, mutual), r.accept(p)) // the others still
	acc = r.accept(p)
	_, _, err = acc.Continue([]byte("\x60\x0c\x06\x0a" + ntlm))
	require.ErrorIs(t, err, gssapi.ErrBadMech)
	dead(t, acc)
}

// TestBlindHandler drives go-gssapi's own HTTP handler, which serves a request if
// Continue returns no error. Half a negotiation is not served.
func TestBlindHandler(t *testing.T) {
	r := newRig(t)
	serve := func(p gssapi.Provider, token []byte) (served bool) {
		next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true })
		h, err := ghttp.NewHandler(p, next, ghttp.WithAcceptorCredential(r.service))
		require.NoError(t, err)
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.Header.Set("Authorization", "Negotiate "+base64.StdEncoding.EncodeToString(token))
		server := &http.Server{ErrorLog: log.New(io.Discard, "", 0)} // the handler logs there
		h.ServeHTTP(httptest.NewRecorder(), request.WithContext(context.WithValue(request.Context(), http.ServerContextKey, server)))
		return served
	}
	for name, token := range map[string][]byte{
		"no token yet":    initOf(nil, string(oidKrb5)),
		"another's token": initOf([]byte(ntlmHead), ntlm, string(oidKrb5)),
	} {
		require.False(t, serve(r.acceptorP, token), name)
	}
	token, _ := r.apReq(mutual)
	require.True(t, serve(r.acceptorP, initOf(token, string(oidKrb5))), "the control")
}

// delegating is a mechanism whose contexts come with a delegated credential.
type delegating struct {
	gssapi.Provider
	cred *delegated
}

type delegated struct {
	gssapi.Credential
	released int
}

func (d *delegated) Release() error { d.released++; return nil }

func (d *delegating) AcceptSecContext(o ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	sc, err := d.Provider.AcceptSecContext(o...)
	return &delegatingContext{sc, d.cred}, err
}

type delegatingContext struct {
	gssapi.SecContext
	cred *delegated
}

func (c *delegatingContext) Continue(token []byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	out, info, err := c.SecContext.Continue(token)
	info.DelegatedCredential = c.cred
	return out, info, err
}

// TestDelegated hands a delegated credential out when the context is established, and
// releases it where it is not.
func TestDelegated(t *testing.T) {
	r := newRig(t)
	third := func(alter bool) (*delegated, gssapi.SecContextInfoPartial) {
		cred := &delegated{}
		acc := r.accept(r.over(&delegating{r.acceptor, cred}, nil))
		_, _, err := acc.Continue(initOf([]byte(ntlmHead), ntlm, string(oidKrb5)))
		require.NoError(t, err)
		request, init := r.apReq(mutual)
		out, info, err := acc.Continue(respOf(respToken{state: acceptIncomplete, token: request}))
		require.NoError(t, err)
		require.Nil(t, info.DelegatedCredential, "the list may be false")
		mic := r.sign(init, read(t, out), buildMechs([][]byte{[]byte(ntlm), oidKrb5}))
		if alter {
			mic[len(mic)-1] ^= 1
		}
		_, info, err = acc.Continue(respOf(respToken{state: acceptCompleted, mic: mic}))
		require.Equal(t, alter, err != nil)
		return cred, info
	}
	cred, info := third(false)
	require.Same(t, cred, info.DelegatedCredential)
	require.Zero(t, cred.released)
	cred, info = third(true)
	require.Nil(t, info.DelegatedCredential)
	require.Equal(t, 1, cred.released)
}

// TestLegs ends a negotiation that takes too many tokens.
func TestLegs(t *testing.T) {
	r := newRig(t)
	acc := r.accept(r.over(&endless{r.acceptor}, nil))
	token := initOf([]byte("begin"), string(oidKrb5))
	for range maxLegs {
		_, _, err := acc.Continue(token)
		require.NoError(t, err)
		token = respOf(respToken{state: acceptIncomplete, token: []byte("more")})
	}
	_, _, err := acc.Continue(token)
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	dead(t, acc)
}

// endless is a mechanism that never ends.
type endless struct{ gssapi.Provider }

func (e *endless) AcceptSecContext(...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	return &endlessContext{}, nil
}

type endlessContext struct{ beginner }

func (e *endlessContext) Continue([]byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	return []byte("more"), gssapi.SecContextInfoPartial{}, nil
}
