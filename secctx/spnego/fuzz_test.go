package spnego

import (
	"bytes"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
)

// tokens are seeds: a token of each kind.
func tokens(t testing.TB) [][]byte {
	r := newRig(t)
	request, _ := r.apReq(mutual)
	all := [][]byte{
		nil, request, hints(r.acceptorP.list),
		initOf(nil, string(oidKrb5)), initOf(request, string(oidKrb5)),
		initOf([]byte(ntlmHead), ntlm, negoEx, string(oidWindows), string(oidKrb5)),
		initWithMIC(request, []byte("a signature of the list"), string(oidKrb5)),
		respOf(respToken{state: acceptIncomplete, token: request}),
		respOf(respToken{state: requestMIC, mech: oidKrb5}),
		respOf(respToken{state: acceptCompleted, mech: oidWindows, token: request, mic: []byte("mic")}),
		respOf(respToken{state: noState}), respOf(respToken{state: reject, token: request}),
	}
	return all
}

// sameInit and sameResp report whether a token's parts survive being written and
// read again. The fuzz targets and their control share them.
func sameInit(t initToken) bool {
	b := newBuilder(len(t.mechTypes) + len(t.mechToken) + len(t.mic))
	end := b.mark()
	if t.mic != nil {
		b.value(3, derOctets, t.mic)
	}
	if t.mechToken != nil {
		b.value(2, derOctets, t.mechToken)
	}
	b.initial(t.mechTypes, end)
	oid, body, ok := openFrame(b.bytes())
	again, parsed := parseInit(body)
	return ok && parsed && bytes.Equal(oid, oidSPNEGO) && bytes.Equal(again.mechTypes, t.mechTypes) &&
		bytes.Equal(again.mechToken, t.mechToken) && bytes.Equal(again.mic, t.mic)
}

func sameResp(t respToken) bool {
	again, ok := parseResp(t.build())
	return ok && again.state == t.state && bytes.Equal(again.mech, t.mech) &&
		bytes.Equal(again.token, t.token) && bytes.Equal(again.mic, t.mic)
}

// FuzzTokens reads any bytes as each kind of token. What parses is the same when it
// is written and read again.
func FuzzTokens(f *testing.F) {
	for _, token := range tokens(f) {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := bytes.Clone(b)
		if _, body, ok := openFrame(b); ok {
			if init, ok := parseInit(body); ok && !sameInit(init) {
				t.Fatalf("another initial token: %+v", init)
			}
		}
		if resp, ok := parseResp(b); ok && !sameResp(resp) {
			t.Fatalf("another response: %+v", resp)
		}
		if !bytes.Equal(whole, b) {
			t.Fatal("parsing wrote into the token")
		}
	})
}

// FuzzAccept has an acceptor take two tokens of a peer that has no ticket. It
// establishes nothing, tells no name, and stays dead after an error.
func FuzzAccept(f *testing.F) {
	r := newRig(f)
	seeds := tokens(f)
	for _, first := range seeds {
		for _, second := range seeds[3:] {
			f.Add(first, second)
		}
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		acc := r.in(t).accept(r.acceptorP)
		for _, token := range [][]byte{first, second} {
			_, info, err := acc.Continue(token)
			if info.FullyEstablished || info.InitiatorName != nil || info.Flags != 0 {
				t.Fatalf("without a ticket: %+v", info)
			}
			if err != nil {
				dead(t, acc)
				return
			}
			silent(t, acc)
			if !acc.ContinueNeeded() {
				t.Fatal("established without a ticket")
			}
		}
		_, _ = acc.Delete()
	})
}

// FuzzInitiate has an initiator take the answer of an acceptor that has no key.
func FuzzInitiate(f *testing.F) {
	r := newRig(f)
	for _, token := range tokens(f) {
		f.Add(token, true)
		f.Add(token, false)
	}
	f.Fuzz(func(t *testing.T, answer []byte, severalOffered bool) {
		r, p := r.in(t), r.initatorP
		if severalOffered {
			p = r.over(&several{Provider: r.initiator, others: []gssapi.GssMech{oid(ntlm)}}, nil)
		}
		init := r.initiate(p, mutual)
		_, _, err := init.Continue(nil)
		require.NoError(t, err)
		_, info, err := init.Continue(answer)
		if info.FullyEstablished {
			t.Fatal("established without an acceptor")
		}
		if err != nil {
			dead(t, init)
		}
	})
}

// FuzzHalf reads any bytes as a half-open negotiation. The sealer authenticates
// them before; this is the second line.
func FuzzHalf(f *testing.F) {
	r := newRig(f)
	for _, run := range halfway {
		acc := r.accept(r.acceptorP).(*secContext)
		_, _, err := acc.Continue(run.first)
		require.NoError(f, err)
		f.Add(acc.halfState(nil))
		f.Add(append(acc.halfState(nil), "more"...))
	}
	f.Add([]byte(halfMagic))
	f.Fuzz(func(t *testing.T, plain []byte) {
		c, inner, ok := r.acceptorP.parseHalf(plain)
		if !ok {
			return
		}
		if !bytes.Equal(c.halfState(inner), plain) {
			t.Fatalf("written otherwise than read: %x", plain)
		}
		if sc, err := r.acceptorP.importHalf(plain, nil); err == nil {
			silent(t, sc)
			_, _ = sc.Delete()
		}
	})
}

// TestFuzzControl plants faults that the targets' comparisons must see.
func TestFuzzControl(t *testing.T) {
	good := initToken{mechTypes: buildMechs([][]byte{oidKrb5}), mechToken: []byte("token"), mic: []byte("mic")}
	require.True(t, sameInit(good))
	for name, bad := range map[string]initToken{
		"a list that is none": {mechTypes: []byte("list")},
		"an empty list":       {mechTypes: buildMechs(nil)},
		"an empty token":      {mechTypes: good.mechTypes, mechToken: []byte{}},
	} {
		require.False(t, sameInit(bad), name)
	}
	require.True(t, sameResp(respToken{state: reject, mech: oidKrb5, token: []byte("token"), mic: []byte("mic")}))
	require.False(t, sameResp(respToken{state: 7}), "a state that is none")
	require.False(t, sameResp(respToken{mech: []byte{}}), "an empty identifier")
}
