package krb5_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// TestInitiatorRefuses: AP-REPs that are wrong in one thing, and what is none.
// The context ends with the first.
func TestInitiatorRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(rep *kmsg.APRepPart, key *[]byte, enc *kmsg.Encrypted)
		token func([]byte) []byte
		major error
		code  krb5.Code
	}{
		{name: "another second", fault: func(r *kmsg.APRepPart, _ *[]byte, _ *kmsg.Encrypted) { r.CTime = r.CTime.Add(time.Second) }, major: gssapi.ErrDefectiveToken, code: krb5.KRB_AP_ERR_MUT_FAIL},
		{name: "another microsecond", fault: func(r *kmsg.APRepPart, _ *[]byte, _ *kmsg.Encrypted) { r.CUSec ^= 1 }, major: gssapi.ErrDefectiveToken, code: krb5.KRB_AP_ERR_MUT_FAIL},
		{name: "another key", fault: func(_ *kmsg.APRepPart, key *[]byte, _ *kmsg.Encrypted) { *key = randomKey(18) }, major: gssapi.ErrBadMic, code: krb5.KRB_AP_ERR_BAD_INTEGRITY},
		{name: "another enctype", fault: func(_ *kmsg.APRepPart, _ *[]byte, e *kmsg.Encrypted) { e.EType = 17 }, major: gssapi.ErrBadMic, code: krb5.KRB_AP_ERR_BAD_INTEGRITY},
		{name: "no ciphertext", fault: func(_ *kmsg.APRepPart, _ *[]byte, e *kmsg.Encrypted) { e.Cipher = nil }, major: gssapi.ErrBadMic, code: krb5.KRB_AP_ERR_BAD_INTEGRITY},
		{name: "short subkey", fault: func(r *kmsg.APRepPart, _ *[]byte, _ *kmsg.Encrypted) {
			r.Subkey = kmsg.Key{EType: 18, Value: make([]byte, 24)}
		}, major: gssapi.ErrFailure, code: krb5.KDC_ERR_ETYPE_NOSUPP},
		{name: "cut off", token: func(b []byte) []byte { return b[:len(b)-1] }, major: gssapi.ErrDefectiveToken},
		{name: "nothing", token: func([]byte) []byte { return nil }, major: gssapi.ErrDefectiveToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, krb5.Config{})
			init, tok := answered(t, b, c.fault)
			if c.token != nil {
				tok = c.token(tok)
			}
			_, _, err := init.Continue(tok)
			requireCode(t, err, c.major, c.code, nil)
			_, _, err = init.Continue(tok)
			require.ErrorIs(t, err, gssapi.ErrNoContext)
			require.Equal(t, lockedByCreds(t, b), b.p.LockedBytes(), "secrets left")
		})
	}
	b := newBench(t, krb5.Config{})
	init, tok := answered(t, b, nil) // the control
	_, _, err := init.Continue(tok)
	require.NoError(t, err)
}

// asked starts an initiator and returns the ticket's session key, what the
// authenticator says, and the token.
func asked(t *testing.T, init gssapi.SecContext) (key []byte, auth *kmsg.Authenticator, tok []byte) {
	t.Helper()
	tok, _, err := init.Continue(nil)
	require.NoError(t, err)
	key, _ = krb5.Pending(init)
	_, msg, err := kmsg.ParseToken(tok)
	require.NoError(t, err)
	req, err := kmsg.ParseAPReq(msg)
	require.NoError(t, err)
	plain, err := etype.Decrypt(nil, 18, key, kmsg.UsageAuthenticator, req.Authenticator.Cipher)
	require.NoError(t, err)
	auth, err = kmsg.ParseAuthenticator(plain)
	require.NoError(t, err)
	return key, auth, tok
}

