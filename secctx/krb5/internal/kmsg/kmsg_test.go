package kmsg

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

var (
	alice = Principal{Type: NTPrincipal, Realm: "EXAMPLE.TEST", Parts: []string{"alice"}}
	http  = Principal{Type: NTSrvHst, Realm: "EXAMPLE.TEST", Parts: []string{"http", "www.example.test"}}
	noon  = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func sampleTicket() Ticket {
	return Ticket{Service: http, Enc: Encrypted{EType: 18, KVNO: 3, HasKVNO: true, Cipher: bytes.Repeat([]byte{0xc1}, 60)}}
}

func sampleTicketPart() *TicketPart {
	return &TicketPart{
		Flags:     FlagInitial | FlagPreAuthent,
		Key:       Key{EType: 18, Value: bytes.Repeat([]byte{7}, 32)},
		Client:    alice,
		Transited: []byte{},
		AuthTime:  noon,
		StartTime: noon.Add(time.Second),
		EndTime:   noon.Add(time.Hour),
		RenewTill: noon.Add(24 * time.Hour),
		AuthData:  pac(300),
	}
}

func sampleAuthenticator() *Authenticator {
	return &Authenticator{
		Client:       alice,
		ChecksumType: ChecksumGSS,
		Checksum:     GSSChecksum{Flags: 0x3e}.Marshal(),
		CTime:        noon,
		CUSec:        123456,
		Subkey:       Key{EType: 17, Value: bytes.Repeat([]byte{9}, 16)},
		Seq:          0x3fffffff,
		HasSeq:       true,
	}
}

// pac is authorization data like a KDC's: a PAC of n bytes in AD-IF-RELEVANT.
func pac(n int) []byte {
	var inner, outer cryptobyte.Builder
	element := func(b *cryptobyte.Builder, kind int64, data []byte) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addInt(b, 0, kind); addOctets(b, 1, data) })
		})
	}
	element(&inner, 128, bytes.Repeat([]byte{0xaa}, n))
	element(&outer, 1, inner.BytesOrPanic())
	return outer.BytesOrPanic()
}

// samples are genuine messages of each kind, with the parser that takes it and
// writes it again.
func samples(t testing.TB) map[string]struct {
	msg     []byte
	rewrite func([]byte) ([]byte, error)
} {
	type sample = struct {
		msg     []byte
		rewrite func([]byte) ([]byte, error)
	}
	all := map[string]sample{}
	add := func(name string, msg []byte, err error, rewrite func([]byte) ([]byte, error)) {
		require.NoError(t, err)
		all[name] = sample{msg, rewrite}
	}
	buf := func() []byte { return make([]byte, 4096) }
	ticket := sampleTicket()
	tkt, err := ticket.Marshal()
	add("ticket", tkt, err, rewriteTicket)
	msg, err := sampleTicketPart().MarshalTo(buf())
	add("ticket part", msg, err, rewriteTicketPart)
	bare := sampleTicketPart()
	bare.StartTime, bare.RenewTill, bare.AuthData = time.Time{}, time.Time{}, nil
	msg, err = bare.MarshalTo(buf())
	add("bare ticket part", msg, err, rewriteTicketPart)
	msg, err = sampleAuthenticator().MarshalTo(buf())
	add("authenticator", msg, err, rewriteAuthenticator)
	msg, err = (&Authenticator{Client: alice, CTime: noon}).MarshalTo(buf())
	add("bare authenticator", msg, err, rewriteAuthenticator)
	msg, err = MarshalAPReq(OptMutualRequired, tkt, Encrypted{EType: 18, Cipher: []byte("cipher")})
	add("AP-REQ", msg, err, rewriteAPReq)
	msg, err = MarshalAPRep(Encrypted{EType: 18, Cipher: []byte("cipher")})
	add("AP-REP", msg, err, rewriteAPRep)
	msg, err = (&APRepPart{CTime: noon, CUSec: 1, Subkey: Key{EType: 20, Value: bytes.Repeat([]byte{3}, 32)}, Seq: 5, HasSeq: true}).MarshalTo(buf())
	add("AP-REP part", msg, err, rewriteAPRepPart)
	msg, err = (&APRepPart{CTime: noon, CUSec: 1}).MarshalTo(buf())
	add("bare AP-REP part", msg, err, rewriteAPRepPart)
	msg, err = (&Error{Code: 37, STime: noon, Service: http}).Marshal()
	add("KRB-ERROR", msg, err, rewriteError)
	cred := Cred{Tickets: [][]byte{tkt, tkt}, Enc: Encrypted{EType: 18, Cipher: []byte("cipher")}}
	msg, err = cred.Marshal()
	add("KRB-CRED", msg, err, rewriteCred)
	info := CredInfo{Key: Key{EType: 18, Value: bytes.Repeat([]byte{5}, 32)}, Client: alice, Flags: FlagForwarded,
		AuthTime: noon, StartTime: noon, EndTime: noon.Add(time.Hour), RenewTill: noon.Add(24 * time.Hour), Service: http}
	msg, err = (&CredPart{[]CredInfo{info, {Key: info.Key}}}).MarshalTo(buf())
	add("KRB-CRED part", msg, err, rewriteCredPart)
	tok, err := MarshalToken(TokenAPReq, []byte("message"))
	add("token", tok, err, rewriteToken)
	return all
}

