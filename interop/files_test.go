package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/kdc"
)

// tool runs a program of MIT's in the realm.
func tool(t *testing.T, env []string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(append(os.Environ(), realm.Env()...), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestConfigurations: of each krb5.conf MIT's kvno and sealctx's own Granter get
// a ticket, or neither does.
func TestConfigurations(t *testing.T) {
	address := fmt.Sprintf("127.0.0.1:%d", realm.Port())
	const name = "SEALCTX.TEST"
	// With a ticket for the service in the cache no KDC is asked.
	fresh, err := realm.LoginFor(user, 7*time.Hour)
	require.NoError(t, err)
	libdefaults := "[libdefaults]\n default_realm = " + name + "\n dns_lookup_kdc = off\n dns_canonicalize_hostname = off\n"
	realms := func(lines string) string {
		return libdefaults + "[realms]\n " + name + " = {\n" + lines + " }\n"
	}
	good := "  kdc = " + address + "\n"
	for what, c := range map[string]struct {
		text  string
		works bool
	}{
		"plain":             {realms(good), true},
		"no kdc":            {realms(""), false},
		"block":             {realms("  x = {\n   kdc = nowhere\n  }\n" + good), true},
		"quotes":            {realms("  kdc = \"" + address + "\"\n"), true},
		"comment":           {realms("  # kdc = nowhere\n" + good), true},
		"brace below":       {libdefaults + "[realms]\n " + name + " =\n {\n" + good + " } end\n", true},
		"never ended":       {libdefaults + "[realms]\n " + name + " = {\n" + good, true},
		"CRLF":              {strings.ReplaceAll(realms(good), "\n", "\r\n"), true},
		"sections again":    {libdefaults + "[realms]\n X = {\n }\n[logging]\n" + realms(good), true},
		"realm again":       {realms("  y = z\n") + realms(good), true},
		"in one line":       {libdefaults + "[realms]\n " + name + " = { kdc = " + address + " }\n", false},
		"second kdc works":  {realms("  kdc = 127.0.0.1:1\n" + good), true},
		"include":           {"include DIR/realm\n" + libdefaults, true},
		"includedir":        {libdefaults + "includedir DIR/d\n", true},
		"include missing":   {"include DIR/none\n" + realms(good), false},
		"not ended section": {"[libdefaults\n" + realms(good), false},
		"brace too many":    {realms(good) + "}\n", false},
		"no equals sign":    {realms(good + "  nonsense\n"), false},
		"two words":         {realms(good + "  non sense = 1\n"), false},
		"strange values":    {strings.Replace(realms(good), "\n", "\n rdns = off\n udp_preference_limit = 65536\n preferred_preauth_types = 17, 16\n", 1), true},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			files := map[string]string{
				"krb5.conf": c.text, "realm": "[realms]\n " + name + " = {\n" + good + " }\n",
				"d/10-realm": "[realms]\n " + name + " = {\n" + good + " }\n", "d/backup~": "}\n", "d/.hidden.conf": "}\n",
			}
			require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
			for file, text := range files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644))
			}
			conf := filepath.Join(dir, "krb5.conf")
			granter, err := kdc.New(conf)
			if err == nil {
				_, err = granter.Grant(context.Background(), krb5.Request{Service: "e18/localhost", CCache: fresh})
			}
			cache := filepath.Join(dir, "ccache")
			copyFile(t, fresh, cache)
			out, mitErr := tool(t, []string{"KRB5_CONFIG=" + conf}, "kvno", "-c", cache, "e18/localhost@"+name)
			if c.works {
				require.NoError(t, err)
				require.NoError(t, mitErr, "MIT: %s", out)
			} else {
				require.Error(t, err)
				require.Error(t, mitErr, "MIT: %s", out)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, b, 0o600))
}

// buildCCMod compiles the program that changes caches.
func buildCCMod(t *testing.T) string {
	mit.need(t)
	return build(t, "ccmod", func(out string) *exec.Cmd {
		return exec.Command("sh", "-c",
			"exec cc -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -o "+out+" ccmod/ccmod.c $(pkg-config --cflags --libs mit-krb5)")
	})
}