// answered starts an initiator and makes the AP-REP for it by hand.
func answered(t *testing.T, b *bench, fault func(*kmsg.APRepPart, *[]byte, *kmsg.Encrypted)) (gssapi.SecContext, []byte) {
	t.Helper()
	init, _ := b.start(t, allFlags)
	key, auth, _ := asked(t, init)

	rep := kmsg.APRepPart{CTime: auth.CTime, CUSec: auth.CUSec, Seq: 7, HasSeq: true}
	enc := kmsg.Encrypted{EType: 18}
	if fault != nil {
		fault(&rep, &key, &enc)
	}
	plain, err := rep.MarshalTo(make([]byte, 256))
	require.NoError(t, err)
	enc.Cipher, err = etype.Encrypt(nil, 18, key, kmsg.UsageAPRepPart, plain)
	require.NoError(t, err)
	if fault != nil {
		fault(&kmsg.APRepPart{}, new([]byte), &enc) // what Encrypt has overwritten
	}
	msg, err := kmsg.MarshalAPRep(enc)
	require.NoError(t, err)
	tok, err := kmsg.MarshalToken(kmsg.TokenAPRep, msg)
	require.NoError(t, err)
	return init, tok
}

// TestPeerError: a KRB-ERROR ends the context and says why.
func TestPeerError(t *testing.T) {
	b := newBench(t, krb5.Config{})
	init, acc := b.start(t, allFlags)
	tok, _, err := init.Continue(nil)
	require.NoError(t, err)
	_, _, err = acc.Continue(tok)
	require.NoError(t, err)
	_, out, err := b.show(t, tok)
	require.ErrorIs(t, err, krb5.KRB_AP_ERR_REPEAT)
	_, _, err = init.Continue(out)
	require.ErrorIs(t, err, gssapi.ErrFailure)
	require.ErrorIs(t, err, krb5.ErrPeer)
	require.ErrorIs(t, err, krb5.KRB_AP_ERR_REPEAT)
}

func TestInitiatorStates(t *testing.T) {
	b := newBench(t, krb5.Config{})
	init, acc := b.start(t, 0)
	require.True(t, init.ContinueNeeded())
	require.True(t, acc.ContinueNeeded())
	info, err := init.Inquire()
	require.NoError(t, err)
	require.False(t, info.FullyEstablished)
	require.True(t, info.LocallyInitiated)
	handshake(t, init, acc)
	_, _, err = init.Continue(nil)
	require.ErrorIs(t, err, krb5.ErrEstablished)
	converse(t, init, acc)
	require.NoError(t, init.ProcessToken(nil))
	require.ErrorIs(t, init.ProcessToken([]byte("x")), gssapi.ErrDefectiveToken)
	_, _, err = init.Wrap(nil, true, 1)
	require.ErrorIs(t, err, gssapi.ErrBadQop)
	n, err := init.WrapSizeLimit(true, 1000, 0)
	require.NoError(t, err)
	tok, _, err := init.Wrap(make([]byte, n), true, 0)
	require.NoError(t, err)
	require.LessOrEqual(t, len(tok), 1000)

	init, _ = b.start(t, 0)
	_, _, err = init.Continue([]byte("token"))
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
}

