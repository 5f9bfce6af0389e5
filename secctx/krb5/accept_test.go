package krb5_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// TestForgeryControl: a forgery that nothing is wrong with is accepted. Without
// this the tests that follow would prove nothing.
func TestForgeryControl(t *testing.T) {
	for _, id := range krb5test.Enctypes() {
		b := newBench(t, krb5.Config{})
		acc, out, err := b.show(t, b.forge(t, id).bytes(t))
		require.NoError(t, err)
		require.NotEmpty(t, out)
		info, err := acc.Inquire()
		require.NoError(t, err)
		text, _, err := info.InitiatorName.Display()
		require.NoError(t, err)
		require.Equal(t, "alice@EXAMPLE.TEST", text)
		require.Equal(t, allFlags, info.Flags)
	}
}

// TestRefused has one fault after the other in an AP-REQ that is otherwise good.
func TestRefused(t *testing.T) {
	hour := time.Hour
	for _, c := range []struct {
		name  string
		fault func(*forgery)
		major error
		code  krb5.Code
	}{
		{"client realm not the ticket's", func(f *forgery) { f.auth.Client.Realm = "ADMIN.TEST" }, gssapi.ErrDefectiveToken, krb5.KRB_AP_ERR_BADMATCH},
		{"client name not the ticket's", func(f *forgery) { f.auth.Client.Parts = []string{"root"} }, gssapi.ErrDefectiveToken, krb5.KRB_AP_ERR_BADMATCH},
		{"client name longer than the ticket's", func(f *forgery) { f.auth.Client.Parts = []string{"alice", "admin"} }, gssapi.ErrDefectiveToken, krb5.KRB_AP_ERR_BADMATCH},
		{"ticket expired", func(f *forgery) { f.part.EndTime = time.Now().Add(-6 * time.Minute) }, gssapi.ErrCredentialsExpired, krb5.KRB_AP_ERR_TKT_EXPIRED},
		{"ticket of tomorrow", func(f *forgery) { f.part.StartTime = time.Now().Add(hour) }, gssapi.ErrFailure, krb5.KRB_AP_ERR_TKT_NYV},
		{"ticket without start, of tomorrow", func(f *forgery) { f.part.AuthTime = time.Now().Add(hour) }, gssapi.ErrFailure, krb5.KRB_AP_ERR_TKT_NYV},
		{"postdated ticket", func(f *forgery) { f.part.Flags |= kmsg.FlagInvalid }, gssapi.ErrFailure, krb5.KRB_AP_ERR_TKT_NYV},
		{"old authenticator", func(f *forgery) { f.auth.CTime = time.Now().Add(-6 * time.Minute) }, gssapi.ErrFailure, krb5.KRB_AP_ERR_SKEW},
		{"authenticator of the future", func(f *forgery) { f.auth.CTime = time.Now().Add(6 * time.Minute) }, gssapi.ErrFailure, krb5.KRB_AP_ERR_SKEW},
		{"no checksum", func(f *forgery) { f.auth.Checksum = nil }, gssapi.ErrDefectiveToken, krb5.KRB_AP_ERR_INAPP_CKSUM},
		{"checksum of another type", func(f *forgery) { f.auth.ChecksumType = 16 }, gssapi.ErrDefectiveToken, krb5.KRB_AP_ERR_INAPP_CKSUM},
		{"short checksum", func(f *forgery) { f.auth.Checksum = f.auth.Checksum[:20] }, gssapi.ErrDefectiveToken, 0},
		{"unknown service", func(f *forgery) { f.service.Parts = []string{"http", "other.example.test"} }, gssapi.ErrNoCred, krb5.KRB_AP_ERR_NOKEY},
		{"service of another realm", func(f *forgery) { f.service.Realm = "ADMIN.TEST" }, gssapi.ErrNoCred, krb5.KRB_AP_ERR_NOKEY},
		{"old key version", func(f *forgery) { f.kvno = 1 }, gssapi.ErrNoCred, krb5.KRB_AP_ERR_BADKEYVER},
		{"key version of eight bits", func(f *forgery) { f.kvno += 256 }, gssapi.ErrNoCred, krb5.KRB_AP_ERR_BADKEYVER},
		{"ticket under another key", func(f *forgery) { f.key.Key.Value = randomKey(f.key.Key.EType) }, gssapi.ErrBadMic, krb5.KRB_AP_ERR_BAD_INTEGRITY},
		{"authenticator under another key", func(f *forgery) { f.authKey = randomKey(f.key.Key.EType) }, gssapi.ErrBadMic, krb5.KRB_AP_ERR_BAD_INTEGRITY},
		{"authenticator of another enctype", func(f *forgery) { f.etypes = func(_, auth *int32) { *auth ^= 1 } }, gssapi.ErrBadMic, krb5.KRB_AP_ERR_BAD_INTEGRITY},
		{"RC4 ticket", func(f *forgery) { f.etypes = func(ticket, _ *int32) { *ticket = 23 } }, gssapi.ErrFailure, krb5.KDC_ERR_ETYPE_NOSUPP},
		{"RC4 session key", func(f *forgery) { f.part.Key = kmsg.Key{EType: 23, Value: make([]byte, 16)} }, gssapi.ErrFailure, krb5.KDC_ERR_ETYPE_NOSUPP},
		{"short session key", func(f *forgery) { f.part.Key.Value = f.part.Key.Value[1:] }, gssapi.ErrFailure, krb5.KDC_ERR_ETYPE_NOSUPP},
		{"empty session key", func(f *forgery) { f.part.Key.Value = nil }, gssapi.ErrFailure, krb5.KDC_ERR_ETYPE_NOSUPP},
		{"short subkey", func(f *forgery) { f.auth.Subkey.Value = f.auth.Subkey.Value[1:] }, gssapi.ErrFailure, krb5.KDC_ERR_ETYPE_NOSUPP},
		{"RC4 subkey", func(f *forgery) { f.auth.Subkey.EType = 23 }, gssapi.ErrFailure, krb5.KDC_ERR_ETYPE_NOSUPP},
		{"user to user", func(f *forgery) { f.options |= kmsg.OptUseSessionKey }, gssapi.ErrUnavailable, krb5.KRB_AP_ERR_USER_TO_USER_RQ},
		{"DCE style", func(f *forgery) {
			f.auth.Checksum = kmsg.GSSChecksum{Flags: uint32(allFlags | gssapi.ContextFlagDceStyle)}.Marshal()
		}, gssapi.ErrUnavailable, 0},
		{"transited realms that nobody checked", func(f *forgery) {
			f.part.Client.Realm, f.auth.Client.Realm = "OTHER.TEST", "OTHER.TEST"
			f.part.Transited = []byte("MIDDLE.TEST")
		}, gssapi.ErrUnauthorized, krb5.KRB_AP_PATH_NOT_ACCEPTED},
		{"client of this realm by way of another that nobody checked", func(f *forgery) {
			f.part.Transited = []byte("OTHER.TEST")
		}, gssapi.ErrUnauthorized, krb5.KRB_AP_PATH_NOT_ACCEPTED},
		{"empty subkey", func(f *forgery) { f.auth.Subkey.Value = []byte{} }, gssapi.ErrFailure, krb5.KDC_ERR_ETYPE_NOSUPP},
		{"client name that no context can have", func(f *forgery) {
			f.part.Client = kmsg.Principal{Realm: strings.Repeat("R", 600), Parts: []string{strings.Repeat("n", 600)}}
			f.auth.Client = f.part.Client
		}, gssapi.ErrDefectiveToken, 0},
		{"anonymous client", func(f *forgery) {
			f.part.Client = kmsg.Principal{Type: kmsg.NTWellknown, Realm: "EXAMPLE.TEST", Parts: []string{"WELLKNOWN", "ANONYMOUS"}}
			f.auth.Client = f.part.Client
		}, gssapi.ErrUnauthorized, krb5.KRB_ERR_GENERIC},
		{"client of the anonymous realm", func(f *forgery) {
			f.part.Client.Realm, f.auth.Client.Realm = "WELLKNOWN:ANONYMOUS", "WELLKNOWN:ANONYMOUS"
		}, gssapi.ErrUnauthorized, krb5.KRB_ERR_GENERIC},
		{"anonymous flag", func(f *forgery) { f.part.Flags |= kmsg.FlagAnonymous }, gssapi.ErrUnauthorized, krb5.KRB_ERR_GENERIC},
		{"ticket's content is none", func(f *forgery) { f.plainTicket = func([]byte) []byte { return []byte("nothing") } }, gssapi.ErrDefectiveToken, 0},
		{"ticket's content goes on", func(f *forgery) { f.plainTicket = func(b []byte) []byte { return append(b, 0) } }, gssapi.ErrDefectiveToken, 0},
		{"authenticator's content is none", func(f *forgery) { f.plainAuth = func([]byte) []byte { return nil } }, gssapi.ErrDefectiveToken, 0},
		{"ticket and authenticator swapped", func(f *forgery) {
			f.cipher = func(ticket, auth []byte) ([]byte, []byte) { return auth, ticket }
		}, gssapi.ErrBadMic, krb5.KRB_AP_ERR_BAD_INTEGRITY},
		{"AP-REP's token id", func(f *forgery) { f.token = kmsg.TokenAPRep }, gssapi.ErrDefectiveToken, krb5.KRB_AP_ERR_MSG_TYPE},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, id := range krb5test.Enctypes() {
				b := newBench(t, krb5.Config{})
				f := b.forge(t, id)
				c.fault(f)
				acc, out, err := b.show(t, f.bytes(t))
				requireCode(t, err, c.major, c.code, out)
				require.Zero(t, b.p.LockedBytes()-lockedByCreds(t, b), "secrets left")
				_, err = acc.GetMIC([]byte("x"), 0)
				require.ErrorIs(t, err, gssapi.ErrNoContext)
			}
		})
	}
}

