package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
				_, err = granter.Grant(context.Background(), krb5.Request{Service: "e18/localhost", CCache: realm.CCache()})
			}
			cache := filepath.Join(dir, "ccache")
			copyFile(t, realm.CCache(), cache)
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