// TestInitOptions: what cannot be had is refused at once.
func TestInitOptions(t *testing.T) {
	b := newBench(t, krb5.Config{})
	target, err := b.p.ImportName(service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
	require.NoError(t, err)
	_, err = b.p.InitSecContext(nil)
	require.ErrorIs(t, err, gssapi.ErrBadName)
	_, err = b.p.InitSecContext(target, gssapi.WithInitiatorMech(gssapi.GSS_MECH_SPNEGO))
	require.ErrorIs(t, err, gssapi.ErrBadMech)
	_, err = b.p.InitSecContext(target, gssapi.WithInitiatorFlags(gssapi.ContextFlagDceStyle))
	require.ErrorIs(t, err, gssapi.ErrUnavailable)
	_, err = b.p.InitSecContext(target, gssapi.WithInitiatorLifetime(-1))
	require.ErrorIs(t, err, gssapi.ErrFailure)
	_, err = b.p.InitSecContext(target, gssapi.WithInitiatorCredential(foreignCred{}))
	require.ErrorIs(t, err, gssapi.ErrDefectiveCredential)
	_, err = b.p.AcceptSecContext(gssapi.WithAcceptorCredential(foreignCred{}))
	require.ErrorIs(t, err, krb5.ErrForeign)

	init, err := b.p.InitSecContext(target, gssapi.WithInitiatorCredential(b.acceptor))
	require.NoError(t, err)
	_, _, err = init.Continue(nil)
	require.ErrorIs(t, err, gssapi.ErrNoCred)
	acc, err := b.p.AcceptSecContext(gssapi.WithAcceptorCredential(b.initiator))
	require.NoError(t, err)
	_, _, err = acc.Continue(b.forge(t, 18).bytes(t))
	require.ErrorIs(t, err, gssapi.ErrNoCred)

	init, err = b.p.InitSecContext(target, gssapi.WithInitiatorCredential(b.initiator),
		gssapi.WithInitiatorLifetime(time.Minute), gssapi.WithInitiatorFlags(gssapi.ContextFlagDeleg|gssapi.ContextFlagAnon))
	require.NoError(t, err)
	_, info, err := init.Continue(nil)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(time.Minute), info.ExpiresAt.ExpiresAt, 2*time.Second)
	require.Equal(t, gssapi.ContextFlagConf|gssapi.ContextFlagInteg, info.Flags)
}

type foreignCred struct{ gssapi.Credential }

// TestTicketChoice: the cache's ticket that lasts longest is taken, of an
// encryption type that is permitted; other clients', other services' and
// expired ones are not.
func TestTicketChoice(t *testing.T) {
	b := newBench(t, krb5.Config{})
	for _, c := range []struct {
		name    string
		tickets []krb5test.Ticket
		target  string
		err     error
	}{
		{"the one", []krb5test.Ticket{{}}, service, nil},
		{"longest", []krb5test.Ticket{{Lifetime: time.Minute}, {Lifetime: time.Hour, Etype: 20}, {Lifetime: 2 * time.Minute}}, service, nil},
		{"expired", []krb5test.Ticket{{Lifetime: -time.Minute}}, service, gssapi.ErrCredentialsExpired},
		{"expired and alive", []krb5test.Ticket{{Lifetime: -time.Minute}, {}}, service, nil},
		{"other service", []krb5test.Ticket{{}}, "ldap/www.example.test", krb5.ErrNoTicket},
		{"other realm", []krb5test.Ticket{{}}, service + "@OTHER.TEST", krb5.ErrNoTicket},
		{"with realm", []krb5test.Ticket{{}}, service + "@EXAMPLE.TEST", nil},
		{"postdated", []krb5test.Ticket{{Start: time.Now().Add(time.Hour), Lifetime: 20 * time.Hour}}, service, krb5.ErrNoTicket},
		{"postdated and valid", []krb5test.Ticket{{Start: time.Now().Add(time.Hour), Lifetime: 20 * time.Hour}, {}}, service, nil},
		{"invalid", []krb5test.Ticket{{Flags: kmsg.FlagInvalid}}, service, krb5.ErrNoTicket},
	} {
		t.Run(c.name, func(t *testing.T) {
			cred, err := b.realm.Initiator(b.p, "alice", c.tickets...)
			require.NoError(t, err)
			target, err := b.p.ImportName(c.target, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
			require.NoError(t, err)
			init, err := b.p.InitSecContext(target, gssapi.WithInitiatorCredential(cred))
			require.NoError(t, err)
			tok, info, err := init.Continue(nil)
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				return
			}
			require.NoError(t, err)
			_, _, err = b.show(t, tok)
			require.NoError(t, err)
			if c.name == "longest" {
				require.WithinDuration(t, time.Now().Add(time.Hour), info.ExpiresAt.ExpiresAt, 5*time.Second)
			}
		})
	}
}