// lockedByCreds is what the bench's two credentials hold.
func lockedByCreds(t testing.TB, b *bench) int {
	t.Helper()
	other, err := krb5.New(&krb5.Config{ReplayCache: t.TempDir()})
	require.NoError(t, err)
	acceptor, err := b.realm.Acceptor(other)
	require.NoError(t, err)
	initiator, err := b.realm.Initiator(other, "alice")
	require.NoError(t, err)
	n := other.LockedBytes()
	require.NoError(t, acceptor.Release()) // not collected before now
	require.NoError(t, initiator.Release())
	return n
}

// TestClientRealmIsCompared: a ticket of alice@EXAMPLE.TEST makes nobody
// alice@ADMIN.TEST.
func TestClientRealmIsCompared(t *testing.T) {
	b := newBench(t, krb5.Config{})
	f := b.forge(t, 18)
	f.auth.Client.Realm = "ADMIN.TEST"
	_, out, err := b.show(t, f.bytes(t))
	requireCode(t, err, gssapi.ErrDefectiveToken, krb5.KRB_AP_ERR_BADMATCH, out)
}

// TestShortCiphertext: ciphertexts of every length below the shortest genuine
// one, ticket's and authenticator's, are refused and nothing panics.
func TestShortCiphertext(t *testing.T) {
	b := newBench(t, krb5.Config{})
	for _, id := range krb5test.Enctypes() {
		for n := range 48 {
			f := b.forge(t, id)
			f.cipher = func(ticket, auth []byte) ([]byte, []byte) { return ticket[:n], auth }
			_, out, err := b.show(t, f.bytes(t))
			requireCode(t, err, gssapi.ErrBadMic, krb5.KRB_AP_ERR_BAD_INTEGRITY, out)
			f = b.forge(t, id)
			f.cipher = func(ticket, auth []byte) ([]byte, []byte) { return ticket, auth[:n] }
			_, out, err = b.show(t, f.bytes(t))
			requireCode(t, err, gssapi.ErrBadMic, krb5.KRB_AP_ERR_BAD_INTEGRITY, out)
		}
	}
}