func rewriteTicket(b []byte) ([]byte, error) {
	m, err := ParseTicket(b)
	if err != nil {
		return nil, err
	}
	return m.Marshal()
}

func rewriteTicketPart(b []byte) ([]byte, error) {
	m, err := ParseTicketPart(b)
	if err != nil {
		return nil, err
	}
	return m.MarshalTo(make([]byte, len(b)+256))
}

func rewriteAuthenticator(b []byte) ([]byte, error) {
	m, err := ParseAuthenticator(b)
	if err != nil {
		return nil, err
	}
	return m.MarshalTo(make([]byte, len(b)+256))
}

func rewriteAPReq(b []byte) ([]byte, error) {
	m, err := ParseAPReq(b)
	if err != nil {
		return nil, err
	}
	t, err := m.Ticket.Marshal()
	if err != nil {
		return nil, err
	}
	return MarshalAPReq(m.Options, t, m.Authenticator)
}

func rewriteAPRep(b []byte) ([]byte, error) {
	m, err := ParseAPRep(b)
	if err != nil {
		return nil, err
	}
	return MarshalAPRep(*m)
}

func rewriteAPRepPart(b []byte) ([]byte, error) {
	m, err := ParseAPRepPart(b)
	if err != nil {
		return nil, err
	}
	return m.MarshalTo(make([]byte, len(b)+256))
}

func rewriteError(b []byte) ([]byte, error) {
	m, err := ParseError(b)
	if err != nil {
		return nil, err
	}
	return m.Marshal()
}

func rewriteCred(b []byte) ([]byte, error) {
	m, err := ParseCred(b)
	if err != nil {
		return nil, err
	}
	return m.Marshal()
}

func rewriteCredPart(b []byte) ([]byte, error) {
	m, err := ParseCredPart(b)
	if err != nil {
		return nil, err
	}
	return m.MarshalTo(make([]byte, len(b)+1024))
}

func rewriteToken(b []byte) ([]byte, error) {
	id, msg, err := ParseToken(b)
	if err != nil {
		return nil, err
	}
	return MarshalToken(id, msg)
}

// TestRoundTrip: what is read is what was written.
func TestRoundTrip(t *testing.T) {
	for name, s := range samples(t) {
		t.Run(name, func(t *testing.T) {
			again, err := s.rewrite(bytes.Clone(s.msg))
			require.NoError(t, err)
			require.Equal(t, s.msg, again)
		})
	}
	p, err := ParseTicketPart(samples(t)["ticket part"].msg)
	require.NoError(t, err)
	require.Equal(t, sampleTicketPart(), p)
	a, err := ParseAuthenticator(samples(t)["authenticator"].msg)
	require.NoError(t, err)
	require.Equal(t, sampleAuthenticator(), a)
}

