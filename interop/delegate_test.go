package interop

import (
	"context"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/kdc"
)

// python runs pyinit/peer.py over MIT's library and answers what it printed.
func python(t *testing.T, env []string, args ...string) (string, error) {
	t.Helper()
	if exec.Command("/usr/bin/python3", "-c", "import gssapi").Run() != nil {
		t.Skip("no python3-gssapi (Debian: python3-gssapi)")
	}
	out, err := tool(t, env, "/usr/bin/python3", append([]string{absolute("pyinit/peer.py")}, args...)...)
	return strings.TrimSpace(out), err
}

// ownMechanism is sealctx's mechanism in this process, in the realm.
func ownMechanism(t *testing.T, config krb5.Config) *krb5.Provider {
	t.Helper()
	granter, err := kdc.New(filepath.Join(realm.Dir(), "krb5.conf"))
	require.NoError(t, err)
	config.Keytab, config.CCache, config.Granter = realm.Keytab(), realm.CCache(), granter
	config.ReplayCache = filepath.Join(t.TempDir(), "replay")
	p, err := krb5.New(&config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Release() })
	return p
}

// initiateToken initiates over sealctx's mechanism.
func initiateToken(t *testing.T, p *krb5.Provider, service string, cred gssapi.Credential, flags gssapi.ContextFlag) ([]byte, gssapi.ContextFlag) {
	t.Helper()
	target, err := p.ImportName(service, gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	init, err := p.InitSecContext(target, gssapi.WithInitiatorCredential(cred), gssapi.WithInitiatorFlags(flags))
	require.NoError(t, err)
	tok, info, err := init.Continue(nil)
	require.NoError(t, err)
	return tok, info.Flags
}

// acceptToken accepts over sealctx's mechanism.
func acceptToken(t *testing.T, p *krb5.Provider, tok []byte) gssapi.SecContextInfoPartial {
	t.Helper()
	acc, err := p.AcceptSecContext()
	require.NoError(t, err)
	_, info, err := acc.Continue(tok)
	require.NoError(t, err)
	return info
}

func displayed(t *testing.T, n gssapi.GssName) string {
	t.Helper()
	text, _, err := n.Display()
	require.NoError(t, err)
	return text
}

const principal = user + "@SEALCTX.TEST"

// TestDelegationFromMIT: MIT's client delegates its ticket to sealctx's acceptor,
// which asks the KDC with it in the client's name, and stores it in a cache that
// MIT's tools use.
func TestDelegationFromMIT(t *testing.T) {
	p := ownMechanism(t, krb5.Config{AcceptDelegation: true})
	out, err := python(t, nil, "initiate", "e18@localhost", "delegate")
	require.NoError(t, err, out)
	tok, err := hex.DecodeString(out)
	require.NoError(t, err)
	info := acceptToken(t, p, tok)
	require.Equal(t, principal, displayed(t, info.InitiatorName))
	require.NotZero(t, info.Flags&gssapi.ContextFlagDeleg)
	cred := info.DelegatedCredential
	require.NotNil(t, cred)
	defer cred.Release()

	for _, service := range []string{"e18@localhost", "e20@localhost"} { // granted with the delegated ticket
		tok, flags := initiateToken(t, p, service, cred, gssapi.ContextFlagDeleg)
		require.NotZero(t, flags&gssapi.ContextFlagDeleg, "and forwarded on")
		onward := acceptToken(t, p, tok)
		require.Equal(t, principal, displayed(t, onward.InitiatorName))
		require.NotNil(t, onward.DelegatedCredential)
		require.NoError(t, onward.DelegatedCredential.Release())
	}

	cache := filepath.Join(t.TempDir(), "stored")
	_, _, err = cred.(gssapi.CredentialExtCredStore).StoreInto(nil, gssapi.CredUsageInitiateOnly, false, false, gssapi.WithCredStoreCCache(cache))
	require.NoError(t, err)
	out, err = tool(t, nil, "kvno", "-c", cache, "e19/localhost")
	require.NoError(t, err, out)
	out, err = tool(t, nil, "klist", "-f", "-c", cache)
	require.NoError(t, err, out)
	require.Contains(t, out, principal)
	require.Regexp(t, `Flags: F?f`, out, "forwarded")

	plain := ownMechanism(t, krb5.Config{})
	out, err = python(t, nil, "initiate", "e18@localhost", "delegate")
	require.NoError(t, err, out)
	tok, err = hex.DecodeString(out)
	require.NoError(t, err)
	info = acceptToken(t, plain, tok)
	require.Nil(t, info.DelegatedCredential, "not wanted")
	require.Zero(t, info.Flags&gssapi.ContextFlagDeleg)
}

// TestDelegationToMIT: sealctx's initiator gets a forwarded ticket from the KDC and
// delegates it to MIT's acceptor, which stores it and uses it.
func TestDelegationToMIT(t *testing.T) {
	p := ownMechanism(t, krb5.Config{})
	cache := filepath.Join(t.TempDir(), "stored")
	for _, service := range []string{"e17@localhost", "e18@localhost", "e19@localhost", "e20@localhost"} {
		tok, flags := initiateToken(t, p, service, nil, gssapi.ContextFlagDeleg)
		require.NotZero(t, flags&gssapi.ContextFlagDeleg)
		out, err := python(t, nil, "accept", hex.EncodeToString(tok), cache)
		require.NoError(t, err, out)
		require.Equal(t, principal+" "+principal, out)
		out, err = tool(t, nil, "kvno", "-c", cache, "e19/localhost")
		require.NoError(t, err, out)
	}
	tok, flags := initiateToken(t, p, "e18@localhost", nil, 0)
	require.Zero(t, flags&gssapi.ContextFlagDeleg)
	out, err := python(t, nil, "accept", hex.EncodeToString(tok), cache)
	require.NoError(t, err, out)
	require.Equal(t, principal+" -", out, "the control")
}

// TestNotForwardable: the KDC forwards no ticket that may not be; the context comes
// about without.
func TestNotForwardable(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	out, err := tool(t, nil, "kinit", "-F", "-k", "-t", realm.Keytab(), "-c", cache, user)
	require.NoError(t, err, out)
	p := ownMechanism(t, krb5.Config{})
	require.NoError(t, p.SetCCacheName(cache))
	tok, flags := initiateToken(t, p, "e18@localhost", nil, gssapi.ContextFlagDeleg)
	require.Zero(t, flags&gssapi.ContextFlagDeleg)
	out, err = python(t, nil, "accept", hex.EncodeToString(tok), cache+".stored")
	require.NoError(t, err, out)
	require.Equal(t, principal+" -", out)
	granter, err := kdc.New(filepath.Join(realm.Dir(), "krb5.conf"))
	require.NoError(t, err)
	_, err = granter.Forward(context.Background(), krb5.Request{CCache: cache})
	require.ErrorIs(t, err, kdc.ErrExchange)
	ticket, err := granter.Forward(context.Background(), krb5.Request{CCache: realm.CCache()})
	require.NoError(t, err)
	require.Equal(t, "krbtgt/SEALCTX.TEST@SEALCTX.TEST", ticket.Service)
}

// TestBindingsFromMIT: an acceptor that checks channel bindings if they are sent,
// and MIT's client with the same, with others, with none, and with none though it
// says that it would.
func TestBindingsFromMIT(t *testing.T) {
	conf, err := os.ReadFile(filepath.Join(realm.Dir(), "krb5.conf"))
	require.NoError(t, err)
	aware := filepath.Join(t.TempDir(), "krb5.conf")
	text := strings.Replace(string(conf), "[libdefaults]\n", "[libdefaults]\n\tclient_aware_channel_bindings = true\n", 1)
	require.NoError(t, os.WriteFile(aware, []byte(text), 0o600))
	for _, c := range []struct {
		name     string
		env      []string
		bind     string
		required bool // an acceptor that requires them takes it
		ifSent   bool
	}{
		{"same", nil, "bind=tls-server-end-point:abc", true, true},
		{"other", nil, "bind=tls-server-end-point:abd", false, false},
		{"none", nil, "", false, true},
		{"none, but aware", []string{"KRB5_CONFIG=" + aware}, "", false, false},
		{"same, and aware", []string{"KRB5_CONFIG=" + aware}, "bind=tls-server-end-point:abc", true, true},
	} {
		for _, ifSent := range []bool{false, true} {
			p := ownMechanism(t, krb5.Config{BindingsIfSent: ifSent})
			out, err := python(t, c.env, "initiate", "e18@localhost", c.bind)
			require.NoError(t, err, out)
			tok, err := hex.DecodeString(out)
			require.NoError(t, err)
			acc, err := p.AcceptSecContext(gssapi.WithAcceptorChannelBinding(&gssapi.ChannelBinding{Data: []byte("tls-server-end-point:abc")}))
			require.NoError(t, err)
			_, info, err := acc.Continue(tok)
			if taken := ifSent && c.ifSent || !ifSent && c.required; !taken {
				require.ErrorIs(t, err, gssapi.ErrBadBindings, "%s, %v", c.name, ifSent)
				continue
			}
			require.NoError(t, err, "%s, %v", c.name, ifSent)
			require.Equal(t, c.bind != "", info.Flags&gssapi.ContextFlagChannelBound != 0)
		}
	}
}

// TestExportedNames: sealctx's mechanism and MIT's library export each name as the
// same bytes, or neither takes it.
func TestExportedNames(t *testing.T) {
	p := ownMechanism(t, krb5.Config{})
	for _, text := range []string{
		"alice@R", "http/www.example.test@R", "müller@R", "m\xfcller@R", "山田\u3000太郎@R", "jean\u00a0paul@R", "co\u00adop@R",
		"\U0001f469\u200d💻@R", "a\x7f\x1b[2J\r\x01b@R", "\xff@\xc3", "john doe@R S",
		`a\/b\@c\\d\n\t\b/e@R`, `a@R\/S\@T\\\n`, "a\nb\tc\bd@R", `john\ doe@R`, `a\x41b@R`, `a\qb@R`, "/@R", "a//b@R", "@R",
		"a@R/S", "a@R@S", `a\`, `a@R\`,
	} {
		exported := "\x04\x01\x00\x0b\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02" + string([]byte{0, 0, 0, byte(len(text))}) + text
		theirs, theirErr := python(t, nil, "name", hex.EncodeToString([]byte(exported)))
		n, err := p.ImportName(exported, gssapi.GSS_NT_EXPORT_NAME)
		if theirErr != nil {
			require.Error(t, err, "%q: %s", text, theirs)
			require.ErrorIs(t, err, gssapi.ErrBadName)
			continue
		}
		require.NoError(t, err, "%q", text)
		own, err := n.Export()
		require.NoError(t, err)
		require.Equal(t, theirs, hex.EncodeToString(own), "%q", text)
	}
}