// TestServiceNameWithoutComponents: refused as malformed, and nothing panics.
func TestServiceNameWithoutComponents(t *testing.T) {
	b := newBench(t, krb5.Config{})
	f := b.forge(t, 18)
	f.service.Parts = nil
	_, _, err := b.show(t, f.bytes(t))
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	require.ErrorIs(t, err, kmsg.ErrMalformed)
}

// TestAES256SHA384KeySize: enctype 20 has keys of 32 bytes, not of 24.
func TestAES256SHA384KeySize(t *testing.T) {
	b := newBench(t, krb5.Config{}, krb5test.Ticket{Etype: 20})
	m, err := b.realm.Mint(krb5test.Ticket{Etype: 20})
	require.NoError(t, err)
	require.Len(t, m.Key, 32)
	f := b.forge(t, 20)
	f.part.Key.Value = f.part.Key.Value[:24]
	_, out, err := b.show(t, f.bytes(t))
	requireCode(t, err, gssapi.ErrFailure, krb5.KDC_ERR_ETYPE_NOSUPP, out)
	init, acc := b.establish(t, allFlags)
	converse(t, init, acc)
}

// TestReplay: an AP-REQ is good once, in whatever way what stands in clear
// before the ticket is rewritten, in another provider too; and once more in
// another cache, which is the control.
func TestReplay(t *testing.T) {
	dir := t.TempDir()
	realm, err := krb5test.NewRealm("EXAMPLE.TEST", service)
	require.NoError(t, err)
	b := newBench(t, krb5.Config{ReplayCache: dir})
	b.realm = realm
	f := b.forge(t, 18)

	// A keytab in which another principal has the same key.
	data, err := realm.Keytab()
	require.NoError(t, err)
	data = append(data, bytes.ReplaceAll(data[2:], []byte("www.example.test"), []byte("xyz.example.test"))...)
	b.acceptor, err = b.p.KeytabCredential(nil, data)
	require.NoError(t, err)

	auth, ticket := []byte(nil), []byte(nil)
	f.cipher = func(tk, au []byte) ([]byte, []byte) { // one encryption for all
		if auth == nil {
			ticket, auth = tk, au
		}
		return ticket, auth
	}
	_, _, err = b.show(t, f.bytes(t))
	require.NoError(t, err)
	again := func(what string) {
		_, out, err := b.show(t, f.bytes(t))
		requireCode(t, err, gssapi.ErrFailure, krb5.KRB_AP_ERR_REPEAT, out)
		require.ErrorIs(t, err, gssapi.InfoDuplicateToken, what)
	}
	again("as it was")
	f.service.Parts = []string{"http", "xyz.example.test"}
	again("service rewritten")
	f.service.Type = 77
	again("name type rewritten")
	f.noKVNO = true
	again("key version left out")
	f.options = 0
	again("options rewritten")

	second := newBench(t, krb5.Config{ReplayCache: dir})
	second.realm, second.acceptor = realm, nil
	second.acceptor, err = second.p.KeytabCredential(nil, data)
	require.NoError(t, err)
	_, _, err = second.show(t, f.bytes(t))
	require.ErrorIs(t, err, krb5.KRB_AP_ERR_REPEAT)

	control := newBench(t, krb5.Config{})
	control.ageReplayCache(t)
	control.acceptor, err = control.p.KeytabCredential(nil, data)
	require.NoError(t, err)
	_, _, err = control.show(t, f.bytes(t))
	require.NoError(t, err)
}

