package spnego

import (
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
)

// answers are what an acceptor might say to an initial token of Kerberos; rep is
// the mechanism's genuine answer.
var answers = map[string]struct {
	answer func(rep []byte) []byte
	want   error
}{
	"empty":                {func([]byte) []byte { return nil }, gssapi.ErrDefectiveToken},
	"garbage":              {func([]byte) []byte { return []byte("HTTP/1.1 200 OK") }, gssapi.ErrDefectiveToken},
	"an initial token":     {func(rep []byte) []byte { return initOf(rep, string(oidKrb5)) }, gssapi.ErrDefectiveToken},
	"a rejection":          {func([]byte) []byte { return respOf(respToken{state: reject}) }, ErrRejected},
	"a rejection of all":   {func([]byte) []byte { return respOf(respToken{state: reject}) }, gssapi.ErrBadMech},
	"another mechanism":    {func(rep []byte) []byte { return respOf(respToken{state: acceptIncomplete, mech: []byte(ntlm)}) }, gssapi.ErrBadMech},
	"done without a token": {func([]byte) []byte { return respOf(respToken{state: acceptCompleted, mech: oidKrb5}) }, gssapi.ErrDefectiveToken},
	"a false token": {func(rep []byte) []byte {
		rep[len(rep)-1] ^= 1
		return respOf(respToken{state: acceptCompleted, mech: oidKrb5, token: rep})
	}, gssapi.ErrBadMic},
	"a false signature": {func(rep []byte) []byte {
		return respOf(respToken{state: acceptCompleted, mech: oidKrb5, token: rep, mic: make([]byte, 28)})
	}, gssapi.ErrDefectiveToken},
	"signatures asked for and not given": {func(rep []byte) []byte {
		return respOf(respToken{state: requestMIC, mech: oidKrb5, token: rep})
	}, nil}, // goes on
}

// TestAnswers has acceptors that do not keep to the protocol.
func TestAnswers(t *testing.T) {
	r := newRig(t)
	for name, c := range answers {
		t.Run(name, func(t *testing.T) {
			init := r.initiate(r.initatorP, mutual)
			token, _, err := init.Continue(nil)
			require.NoError(t, err)
			acc := r.accept(r.acceptorP)
			out, _, err := acc.Continue(token)
			require.NoError(t, err)
			_, info, err := init.Continue(c.answer(read(t, out).token))
			require.False(t, info.FullyEstablished)
			if c.want == nil {
				require.NoError(t, err)
				require.True(t, init.ContinueNeeded())
				_, _, err = init.Continue(respOf(respToken{state: acceptCompleted}))
				require.ErrorIs(t, err, errMICMissing)
			} else {
				require.ErrorIs(t, err, c.want)
			}
			dead(t, init)
		})
	}
}

// TestChoiceOfSecond has an acceptor choose the second mechanism and try to leave
// out the signatures, so that nobody would see that the list was altered.
func TestChoiceOfSecond(t *testing.T) {
	r := newRig(t)
	offer := func() gssapi.SecContext {
		p := r.over(&several{Provider: r.initiator, others: []gssapi.GssMech{oid(ntlm)}}, nil)
		init := r.initiate(p, mutual)
		_, _, err := init.Continue(nil)
		require.NoError(t, err)
		return init
	}
	for name, answer := range map[string]respToken{
		"completed":           {state: acceptCompleted, mech: oidKrb5},
		"with a token":        {state: requestMIC, mech: oidKrb5, token: []byte("token")},
		"with a signature":    {state: requestMIC, mech: oidKrb5, mic: []byte("mic")},
		"of a mechanism more": {state: requestMIC, mech: []byte(negoEx)},
	} {
		t.Run(name, func(t *testing.T) {
			init := offer()
			_, _, err := init.Continue(respOf(answer))
			require.Error(t, err)
			dead(t, init)
		})
	}
	t.Run("without a signature", func(t *testing.T) {
		init := offer()
		token, _, err := init.Continue(respOf(respToken{state: acceptIncomplete, mech: oidKrb5})) // does not ask for signatures
		require.NoError(t, err)
		acc := r.accept(r.acceptor)
		rep, _, err := acc.Continue(read(t, token).token)
		require.NoError(t, err)
		_, _, err = init.Continue(respOf(respToken{state: acceptCompleted, token: rep}))
		require.ErrorIs(t, err, errMICMissing)
		dead(t, init)
	})
	t.Run("a second time", func(t *testing.T) {
		init := offer()
		_, _, err := init.Continue(respOf(respToken{state: requestMIC, mech: oidKrb5}))
		require.NoError(t, err)
		_, _, err = init.Continue(respOf(respToken{state: acceptIncomplete, mech: oidKrb5, token: []byte("x")}))
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
		dead(t, init)
	})
}