// TestDamage cuts every message at every length, adds a byte, and flips every
// bit. Cut or longer it is malformed; with a bit flipped it may be another
// message, but reading it must not fail otherwise than with an error.
func TestDamage(t *testing.T) {
	for name, s := range samples(t) {
		t.Run(name, func(t *testing.T) {
			for n := range s.msg {
				_, err := s.rewrite(bytes.Clone(s.msg[:n]))
				require.ErrorIs(t, err, ErrMalformed, "cut to %d", n)
			}
			_, err := s.rewrite(append(bytes.Clone(s.msg), 0))
			require.ErrorIs(t, err, ErrMalformed)
			refused := 0
			for i := range 8 * len(s.msg) {
				b := bytes.Clone(s.msg)
				b[i/8] ^= 1 << (i % 8)
				if _, err := s.rewrite(b); err != nil {
					refused++
				}
			}
			require.Positive(t, refused)
		})
	}
}

// TestAliases: a key is nowhere but in the buffer that it was decrypted into.
func TestAliases(t *testing.T) {
	msg := samples(t)["ticket part"].msg
	p, err := ParseTicketPart(msg)
	require.NoError(t, err)
	at := bytes.Index(msg, p.Key.Value)
	msg[at] ^= 0xff
	require.Equal(t, msg[at], p.Key.Value[0])
}

func TestKeyPrintsRedacted(t *testing.T) {
	k := Key{EType: 18, Value: []byte("AAAABBBBCCCCDDDD")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		require.NotContains(t, fmt.Sprintf(verb, k), "AAAA")
		require.NotContains(t, fmt.Sprintf(verb, k), "41414141")
		require.NotContains(t, fmt.Sprintf(verb, &TicketPart{Key: k}), "65 65 65")
	}
}

// TestServiceNameWithoutComponents: a ticket whose service name is an empty
// list is malformed, before anything looks at its first component.
func TestServiceNameWithoutComponents(t *testing.T) {
	ticket := sampleTicket()
	ticket.Service.Parts = nil
	msg, err := ticket.Marshal()
	require.NoError(t, err)
	_, err = ParseTicket(msg)
	require.ErrorIs(t, err, ErrMalformed)
}

// TestLimits: names have bounds, and no NUL in them.
func TestLimits(t *testing.T) {
	for name, change := range map[string]func(*Principal){
		"many components": func(p *Principal) { p.Parts = make([]string, MaxParts+1) },
		"long component":  func(p *Principal) { p.Parts = []string{strings.Repeat("a", MaxName+1)} },
		"long together":   func(p *Principal) { p.Parts = []string{strings.Repeat("a", MaxName), "b"} },
		"NUL in name":     func(p *Principal) { p.Parts = []string{"root\x00x"} },
		"NUL in realm":    func(p *Principal) { p.Realm = "A\x00B" },
		"empty realm":     func(p *Principal) { p.Realm = "" },
	} {
		t.Run(name, func(t *testing.T) {
			ticket := sampleTicket()
			change(&ticket.Service)
			msg, err := ticket.Marshal()
			require.NoError(t, err)
			_, err = ParseTicket(msg)
			require.ErrorIs(t, err, ErrMalformed)
		})
	}
	big, err := MarshalToken(TokenAPReq, make([]byte, MaxToken))
	require.NoError(t, err)
	_, _, err = ParseToken(big)
	require.ErrorIs(t, err, ErrMalformed)
}

// TestVersions: other versions and message types are told apart from damage.
func TestVersions(t *testing.T) {
	good := samples(t)["AP-REQ"].msg
	at := bytes.Index(good, []byte{0xa0, 3, 2, 1, 5})
	other := bytes.Clone(good)
	other[at+4] = 4
	_, err := ParseAPReq(other)
	require.ErrorIs(t, err, ErrVersion)
	other = bytes.Clone(good)
	other[at+9] = 15
	_, err = ParseAPReq(other)
	require.ErrorIs(t, err, ErrMsgType)

	tok := samples(t)["token"].msg
	spnego := bytes.Clone(tok)
	spnego[5] ^= 1
	_, _, err = ParseToken(spnego)
	require.ErrorIs(t, err, ErrMech)
}

