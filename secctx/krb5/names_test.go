package krb5_test

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"
	"unicode"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

func importName(t *testing.T, p *krb5.Provider, text string, nt gssapi.GssNameType) gssapi.GssName {
	t.Helper()
	n, err := p.ImportName(text, nt)
	require.NoError(t, err, text)
	return n
}

func TestNames(t *testing.T) {
	p := newBench(t, krb5.Config{Realm: "DEFAULT.TEST"}).p
	host, err := os.Hostname()
	require.NoError(t, err)
	for _, c := range []struct {
		text  string
		nt    gssapi.GssNameType
		shown string
		mn    string
	}{
		{"alice@EXAMPLE.TEST", gssapi.GSS_NT_USER_NAME, "alice@EXAMPLE.TEST", "alice@EXAMPLE.TEST"},
		{"alice", gssapi.GSS_NT_USER_NAME, "alice@DEFAULT.TEST", "alice@DEFAULT.TEST"},
		{"a/b@R", gssapi.GSS_KRB5_NT_PRINCIPAL_NAME, "a/b@R", "a/b@R"},
		{`a\/b@R`, gssapi.GSS_NO_OID, `a\/b@R`, `a\/b@R`},
		{"alice@corp.test@R", gssapi.GSS_KRB5_NT_ENTERPRISE_NAME, `alice\@corp.test@R`, `alice\@corp.test@R`},
		{"HTTP@WWW.Example.Test", gssapi.GSS_NT_HOSTBASED_SERVICE, "HTTP@WWW.Example.Test", "HTTP/www.example.test"},
		{"HTTP", gssapi.GSS_NT_HOSTBASED_SERVICE, "HTTP", "HTTP/" + strings.ToLower(host)},
		{"HTTP@WWW.Example.Test.", gssapi.GSS_NT_HOSTBASED_SERVICE, "HTTP@WWW.Example.Test.", "HTTP/www.example.test"},
		{"HTTP@M\xdcLLER\xff", gssapi.GSS_NT_HOSTBASED_SERVICE, "HTTP@M\xdcLLER\xff", `HTTP/m\xdcller\xff`},
	} {
		n := importName(t, p, c.text, c.nt)
		shown, _, err := n.Display()
		require.NoError(t, err)
		require.Equal(t, c.shown, shown)
		mn, err := n.Canonicalize(gssapi.GSS_MECH_KRB5)
		require.NoError(t, err)
		shown, nt, err := mn.Display()
		require.NoError(t, err)
		require.Equal(t, c.mn, shown)
		require.Equal(t, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME, nt)
		same, err := n.Compare(mn)
		require.NoError(t, err)
		require.True(t, same)
		_, err = n.Export()
		require.ErrorIs(t, err, gssapi.ErrNameNotMn)
		_, err = n.Canonicalize(gssapi.GSS_MECH_SPNEGO)
		require.ErrorIs(t, err, gssapi.ErrBadMech)
		mechs, err := n.InquireMechs()
		require.NoError(t, err)
		require.Equal(t, []gssapi.GssMech{gssapi.GSS_MECH_KRB5}, mechs)
		require.NoError(t, n.Release())
	}
	for _, c := range []struct {
		text string
		nt   gssapi.GssNameType
		err  error
	}{
		{"", gssapi.GSS_NT_USER_NAME, gssapi.ErrBadName},
		{"a@b@c", gssapi.GSS_NT_USER_NAME, gssapi.ErrBadName},
		{"@host", gssapi.GSS_NT_HOSTBASED_SERVICE, gssapi.ErrBadName},
		{"a/b@host", gssapi.GSS_NT_HOSTBASED_SERVICE, gssapi.ErrBadName},
		{"http@ho\x00st", gssapi.GSS_NT_HOSTBASED_SERVICE, gssapi.ErrBadName},
		{"http@.", gssapi.GSS_NT_HOSTBASED_SERVICE, gssapi.ErrBadName},
		{"http@www.example.test..", gssapi.GSS_NT_HOSTBASED_SERVICE, gssapi.ErrBadName},
		{"1000", gssapi.GSS_NT_STRING_UID_NAME, gssapi.ErrBadNameType},
		{"", gssapi.GSS_NT_ANONYMOUS, gssapi.ErrBadNameType},
	} {
		_, err := p.ImportName(c.text, c.nt)
		require.ErrorIs(t, err, c.err, c.text)
	}
	types, err := p.InquireNamesForMech(gssapi.GSS_MECH_KRB5)
	require.NoError(t, err)
	require.Contains(t, types, gssapi.GssNameType(gssapi.GSS_NT_HOSTBASED_SERVICE))
	_, err = p.InquireNamesForMech(gssapi.GSS_MECH_SPNEGO)
	require.ErrorIs(t, err, gssapi.ErrBadMech)
}