// TestWindowsChoice takes Windows' identifier as the answer to Kerberos.
func TestWindowsChoice(t *testing.T) {
	r := newRig(t)
	init := r.initiate(r.initatorP, mutual)
	token, _, err := init.Continue(nil)
	require.NoError(t, err)
	acc := r.accept(r.acceptorP)
	out, _, err := acc.Continue(token)
	require.NoError(t, err)
	_, info, err := init.Continue(respOf(respToken{state: acceptCompleted, mech: oidWindows, token: read(t, out).token}))
	require.NoError(t, err)
	require.True(t, info.FullyEstablished)
	r.talk(init, acc)
}

// TestNoMechanism has nothing to negotiate, or nobody to negotiate for.
func TestNoMechanism(t *testing.T) {
	r := newRig(t)
	_, err := New(nil, nil)
	require.ErrorIs(t, err, gssapi.ErrFailure)
	var none *Provider
	_, err = New(none, nil)
	require.ErrorIs(t, err, gssapi.ErrFailure)
	_, err = New(r.acceptor, &Config{Mechs: []gssapi.GssMech{gssapi.GSS_MECH_SPNEGO}})
	require.ErrorIs(t, err, gssapi.ErrBadMech)

	p := r.over(&several{Provider: r.initiator, others: []gssapi.GssMech{oid(ntlm)}, without: ntlm}, &Config{Mechs: []gssapi.GssMech{oid(ntlm)}})
	init := r.initiate(p, mutual)
	_, _, err = init.Continue(nil)
	require.ErrorIs(t, err, gssapi.ErrNoCred)
	dead(t, init)
	_, err = r.initatorP.InitSecContext(r.name, gssapi.WithInitiatorMech(gssapi.GSS_MECH_KRB5))
	require.ErrorIs(t, err, gssapi.ErrBadMech)
	_, err = r.initatorP.InitSecContext(nil)
	require.ErrorIs(t, err, gssapi.ErrBadName)
}

// TestProvider passes on what is the inner provider's.
func TestProvider(t *testing.T) {
	r := newRig(t)
	p := r.acceptorP
	require.Equal(t, ProviderName+"+"+r.acceptor.Name(), p.Name())
	require.Equal(t, "sealctx-spnego/1+sealctx-krb5/1", p.PlainFormat())
	require.Empty(t, r.over(struct{ gssapi.Provider }{r.acceptor}, nil).PlainFormat())
	mechs, err := p.IndicateMechs()
	require.NoError(t, err)
	require.Equal(t, []gssapi.GssMech{gssapi.GSS_MECH_SPNEGO}, mechs)
	types, err := p.InquireNamesForMech(gssapi.GSS_MECH_SPNEGO)
	require.NoError(t, err)
	require.NotEmpty(t, types)
	require.True(t, p.HasExtension(gssapi.HasExtCredStore))
	require.False(t, p.HasExtension(gssapi.HasExtRFC5801))
	_, err = p.InquireMechForSASLName("GS2-KRB5")
	require.ErrorIs(t, err, gssapi.ErrUnavailable)
	_, err = p.AcquireCredentialFrom(nil, []gssapi.GssMech{gssapi.GSS_MECH_SPNEGO}, gssapi.CredUsageAcceptOnly, nil)
	require.NotErrorIs(t, err, gssapi.ErrUnavailable)
	require.NotErrorIs(t, err, gssapi.ErrBadMech)
}