// granter mints what it is asked for, and counts.
type granter struct {
	realm *krb5test.Realm
	asked []krb5.Request
	err   error
	key   []byte // what it handed out last
	etype int32

	fault   func(*krb5.Ticket)
	bounded bool // it was given a deadline
}

func (g *granter) Grant(ctx context.Context, r krb5.Request) (*krb5.Ticket, error) {
	g.asked = append(g.asked, r)
	_, g.bounded = ctx.Deadline()
	if g.err != nil {
		return nil, g.err
	}
	m, err := g.realm.Mint(krb5test.Ticket{Client: "alice", Service: r.Service})
	if err != nil {
		return nil, err
	}
	g.key = m.Key
	if g.etype == 0 {
		g.etype = m.Etype
	}
	got := &krb5.Ticket{Client: m.Client, Service: m.Service, EType: g.etype, Key: m.Key, EndTime: m.End, Encoded: m.Encoded}
	if g.fault != nil {
		g.fault(got)
	}
	return got, nil
}

// TestGranter: what the cache has not is asked for once, and kept.
func TestGranter(t *testing.T) {
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", service, "ldap/www.example.test", "ldap/other.example.test", "www/www.example.test")
	require.NoError(t, err)
	dir := t.TempDir()
	cc, kt := filepath.Join(dir, "cc"), filepath.Join(dir, "kt")
	require.NoError(t, realm.WriteCCache(cc, "alice", krb5test.Ticket{Service: service}))
	require.NoError(t, realm.WriteKeytab(kt))
	g := &granter{realm: realm}
	p, err := krb5.New(&krb5.Config{CCache: "FILE:" + cc, ClientKeytab: kt, Granter: g, ReplayCache: t.TempDir()})
	require.NoError(t, err)
	cred, err := p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateOnly, nil)
	require.NoError(t, err)
	initiate := func(service string) error {
		target, err := p.ImportName(service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
		require.NoError(t, err)
		init, err := p.InitSecContext(target, gssapi.WithInitiatorCredential(cred))
		require.NoError(t, err)
		_, _, err = init.Continue(nil)
		return err
	}
	require.NoError(t, initiate(service))
	require.Empty(t, g.asked, "the cache has it")
	require.NoError(t, initiate("ldap/www.example.test"))
	require.Equal(t, []krb5.Request{{Service: "ldap/www.example.test", CCache: cc, ClientKeytab: kt}}, g.asked)
	require.Equal(t, make([]byte, 32), g.key, "what was handed over is wiped")
	require.NoError(t, initiate("ldap/www.example.test"))
	require.Len(t, g.asked, 1, "kept")

	down := errors.New("no KDC answers")
	g.err = down
	err = initiate("ldap/other.example.test")
	require.ErrorIs(t, err, gssapi.ErrNoCred)
	require.ErrorIs(t, err, down)
	g.err = nil
	for name, fault := range map[string]func(*krb5.Ticket){
		"postdated": func(got *krb5.Ticket) { got.StartTime = time.Now().Add(time.Hour) },
		"invalid":   func(got *krb5.Ticket) { got.Flags = 1 << 24 }, // bit 7 of RFC 4120, section 5.3
	} {
		g.fault = fault
		err = initiate("ldap/other.example.test")
		require.ErrorIs(t, err, krb5.ErrNoTicket, name)
		require.ErrorContains(t, err, "not valid yet", name)
	}
	g.fault = func(got *krb5.Ticket) { got.StartTime = time.Now().Add(-time.Hour) }
	require.NoError(t, initiate("www/www.example.test"), "the control")

	g.fault, g.etype = nil, 23
	cred, err = p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateOnly, nil)
	require.NoError(t, err)
	require.ErrorIs(t, initiate("ldap/www.example.test"), krb5.KDC_ERR_ETYPE_NOSUPP)
}