// TestSignedNumbers: old peers write unsigned 32-bit numbers as signed ones.
func TestSignedNumbers(t *testing.T) {
	var b cryptobyte.Builder
	message(&b, 27, func(b *cryptobyte.Builder) { addTime(b, 0, noon); addInt(b, 1, 0); addInt(b, 3, -2) })
	r, err := ParseAPRepPart(b.BytesOrPanic())
	require.NoError(t, err)
	require.Equal(t, uint32(0xfffffffe), r.Seq)
}

// TestTimes: KerberosTime has one form.
func TestTimes(t *testing.T) {
	for text, ok := range map[string]bool{
		"20261123120000Z":     true,
		"20261123120000":      false,
		"20261123120000.5Z":   false,
		"20261123120000+01":   false,
		"2026112312000,Z":     false,
		"20261323120000Z":     false,
		"20260230120000Z":     false,
		"20261123126000Z":     false,
		"20261123120000z":     false,
		"202611231200000000Z": false,
	} {
		var b cryptobyte.Builder
		message(&b, 27, func(b *cryptobyte.Builder) {
			b.AddASN1(field(0), func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.GeneralizedTime, func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) })
			})
			addInt(b, 1, 0)
		})
		_, err := ParseAPRepPart(b.BytesOrPanic())
		require.Equal(t, ok, err == nil, text)
	}
}

func TestFlagsShorterThan32Bits(t *testing.T) {
	for _, c := range []struct {
		der  []byte
		want uint32
		ok   bool
	}{
		{[]byte{3, 5, 0, 0x20, 0, 0, 0}, OptMutualRequired, true},
		{[]byte{3, 2, 5, 0x20}, OptMutualRequired, true},
		{[]byte{3, 6, 0, 0x20, 0, 0, 0, 1}, OptMutualRequired, true},
		{[]byte{3, 1, 0}, 0, true},
		{[]byte{3, 1, 3}, 0, false},
		{[]byte{3, 0}, 0, false},
		{[]byte{3, 2, 8, 0x20}, 0, false},
	} {
		s := cryptobyte.String(append([]byte{0xa2, byte(len(c.der))}, c.der...))
		var v uint32
		require.Equal(t, c.ok, readFlags(&s, 2, &v), "%x", c.der)
		if c.ok {
			require.Equal(t, c.want, v)
		}
	}
}