// TestCompareWithoutRealm: a name without a realm equals none that has one.
func TestCompareWithoutRealm(t *testing.T) {
	p := newBench(t, krb5.Config{}).p
	peer := importName(t, p, "alice@EVIL.TEST", gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
	for _, nt := range []gssapi.GssNameType{gssapi.GSS_NT_USER_NAME, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME, gssapi.GSS_KRB5_NT_ENTERPRISE_NAME} {
		bare := importName(t, p, "alice", nt)
		for _, pair := range [][2]gssapi.GssName{{bare, peer}, {peer, bare}} {
			same, err := pair[0].Compare(pair[1])
			require.NoError(t, err)
			require.False(t, same, nt)
		}
		canonical, err := bare.Canonicalize(nil)
		require.NoError(t, err)
		_, err = canonical.Export()
		require.ErrorIs(t, err, gssapi.ErrNameNotMn)
		same, err := canonical.Compare(peer)
		require.NoError(t, err)
		require.False(t, same, nt)
	}
}

// TestCompareHostbased: a host-based name is that of the provider's realm, and the
// same service of another realm is another's.
func TestCompareHostbased(t *testing.T) {
	for _, c := range []struct {
		own, peer string
		equal     bool
	}{
		{"EXAMPLE.TEST", "EXAMPLE.TEST", true},
		{"EXAMPLE.TEST", "EVIL.TEST", false},
		{"", "EXAMPLE.TEST", false},
	} {
		p := newBench(t, krb5.Config{Realm: c.own}).p
		host := importName(t, p, "http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
		canonical, err := host.Canonicalize(nil)
		require.NoError(t, err)
		copied, err := canonical.Duplicate()
		require.NoError(t, err)
		peer := importName(t, p, "http/www.example.test@"+c.peer, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
		for _, n := range []gssapi.GssName{host, canonical, copied} {
			for _, pair := range [][2]gssapi.GssName{{n, peer}, {peer, n}} {
				same, err := pair[0].Compare(pair[1])
				require.NoError(t, err)
				require.Equal(t, c.equal, same, c)
			}
			same, err := n.Compare(host)
			require.NoError(t, err)
			require.True(t, same)
		}
	}
	// Each provider's names are of its own realm.
	one := importName(t, newBench(t, krb5.Config{Realm: "ONE.TEST"}).p, "http@h", gssapi.GSS_NT_HOSTBASED_SERVICE)
	two := importName(t, newBench(t, krb5.Config{Realm: "TWO.TEST"}).p, "http@h", gssapi.GSS_NT_HOSTBASED_SERVICE)
	same, err := one.Compare(two)
	require.NoError(t, err)
	require.False(t, same)
}

// TestExportedName: the form of RFC 2743 section 3.2 comes back as the same
// name, and nothing else is taken for it.
func TestExportedName(t *testing.T) {
	p := newBench(t, krb5.Config{}).p
	n, err := importName(t, p, `http/a\@b@EXAMPLE.TEST`, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME).Canonicalize(nil)
	require.NoError(t, err)
	b, err := n.Export()
	require.NoError(t, err)
	require.Equal(t, "\x04\x01\x00\x0b\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x00\x00\x00\x16http/a\\@b@EXAMPLE.TEST", string(b))
	again := importName(t, p, string(b), gssapi.GSS_NT_EXPORT_NAME)
	same, err := again.Compare(n)
	require.NoError(t, err)
	require.True(t, same)
	copied, err := again.Duplicate()
	require.NoError(t, err)
	exported, err := copied.Export()
	require.NoError(t, err)
	require.Equal(t, b, exported)
	for i := range b {
		_, err := p.ImportName(string(b[:i]), gssapi.GSS_NT_EXPORT_NAME)
		require.ErrorIs(t, err, gssapi.ErrBadName)
	}
	_, err = p.ImportName(string(b)+"x", gssapi.GSS_NT_EXPORT_NAME)
	require.ErrorIs(t, err, gssapi.ErrBadName)
	_, err = n.Compare(foreignName{})
	require.ErrorIs(t, err, gssapi.ErrBadName)
	require.ErrorIs(t, err, krb5.ErrForeign)
	_, err = p.InitSecContext(foreignName{})
	require.ErrorIs(t, err, krb5.ErrForeign)
}

// exportedName frames text as RFC 2743 section 3.2 does.
func exportedName(text string) string {
	b := []byte("\x04\x01\x00\x0b\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02")
	return string(append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...))
}

// TestExportedNameIsItsBytes: what MIT's gss_export_name writes of a name comes
// back as the same bytes, whatever they are, and Display shows it without a byte
// that a terminal would obey. Where there are more ways to write a name, it comes
// back as MIT's.
func TestExportedNameIsItsBytes(t *testing.T) {
	p := newBench(t, krb5.Config{}).p
	for _, c := range []struct{ text, mit string }{
		{text: "alice@EXAMPLE.TEST"},
		{text: "http/www.example.test@EXAMPLE.TEST"},
		{text: "müller@R"},
		{text: "山田\u3000太郎@R"},          // ideographic space
		{text: "jean\u00a0paul@R"},      // no-break space
		{text: "co\u00adop@R"},          // soft hyphen
		{text: "می\u200cخو@R"},          // zero-width non-joiner
		{text: "\U0001f469\u200d💻@R"},   // zero-width joiner
		{text: "a\u202eb@R"},            // right-to-left override
		{text: "m\xfcller@R"},           // Latin-1
		{text: "a\x7fb\x1b[2J\r\x01@R"}, // control characters
		{text: "\xff\xfe@\xc3"},         // neither is UTF-8
		{text: `a\/b\@c\\d\n\t\b/e@R`},  // all that is escaped
		{text: `a@R\/S\@T\\\n`},         // in a realm too
		{text: "john doe@R S"},
		{text: "@R"}, {text: "/@R"}, {text: "a//b@R"}, // empty components
		{text: "a\nb\tc\bd@R", mit: `a\nb\tc\bd@R`},
		{text: `john\ doe@R`, mit: "john doe@R"}, // Heimdal's
		{text: `a\x41b@R`, mit: "ax41b@R"},       // RFC 1964 knows no numbers
	} {
		if c.mit == "" {
			c.mit = c.text
		}
		n := importName(t, p, exportedName(c.text), gssapi.GSS_NT_EXPORT_NAME)
		b, err := n.Export()
		require.NoError(t, err)
		require.Equal(t, exportedName(c.mit), string(b))
		again := importName(t, p, string(b), gssapi.GSS_NT_EXPORT_NAME)
		same, err := again.Compare(n)
		require.NoError(t, err)
		require.True(t, same, c.text)

		shown, nt, err := n.Display()
		require.NoError(t, err)
		require.False(t, strings.ContainsFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) }), shown)
		if !strings.HasPrefix(shown, "@") { // Display's form has no empty name
			same, err = importName(t, p, shown, nt).Compare(n)
			require.NoError(t, err)
			require.True(t, same, shown)
		}
	}
	for _, text := range []string{"", "a", "a@", "a@R@S", "a@R/S", `a\@R`, "a\x00b@R", `a\0b@R`, `a@R\0`, `a@R\`} {
		_, err := p.ImportName(exportedName(text), gssapi.GSS_NT_EXPORT_NAME)
		require.ErrorIs(t, err, gssapi.ErrBadName, "%q", text)
	}
}

// TestExportedNameOfPeer: a client's name from the network is exported as its
// bytes, and two clients whose names differ have exported names that do.
func TestExportedNameOfPeer(t *testing.T) {
	b := newBench(t, krb5.Config{})
	seen := make(map[string]bool)
	for _, client := range []string{"m\xfcller", `m\xfcller`, "müller", "jean\u00a0paul", "jean paul", "a\x1bb", "ax1bb"} {
		f := b.forge(t, 18)
		f.part.Client = kmsg.Principal{Type: kmsg.NTPrincipal, Realm: "EXAMPLE.TEST", Parts: []string{client}}
		f.auth.Client = f.part.Client
		acc, _, err := b.show(t, f.bytes(t))
		require.NoError(t, err)
		info, err := move(t, acc).Inquire()
		require.NoError(t, err)
		got, err := info.InitiatorName.Export()
		require.NoError(t, err)
		require.Equal(t, exportedName(strings.ReplaceAll(client, `\`, `\\`)+"@EXAMPLE.TEST"), string(got))
		require.False(t, seen[string(got)])
		seen[string(got)] = true
	}
}

// TestTrailingDot: an absolute host name is the same host, for a target, for an
// acceptor's name, and for comparing.
func TestTrailingDot(t *testing.T) {
	b := newBench(t, krb5.Config{Realm: "EXAMPLE.TEST"})
	keys, err := b.realm.Keytab()
	require.NoError(t, err)
	want := importName(t, b.p, "http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
	for _, host := range []string{"www.example.test", "WWW.Example.TEST", "www.example.test.", "WWW.EXAMPLE.TEST."} {
		n := importName(t, b.p, "http@"+host, gssapi.GSS_NT_HOSTBASED_SERVICE)
		same, err := n.Compare(want)
		require.NoError(t, err)
		require.True(t, same, host)
		cred, err := b.p.KeytabCredential(n, keys)
		require.NoError(t, err)
		init, err := b.p.InitSecContext(n, gssapi.WithInitiatorCredential(b.initiator), gssapi.WithInitiatorFlags(allFlags))
		require.NoError(t, err)
		acc, err := b.p.AcceptSecContext(gssapi.WithAcceptorCredential(cred))
		require.NoError(t, err)
		handshake(t, init, acc)
	}
	for _, host := range []string{"www.example.tes", "www.example.test.x", "ww.example.test."} { // controls
		_, err := b.p.KeytabCredential(importName(t, b.p, "http@"+host, gssapi.GSS_NT_HOSTBASED_SERVICE), keys)
		require.ErrorIs(t, err, gssapi.ErrNoCred, host)
	}
}

type foreignName struct{ gssapi.GssName }

// TestProvider: registered under its name, and what it says of itself.
func TestProvider(t *testing.T) {
	g, err := gssapi.NewProvider(krb5.ProviderName)
	require.NoError(t, err)
	require.Equal(t, krb5.ProviderName, g.Name())
	mechs, err := g.IndicateMechs()
	require.NoError(t, err)
	require.Equal(t, []gssapi.GssMech{gssapi.GSS_MECH_KRB5}, mechs)
	for e := gssapi.HasExtChannelBindingSignalling; e <= gssapi.HasExtCredStore; e++ {
		_, store := g.(gssapi.ProviderExtCredStore)
		_, identity := g.(gssapi.ProviderExtKrb5Identity)
		want := map[gssapi.GssapiExtension]bool{
			gssapi.HasExtCredStore: store, gssapi.HasExtKrb5Identity: identity,
			gssapi.HasExtRFC5588: true, gssapi.HasExtGGF: true, gssapi.HasExtRFC4121: true, gssapi.HasExtChannelBindingSignalling: true,
		}[e]
		require.Equal(t, want, g.HasExtension(e), "extension %d", e)
	}
	require.NoError(t, g.Release())
	_, err = g.AcceptSecContext()
	require.ErrorIs(t, err, krb5.ErrReleased)
	_, err = g.ImportSecContext(nil)
	require.ErrorIs(t, err, krb5.ErrReleased)
}

// TestReleaseLeavesContexts: releasing the provider ends no context, and lets
// none be accepted that was not yet.
func TestReleaseLeavesContexts(t *testing.T) {
	b := newBench(t, krb5.Config{})
	init, acc := b.establish(t, allFlags)
	_, late := b.start(t, allFlags)
	require.NoError(t, b.p.Release())
	converse(t, init, acc)
	_, _, err := late.Continue(b.forge(t, 18).bytes(t))
	require.ErrorIs(t, err, krb5.ErrReleased)
}

// TestErrors: status and reason are found, and the C numbering is right.
func TestErrors(t *testing.T) {
	b := newBench(t, krb5.Config{})
	_, _, err := b.show(t, nil)
	var e *krb5.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, gssapi.FatalErrorCode(9), e.FatalErrorCode, "GSS_S_DEFECTIVE_TOKEN")
	require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
	require.NotErrorIs(t, err, gssapi.ErrFailure)
	require.Equal(t, "krb5: invalid token was supplied: kmsg: malformed message: token frame", err.Error())
	require.Equal(t, "Kerberos error 4711", krb5.Code(4711).Error())
}
