package krb5_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

var (
	ownChannel   = &gssapi.ChannelBinding{Data: []byte("tls-server-end-point:abc")}
	otherChannel = &gssapi.ChannelBinding{Data: []byte("tls-server-end-point:abd")}
	byAddress    = &gssapi.ChannelBinding{
		InitiatorAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1},
		AcceptorAddr:  &net.UnixAddr{Name: "/run/x"},
	}
	swapped = &gssapi.ChannelBinding{InitiatorAddr: byAddress.AcceptorAddr, AcceptorAddr: byAddress.InitiatorAddr}
)

// TestChannelBindings: bindings of another channel are always refused, and a
// client without is refused unless Config.BindingsIfSent is set. The flag says
// whether the bindings were sent and right.
func TestChannelBindings(t *testing.T) {
	type outcome int
	const (
		refused outcome = iota
		unbound
		bound
	)
	for _, c := range []struct {
		init, acc        *gssapi.ChannelBinding
		required, ifSent outcome
	}{
		{nil, nil, unbound, unbound},
		{ownChannel, ownChannel, bound, bound},
		{ownChannel, nil, unbound, unbound}, // RFC 2743: the acceptor's to ask for
		{nil, ownChannel, refused, unbound},
		{ownChannel, otherChannel, refused, refused},
		{&gssapi.ChannelBinding{}, ownChannel, refused, refused}, // empty bindings are bindings
		{byAddress, byAddress, bound, bound},
		{byAddress, swapped, refused, refused},
	} {
		for _, ifSent := range []bool{false, true} {
			t.Run(fmt.Sprint(c.init, c.acc, ifSent), func(t *testing.T) {
				b := newBench(t, krb5.Config{BindingsIfSent: ifSent})
				want := c.required
				if ifSent {
					want = c.ifSent
				}
				target, err := b.p.ImportName(service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
				require.NoError(t, err)
				init, err := b.p.InitSecContext(target, gssapi.WithInitiatorCredential(b.initiator),
					gssapi.WithInitiatorFlags(allFlags), gssapi.WithInitiatorChannelBinding(c.init))
				require.NoError(t, err)
				tok, _, err := init.Continue(nil)
				require.NoError(t, err)
				acc, _, err := b.show(t, tok, gssapi.WithAcceptorChannelBinding(c.acc))
				if want == refused {
					require.ErrorIs(t, err, gssapi.ErrBadBindings)
					return
				}
				require.NoError(t, err)
				info, err := acc.Inquire()
				require.NoError(t, err)
				require.Equal(t, want == bound, info.Flags&gssapi.ContextFlagChannelBound != 0)
				info, err = move(t, acc).Inquire()
				require.NoError(t, err)
				require.Equal(t, want == bound, info.Flags&gssapi.ContextFlagChannelBound != 0, "after an export")
			})
		}
	}
}

// TestBindingsAware: a client that says that it sends channel bindings wherever it
// has a channel, and sent none, is refused where they are asked for, since it
// talks to another channel. The control is the same client without that word.
func TestBindingsAware(t *testing.T) {
	const (
		ifRelevant = 1
		options    = 143
	)
	aware := authData(t, adElement{options, []byte{0, 0x40, 0, 0}})
	for _, c := range []struct {
		name    string
		data    []adElement
		refused bool
	}{
		{"control", nil, false},
		{"aware", []adElement{{ifRelevant, aware}}, true},
		{"aware, with more", []adElement{{ifRelevant, authData(t, adElement{128, []byte("PAC")})}, {ifRelevant, aware}}, true},
		{"aware of all options", []adElement{{ifRelevant, authData(t, adElement{options, []byte{255, 255, 255, 255}})}}, true},
		{"other option", []adElement{{ifRelevant, authData(t, adElement{options, []byte{0, 0x80, 0, 0}})}}, false},
		{"options of another size", []adElement{{ifRelevant, authData(t, adElement{options, []byte{0, 0x40}})}}, false},
		{"no authorization data at all", []adElement{{ifRelevant, []byte("\x30\x05")}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, krb5.Config{BindingsIfSent: true})
			token := func(sum kmsg.GSSChecksum) []byte {
				f := b.forge(t, 18)
				sum.Flags = uint32(allFlags)
				f.auth.Checksum = sum.Marshal()
				if c.data != nil {
					f.plainAuth = func(plain []byte) []byte { return addField8(t, plain, authData(t, c.data...)) }
				}
				return f.bytes(t)
			}
			_, _, err := b.show(t, token(kmsg.GSSChecksum{}), gssapi.WithAcceptorChannelBinding(ownChannel))
			if c.refused {
				require.ErrorIs(t, err, gssapi.ErrBadBindings)
			} else {
				require.NoError(t, err)
			}
			_, _, err = b.show(t, token(kmsg.GSSChecksum{}))
			require.NoError(t, err, "nobody asks for bindings")
		})
	}
}

// TestBindingsAddress: an address that has no form in the bindings is refused.
func TestBindingsAddress(t *testing.T) {
	b := newBench(t, krb5.Config{})
	for _, addr := range []net.Addr{&net.IPNet{}, (*net.TCPAddr)(nil), (*net.UDPAddr)(nil), (*net.IPAddr)(nil), (*net.UnixAddr)(nil)} {
		_, err := b.p.AcceptSecContext(gssapi.WithAcceptorChannelBinding(&gssapi.ChannelBinding{InitiatorAddr: addr}))
		require.ErrorIs(t, err, gssapi.ErrBadBindings, "%T", addr)
	}
}