// TestReplayAfterDelay: an authenticator that was in time when its AP-REQ came
// is refused when it has been forgotten since. Here that takes as long as
// somebody else's context, whose record goes where the first one's was.
func TestReplayAfterDelay(t *testing.T) {
	b := newBench(t, krb5.Config{ReplayCapacity: 1})
	b.ageReplayCache(t)
	start := time.Now()
	at := func(when time.Time) []byte {
		f := b.forge(t, 18)
		f.auth.CTime, f.auth.CUSec = when, when.Nanosecond()/1000
		return f.bytes(t)
	}
	first, other := at(start), at(start.Add(5*time.Minute+3*time.Second))
	now := start
	clock := func() time.Time { return now }
	b.p.Clock(clock)
	_, _, err := b.show(t, first)
	require.NoError(t, err)

	now = start.Add(5*time.Minute - time.Second)
	_, _, err = b.show(t, first)
	require.ErrorIs(t, err, krb5.KRB_AP_ERR_REPEAT, "the control: in time, and remembered")
	b.p.Clock(func() time.Time {
		in := now
		now = start.Add(5*time.Minute + 3*time.Second)
		b.p.Clock(clock)
		_, _, err := b.show(t, other)
		require.NoError(t, err)
		return in
	})
	_, out, err := b.show(t, first)
	requireCode(t, err, gssapi.ErrFailure, krb5.KRB_AP_ERR_SKEW, out)
}

// TestReplayCacheFailsClosed: without room, and without a usable cache, nobody
// is accepted.
func TestReplayCacheFailsClosed(t *testing.T) {
	b := newBench(t, krb5.Config{ReplayCapacity: 1})
	var err error
	for range 300 {
		if _, _, err = b.show(t, b.forge(t, 17).bytes(t)); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, gssapi.ErrFailure)
	require.ErrorContains(t, err, "full")

	b = newBench(t, krb5.Config{ReplayCache: "/proc/nowhere"})
	_, _, err = b.show(t, b.forge(t, 17).bytes(t))
	require.ErrorIs(t, err, gssapi.ErrFailure)
}

// TestDelegatedCredentialIsDropped: it is framed right, and the flag is not
// shown; framed wrong it is refused.
func TestDelegatedCredentialIsDropped(t *testing.T) {
	b := newBench(t, krb5.Config{})
	with := func(tail ...byte) []byte {
		f := b.forge(t, 18)
		f.auth.Checksum = append(kmsg.GSSChecksum{Flags: uint32(allFlags | gssapi.ContextFlagDeleg)}.Marshal(), tail...)
		return f.bytes(t)
	}
	acc, _, err := b.show(t, with(1, 0, 4, 0, 'c', 'r', 'e', 'd'))
	require.NoError(t, err)
	info, err := acc.Inquire()
	require.NoError(t, err)
	require.Equal(t, allFlags, info.Flags)
	require.Nil(t, info.DelegatedCredential)
	_, _, err = b.show(t, with(1, 0, 5, 0, 'c', 'r', 'e', 'd'))
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
}