// TestChangedCaches: a cache that MIT's programs have changed, and enlarged, is
// of use to sealctx's own mechanism, as it is to MIT's.
func TestChangedCaches(t *testing.T) {
	ccmod := buildCCMod(t)
	granter, err := kdc.New(filepath.Join(realm.Dir(), "krb5.conf"))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		changes [][]string
		size    int64 // at least
		ahead   time.Duration
	}{
		"unchanged":  {nil, 0, 0},
		"removed":    {[][]string{{"remove"}}, 0, 0},
		"removed 3x": {[][]string{{"remove"}, {"remove"}, {"remove"}}, 0, 0},
		"notes":      {[][]string{{"notes", "9000"}, {"remove"}}, 1 << 20, 0},
		"ahead":      {[][]string{{"offset", "200"}}, 0, 200 * time.Second},
		"behind":     {[][]string{{"offset", "-200"}, {"remove"}}, 0, -200 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			cache := filepath.Join(t.TempDir(), "ccache")
			copyFile(t, realm.CCache(), cache)
			env := []string{"KRB5CCNAME=FILE:" + cache}
			for _, change := range c.changes {
				out, err := tool(t, env, ccmod, change...)
				require.NoError(t, err, out)
			}
			st, err := os.Stat(cache)
			require.NoError(t, err)
			require.Greater(t, st.Size(), c.size)

			p, err := krb5.New(&krb5.Config{CCache: cache, Granter: granter})
			require.NoError(t, err)
			defer p.Release()
			end := func(ccache string) time.Time {
				cred, err := p.AcquireCredentialFrom(nil, nil, gssapi.CredUsageInitiateOnly, nil, gssapi.WithCredStoreCCache(ccache))
				require.NoError(t, err)
				defer cred.Release()
				info, err := cred.Inquire()
				require.NoError(t, err)
				return info.InitiatorExpiry.ExpiresAt
			}
			require.WithinDuration(t, end(realm.CCache()).Add(-c.ahead), end(cache), time.Second)
			_, err = granter.Grant(context.Background(), krb5.Request{Service: "e18/localhost", CCache: cache})
			require.NoError(t, err)
			out, err := tool(t, env, "kvno", "e18/localhost")
			require.NoError(t, err, "MIT: %s", out)
			sc, err := initiate(p, "e18@localhost")
			require.NoError(t, err)
			_, _, err = sc.Continue(nil)
			require.NoError(t, err)
		})
	}
}

func initiate(p *krb5.Provider, service string) (gssapi.SecContext, error) {
	target, err := p.ImportName(service, gssapi.GSS_NT_HOSTBASED_SERVICE)
	if err != nil {
		return nil, err
	}
	return p.InitSecContext(target)
}

// TestChangedKeytabs: of a keytab that MIT's programs have changed, or something
// has damaged, sealctx's own mechanism finds the keys that MIT's finds.
func TestChangedKeytabs(t *testing.T) {
	whole, err := os.ReadFile(realm.Keytab())
	require.NoError(t, err)
	services := []string{"e17/localhost", "e18/localhost", "e19/localhost", "e20/localhost"}
	for name, change := range map[string]func(path string){
		"unchanged": func(string) {},
		"removed": func(path string) {
			out, err := tool(t, nil, "/usr/sbin/kadmin.local", "-q", "ktremove -k "+path+" e18/localhost all")
			require.NoError(t, err, out)
		},
		"removed and added": func(path string) {
			for _, request := range []string{"ktremove -k " + path + " e17/localhost all", "ktadd -k " + path + " -norandkey e18/localhost"} {
				out, err := tool(t, nil, "/usr/sbin/kadmin.local", "-q", request)
				require.NoError(t, err, out)
			}
		},
		"newline":       func(path string) { appendTo(t, path, "\n") },
		"CRLF":          func(path string) { appendTo(t, path, "\r\n") },
		"zeros":         func(path string) { appendTo(t, path, "\x00\x00\x00\x00\x00") },
		"record cut":    func(path string) { appendTo(t, path, string(whole[2:40])) },
		"size too long": func(path string) { appendTo(t, path, "\x7f\x00\x00\x00abc") },
		"cut":           func(path string) { require.NoError(t, os.Truncate(path, int64(len(whole)-20))) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keytab")
			copyFile(t, realm.Keytab(), path)
			change(path)
			list, err := tool(t, nil, "klist", "-k", path)
			require.NoError(t, err, list)
			p, err := krb5.New(&krb5.Config{Keytab: path})
			require.NoError(t, err)
			defer p.Release()
			for _, s := range services {
				n, err := p.ImportName(s+"@SEALCTX.TEST", gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
				require.NoError(t, err)
				cred, err := p.AcquireCredential(n, nil, gssapi.CredUsageAcceptOnly, nil)
				require.Equal(t, strings.Contains(list, s), err == nil, "%s: %v\n%s", s, err, list)
				if err == nil {
					require.NoError(t, cred.Release())
				}
			}
			require.Equal(t, name != "removed", strings.Contains(list, services[1]), "the control")
		})
	}
}

func appendTo(t *testing.T, path, tail string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString(tail)
	require.NoError(t, err)
}