func TestGSSChecksum(t *testing.T) {
	good := GSSChecksum{Flags: 0x3e, Bindings: [16]byte{1, 2, 3}}
	c, err := ParseGSSChecksum(good.Marshal())
	require.NoError(t, err)
	require.Equal(t, good, c)

	deleg := func(tail ...byte) []byte { return append(GSSChecksum{Flags: 1}.Marshal(), tail...) }
	for name, b := range map[string][]byte{
		"empty":                         nil,
		"short":                         good.Marshal()[:23],
		"length of bindings":            append([]byte{15}, good.Marshal()[1:]...),
		"delegation without credential": deleg(),
		"delegation option":             deleg(2, 0, 0, 0),
		"credential cut off":            deleg(1, 0, 3, 0, 'a', 'b'),
	} {
		_, err := ParseGSSChecksum(b)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
	for name, b := range map[string][]byte{
		"credential":                deleg(1, 0, 2, 0, 'a', 'b'),
		"credential and extension":  deleg(1, 0, 2, 0, 'a', 'b', 0, 0, 0, 9, 0, 0, 0, 0),
		"extension":                 append(good.Marshal(), 1, 2, 3),
		"credential of no bytes":    deleg(1, 0, 0, 0),
		"largest possible bindings": append(GSSChecksum{Bindings: [16]byte(bytes.Repeat([]byte{0xff}, 16))}.Marshal(), 0),
	} {
		_, err := ParseGSSChecksum(b)
		require.NoError(t, err, name)
	}
}

func TestPrincipalText(t *testing.T) {
	for text, want := range map[string]Principal{
		"alice":                       {Type: NTPrincipal, Parts: []string{"alice"}},
		"alice@EXAMPLE.TEST":          alice,
		"a/b/c@R":                     {Type: NTPrincipal, Realm: "R", Parts: []string{"a", "b", "c"}},
		`a\/b@R`:                      {Type: NTPrincipal, Realm: "R", Parts: []string{"a/b"}},
		`a\@b\\c@R`:                   {Type: NTPrincipal, Realm: "R", Parts: []string{`a@b\c`}},
		`tab\tnl\nbs\b@R`:             {Type: NTPrincipal, Realm: "R", Parts: []string{"tab\tnl\nbs\b"}},
		`a\x1b[2J\x0d\xe2\x80\xaeb@R`: {Type: NTPrincipal, Realm: "R", Parts: []string{"a\x1b[2J\r\u202eb"}},
		`\xff\x7f\xc2\x85@R`:          {Type: NTPrincipal, Realm: "R", Parts: []string{"\xff\x7f\u0085"}},
		`\x/\xg0\xAB@R`:               {Type: NTPrincipal, Realm: "R", Parts: []string{"x", "xg0xAB"}},
		"müller@R":                    {Type: NTPrincipal, Realm: "R", Parts: []string{"müller"}},
		"/@R":                         {Type: NTPrincipal, Realm: "R", Parts: []string{"", ""}},
		`http/www.example.test@A\@B`:  {Type: NTPrincipal, Realm: "A@B", Parts: []string{"http", "www.example.test"}},
	} {
		p, err := ParsePrincipal(text)
		require.NoError(t, err, text)
		require.Equal(t, want, p, text)
		if want.Realm != "" {
			exported, err := ParseExported(p.Exported())
			require.NoError(t, err, text)
			require.Equal(t, want, exported)
		}
		again, err := ParsePrincipal(p.String())
		require.NoError(t, err, text)
		require.Equal(t, p, again)
		require.True(t, utf8.ValidString(p.String()))
		require.False(t, strings.ContainsFunc(p.String(), func(r rune) bool { return !unicode.IsPrint(r) }), text)
	}
	long := Principal{Type: NTPrincipal, Realm: "R", Parts: []string{strings.Repeat("\x01", MaxName-1)}}
	again, err := ParsePrincipal(long.String())
	require.NoError(t, err)
	require.Equal(t, long, again)
	for _, text := range []string{"", "@R", "a@", "a@b@c", `a\`, `a\0b`, strings.Repeat("a", MaxName+1), strings.Repeat("/", MaxParts)} {
		_, err := ParsePrincipal(text)
		require.ErrorIs(t, err, ErrName, "%.20q", text)
	}
	_, err = ParsePrincipal(`a\x00b`)
	require.ErrorIs(t, err, ErrName)
	p, err := ParseEnterprise("alice@corp.example@EXAMPLE.TEST")
	require.NoError(t, err)
	require.Equal(t, Principal{Type: NTEnterprise, Realm: "EXAMPLE.TEST", Parts: []string{"alice@corp.example"}}, p)
}

func TestPrincipalEqual(t *testing.T) {
	require.True(t, alice.Equal(Principal{Type: NTEnterprise, Realm: "EXAMPLE.TEST", Parts: []string{"alice"}}))
	for _, other := range []Principal{
		{Realm: "ADMIN.TEST", Parts: []string{"alice"}},
		{Realm: "EXAMPLE.TEST", Parts: []string{"Alice"}},
		{Realm: "EXAMPLE.TEST", Parts: []string{"alice", "admin"}},
		{Realm: "EXAMPLE.TEST", Parts: []string{"alice", ""}},
		{Realm: "EXAMPLE.TEST"},
	} {
		require.False(t, alice.Equal(other), "%v", other)
	}
}