// TestPACIsLeftAlone: authorization data of any size changes nothing.
func TestPACIsLeftAlone(t *testing.T) {
	for _, size := range []int{0, 200, 40_000} {
		pac := der(0x04, make([]byte, size))
		elem := der(0x30, append([]byte{0xa0, 3, 2, 1, 1}, der(0xa1, pac)...))
		b := newBench(t, krb5.Config{}, krb5test.Ticket{AuthorizationData: der(0x30, elem)})
		init, acc := b.establish(t, allFlags)
		converse(t, init, acc)
	}
}

// der frames content whose length needs no more than two bytes.
func der(tag byte, content []byte) []byte {
	n := len(content)
	switch {
	case n < 128:
		return append([]byte{tag, byte(n)}, content...)
	case n < 256:
		return append([]byte{tag, 0x81, byte(n)}, content...)
	}
	return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
}

// TestCrossRealm: a direct trust has no realms in between; others count when the
// KDC has checked them.
func TestCrossRealm(t *testing.T) {
	for _, ticket := range []krb5test.Ticket{
		{},
		{Transited: []byte("MIDDLE.TEST"), Flags: kmsg.FlagTransitPolicyChecked},
	} {
		b := newBench(t, krb5.Config{})
		var err error
		b.initiator, err = b.realm.Initiator(b.p, "bob@OTHER.TEST", ticket)
		require.NoError(t, err)
		_, acc := b.establish(t, allFlags)
		info, err := acc.Inquire()
		require.NoError(t, err)
		text, _, err := info.InitiatorName.Display()
		require.NoError(t, err)
		require.Equal(t, "bob@OTHER.TEST", text)
	}
}

// TestGarbage: what is no AP-REQ at all.
func TestGarbage(t *testing.T) {
	b := newBench(t, krb5.Config{})
	good := b.forge(t, 18).bytes(t)
	for n := range good {
		_, _, err := b.show(t, good[:n])
		require.ErrorIs(t, err, gssapi.ErrDefectiveToken, "cut to %d", n)
	}
	_, _, err := b.show(t, append(bytes.Clone(good), 0))
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	_, _, err = b.show(t, make([]byte, kmsg.MaxToken+1))
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	spnego := bytes.Clone(good)
	spnego[bytes.Index(good, gssapi.GSS_MECH_KRB5.Oid())+3] ^= 1
	_, _, err = b.show(t, spnego)
	require.ErrorIs(t, err, gssapi.ErrBadMech)
	_, _, err = b.show(t, good)
	require.NoError(t, err, "none of that used it up")
}

// TestEnctypeChoice: a provider that permits some enctypes takes no others.
func TestEnctypeChoice(t *testing.T) {
	b := newBench(t, krb5.Config{Enctypes: []int32{20}}, krb5test.Ticket{Etype: 20})
	init, acc := b.establish(t, allFlags)
	converse(t, init, acc)
	_, out, err := b.show(t, b.forge(t, 18).bytes(t))
	requireCode(t, err, gssapi.ErrFailure, krb5.KDC_ERR_ETYPE_NOSUPP, out)
	f := b.forge(t, 20)
	f.auth.Subkey = kmsg.Key{EType: 17, Value: randomKey(17)}
	_, out, err = b.show(t, f.bytes(t))
	requireCode(t, err, gssapi.ErrFailure, krb5.KDC_ERR_ETYPE_NOSUPP, out)
	_, err = krb5.New(&krb5.Config{Enctypes: []int32{23}})
	require.ErrorIs(t, err, krb5.KDC_ERR_ETYPE_NOSUPP)
}

// TestWithoutSubkeyAndNumber: old clients send neither; the ticket's session
// key and zero take their places.
func TestWithoutSubkeyAndNumber(t *testing.T) {
	b := newBench(t, krb5.Config{})
	f := b.forge(t, 18)
	f.auth.Subkey, f.auth.HasSeq = kmsg.Key{}, false
	f.auth.Checksum = kmsg.GSSChecksum{}.Marshal()
	f.noKVNO = true
	acc, out, err := b.show(t, f.bytes(t))
	require.NoError(t, err)
	require.Empty(t, out)
	mic, err := acc.GetMIC([]byte("message"), 0)
	require.NoError(t, err)
	require.NotEmpty(t, mic)
}
