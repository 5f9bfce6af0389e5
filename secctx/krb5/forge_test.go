package krb5_test

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// A forgery is an AP-REQ made by hand by somebody who knows the service's key,
// so that every field of it can be wrong under a right key. Nil functions
// change nothing.
type forgery struct {
	key     keytab.Entry
	options uint32
	service kmsg.Principal // in clear
	kvno    uint32
	noKVNO  bool
	part    kmsg.TicketPart
	auth    kmsg.Authenticator
	authKey []byte // nil: the ticket's session key

	plainTicket func([]byte) []byte
	plainAuth   func([]byte) []byte
	cipher      func(ticket, auth []byte) ([]byte, []byte)
	etypes      func(ticket, auth *int32)
	token       kmsg.TokenID
}

var (
	alice    = kmsg.Principal{Type: kmsg.NTPrincipal, Realm: "EXAMPLE.TEST", Parts: []string{"alice"}}
	httpName = kmsg.Principal{Type: kmsg.NTPrincipal, Realm: "EXAMPLE.TEST", Parts: []string{"http", "www.example.test"}}
)

// forge starts from what an honest client would send.
func (b *bench) forge(t testing.TB, id int32) *forgery {
	t.Helper()
	data, err := b.realm.Keytab()
	require.NoError(t, err)
	entries, err := keytab.Parse(data)
	require.NoError(t, err)
	f := &forgery{options: kmsg.OptMutualRequired, service: httpName, token: kmsg.TokenAPReq}
	for _, e := range entries {
		if e.Key.EType == id && e.Principal.Equal(httpName) {
			f.key, f.kvno = e, e.KVNO
		}
	}
	now := time.Now()
	f.part = kmsg.TicketPart{
		Flags:    kmsg.FlagInitial,
		Key:      kmsg.Key{EType: id, Value: randomKey(id)},
		Client:   alice,
		AuthTime: now.Add(-time.Minute),
		EndTime:  now.Add(time.Hour),
	}
	f.auth = kmsg.Authenticator{
		Client:       alice,
		ChecksumType: kmsg.ChecksumGSS,
		Checksum:     kmsg.GSSChecksum{Flags: uint32(allFlags)}.Marshal(),
		CTime:        now,
		CUSec:        now.Nanosecond() / 1000,
		Subkey:       kmsg.Key{EType: id, Value: randomKey(id)},
		Seq:          1,
		HasSeq:       true,
	}
	return f
}

func randomKey(id int32) []byte {
	b := make([]byte, etype.ID(id).KeySize())
	_, _ = rand.Read(b)
	return b
}

// bytes makes the token.
func (f *forgery) bytes(t testing.TB) []byte {
	t.Helper()
	plain, err := f.part.MarshalTo(make([]byte, 1<<16))
	require.NoError(t, err)
	if f.plainTicket != nil {
		plain = f.plainTicket(bytes.Clone(plain))
	}
	ticketCipher, err := etype.Encrypt(nil, etype.ID(f.key.Key.EType), f.key.Key.Value, kmsg.UsageTicket, plain)
	require.NoError(t, err)
	plain, err = f.auth.MarshalTo(make([]byte, 1<<16))
	require.NoError(t, err)
	if f.plainAuth != nil {
		plain = f.plainAuth(bytes.Clone(plain))
	}
	key := f.authKey
	if key == nil {
		key = f.part.Key.Value
	}
	authID := etype.AES256SHA1 // for session keys of types that there are not
	if id := etype.ID(f.part.Key.EType); id.KeySize() == len(key) {
		authID = id
	} else {
		key = randomKey(int32(authID))
	}
	authCipher, err := etype.Encrypt(nil, authID, key, kmsg.UsageAuthenticator, plain)
	require.NoError(t, err)
	if f.cipher != nil {
		ticketCipher, authCipher = f.cipher(ticketCipher, authCipher)
	}
	ticketType, authType := f.key.Key.EType, f.part.Key.EType
	if f.etypes != nil {
		f.etypes(&ticketType, &authType)
	}
	ticket := kmsg.Ticket{Service: f.service, Enc: kmsg.Encrypted{EType: ticketType, KVNO: f.kvno, HasKVNO: !f.noKVNO, Cipher: ticketCipher}}
	raw, err := ticket.Marshal()
	require.NoError(t, err)
	msg, err := kmsg.MarshalAPReq(f.options, raw, kmsg.Encrypted{EType: authType, Cipher: authCipher})
	require.NoError(t, err)
	tok, err := kmsg.MarshalToken(f.token, msg)
	require.NoError(t, err)
	return tok
}

// show gives a token to a fresh acceptor.
func (b *bench) show(t testing.TB, tok []byte, opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, []byte, error) {
	t.Helper()
	acc, err := b.p.AcceptSecContext(append([]gssapi.AcceptSecContextOption{gssapi.WithAcceptorCredential(b.acceptor)}, opts...)...)
	require.NoError(t, err)
	out, _, err := acc.Continue(tok)
	return acc, out, err
}

// requireCode wants an error with this status and, unless it is 0, this code,
// in the error and in the KRB-ERROR beside it.
func requireCode(t testing.TB, err error, major error, code krb5.Code, out []byte) {
	t.Helper()
	require.ErrorIs(t, err, major)
	var status gssapi.FatalStatus
	require.ErrorAs(t, err, &status)
	if code == 0 {
		return
	}
	require.ErrorIs(t, err, code)
	if out == nil {
		return
	}
	id, msg, perr := kmsg.ParseToken(out)
	require.NoError(t, perr)
	require.Equal(t, kmsg.TokenError, id)
	e, perr := kmsg.ParseError(msg)
	require.NoError(t, perr)
	require.Equal(t, int32(code), e.Code)
}