// TestAnotherClientsCache: once the cache is another client's, a credential goes
// on in that one's name only, and not at all where it was acquired by name.
func TestAnotherClientsCache(t *testing.T) {
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", service, "ldap/www.example.test")
	require.NoError(t, err)
	cc := filepath.Join(t.TempDir(), "cc")
	http := krb5test.Ticket{Service: service}
	require.NoError(t, realm.WriteCCache(cc, "alice", http))
	who := "alice"
	g := &granter{realm: realm, fault: func(got *krb5.Ticket) { got.Client = who + "@EXAMPLE.TEST" }}
	p, err := krb5.New(&krb5.Config{CCache: cc, Granter: g, ReplayCache: t.TempDir()})
	require.NoError(t, err)
	acquire := func(client string) gssapi.Credential {
		var name gssapi.GssName
		if client != "" {
			name, err = p.ImportName(client, gssapi.GSS_NT_USER_NAME)
			require.NoError(t, err)
		}
		cred, err := p.AcquireCredential(name, nil, gssapi.CredUsageInitiateOnly, nil)
		require.NoError(t, err)
		return cred
	}
	initiate := func(cred gssapi.Credential, service string) (string, error) {
		target, err := p.ImportName(service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
		require.NoError(t, err)
		init, err := p.InitSecContext(target, gssapi.WithInitiatorCredential(cred))
		require.NoError(t, err)
		_, info, err := init.Continue(nil)
		if err != nil {
			return "", err
		}
		text, _, err := info.InitiatorName.Display()
		require.NoError(t, err)
		return text, nil
	}
	anybody, alice := acquire(""), acquire("alice")
	for _, s := range []string{service, "ldap/www.example.test"} { // cached, granted
		for _, cred := range []gssapi.Credential{anybody, alice} {
			text, err := initiate(cred, s)
			require.NoError(t, err)
			require.Equal(t, "alice@EXAMPLE.TEST", text)
		}
	}
	who = "bob"
	_, err = initiate(acquire("alice"), "ldap/www.example.test")
	require.ErrorIs(t, err, gssapi.ErrDefectiveCredential, "granted in another name")

	require.NoError(t, realm.WriteCCache(cc, "bob", http))
	for _, s := range []string{service, "ldap/www.example.test"} {
		text, err := initiate(anybody, s)
		require.NoError(t, err)
		require.Equal(t, "bob@EXAMPLE.TEST", text)
		_, err = initiate(alice, s)
		require.ErrorIs(t, err, gssapi.ErrNoCred)
	}
}

// TestStampAfterClockStep: a clock that was an hour ahead for a moment does not
// spoil the authenticators that follow; one that jitters makes no two the same.
func TestStampAfterClockStep(t *testing.T) {
	b := newBench(t, krb5.Config{})
	now := time.Now().Truncate(time.Microsecond)
	ahead := now.Add(time.Hour)
	b.p.SetNow(func() time.Time { return ahead })
	require.Equal(t, ahead, b.p.Stamp())
	b.p.Clock(func() time.Time { return now })
	require.Equal(t, now, b.p.Stamp())
	b.p.Clock(func() time.Time { return now.Add(-500 * time.Millisecond) })
	require.Equal(t, now.Add(time.Microsecond), b.p.Stamp())
}

// TestStampsDiffer: no two authenticators of a provider have the same time,
// though the clock stands still.
func TestStampsDiffer(t *testing.T) {
	b := newBench(t, krb5.Config{})
	now := time.Now()
	b.p.SetNow(func() time.Time { return now })
	seen := make(map[time.Time]bool)
	for range 50 {
		init, _ := b.start(t, allFlags)
		key, auth, tok := asked(t, init)
		at := auth.CTime.Add(time.Duration(auth.CUSec) * time.Microsecond)
		require.False(t, seen[at])
		seen[at] = true
		require.False(t, bytes.Contains(tok, key[:16]))
	}
}
