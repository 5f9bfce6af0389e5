package kdc

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-krb5/krb5/config"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
	"github.com/sealctx/sealctx/secctx/krb5/internal/profile"
)

// parse reads a krb5.conf that includes nothing.
func parse(text string) (*settings, error) {
	p, err := profile.Parse("krb5.conf", text, nil)
	if err != nil {
		return nil, err
	}
	return newSettings(p)
}

// defaults reads [libdefaults] for a client of EXAMPLE.TEST.
func defaults(t *testing.T, lines string) (*config.LibDefaults, error) {
	t.Helper()
	s, err := parse("[libdefaults]\n" + lines + "\n")
	if err != nil {
		return nil, err
	}
	c, err := s.forRealm("EXAMPLE.TEST")
	require.NoError(t, err)
	return &c.LibDefaults, nil
}

// kdcs returns the KDCs of EXAMPLE.TEST.
func kdcs(t *testing.T, s *settings) []string {
	t.Helper()
	c, err := s.forRealm("EXAMPLE.TEST")
	require.NoError(t, err)
	for _, r := range c.Realms {
		if r.Realm == "EXAMPLE.TEST" {
			return r.KDC
		}
	}
	return nil
}

// TestRealmSurvives: whatever stands in a krb5.conf that MIT's library takes, the
// realm and its KDC are found. The first one is the control.
func TestRealmSurvives(t *testing.T) {
	realm := func(more string) string {
		return "[realms]\n EXAMPLE.TEST = {\n  kdc = kdc.example.test\n" + more + " }\n"
	}
	with := func(lines string) string { return "[libdefaults]\n" + lines + "\n" + realm("") }
	for name, text := range map[string]string{
		"plain":                     realm(""),
		"local names":               realm("  auth_to_local_names = {\n   carol = webadmin\n  }\n"),
		"any block":                 realm("  x = {\n   y = z\n  }\n"),
		"block before":              "[realms]\n EXAMPLE.TEST = {\n  x = {\n   kdc = other\n  }\n  kdc = kdc.example.test\n }\n",
		"blocks within blocks":      realm("  v4_name_convert = {\n   host = {\n    rcmd = host\n   }\n  }\n"),
		"rules":                     realm("  auth_to_local = RULE:[1:$1@$0](.*@X)s/@.*//\n  auth_to_local = DEFAULT\n"),
		"empty block":               realm("  x = {\n  }\n"),
		"another realm before":      "[realms]\n OTHER.TEST = {\n  x = {\n   y = z\n  }\n }\n" + realm(""),
		"another realm's bad kdc":   "[realms]\n OTHER.TEST = {\n  kdc = https://proxy/KdcProxy\n }\n" + realm(""),
		"another realm in one line": "[realms]\n OTHER.TEST = { kdc = x }\n" + realm(""),
		"section twice":             "[realms]\n OTHER.TEST = {\n  kdc = x\n }\n[appdefaults]\n pam = {\n  x = y\n }\n" + realm(""),
		"realm twice":               realm("") + realm("  admin_server = x\n"),
		"brace below":               "[realms]\n EXAMPLE.TEST =\n {\n  kdc = kdc.example.test\n }\n",
		"comment behind the brace":  realm("") + "# }\n",
		"never ended":               "[realms]\n EXAMPLE.TEST = {\n  kdc = kdc.example.test\n",
		"comment behind the kdc":    "[realms]\n EXAMPLE.TEST = {\n  kdc = kdc.example.test # the first\n }\n",
		"quotes":                    "[realms]\n EXAMPLE.TEST = {\n  kdc = \"kdc.example.test\"\n }\n",
		"CRLF":                      strings.ReplaceAll(realm(""), "\n", "\r\n"),
		"byte order mark":           "\ufeff" + realm(""),
		"text before":               "This file is managed.\n" + realm(""),
		"other sections":            "[logging]\n default = FILE:/x\n[plugins]\n localauth = {\n  module = x:y\n }\n[capaths]\n A = {\n  B = .\n }\n[domain_realm]\n .x = A\n[dbmodules]\n" + realm(""),
		"canonicalize fallback":     with(" dns_canonicalize_hostname = fallback"),
		"rdns off":                  with(" rdns = off"),
		"block in libdefaults":      with(" EXAMPLE.TEST = {\n  ticket_lifetime = 1h\n }"),
		"preauth types":             with(" preferred_preauth_types = 17, 16"),
		"days and clock":            with(" ticket_lifetime = 1-02:03:04"),
		"large UDP limit":           with(" udp_preference_limit = 65536"),
		"cache name":                with(" default_ccache_name = KEYRING:persistent:%{uid}"),
		"weak types":                with(" default_tkt_enctypes = rc4-hmac, des3 aes"),
		"unknown types":             with(" permitted_enctypes = aes256-sha1 frobnicate"),
		"unknown setting":           with(" frobnicate = {\n  x = y\n }\n z = \"q\""),
		"spake":                     with(" spake_preauth_groups = edwards25519\n pkinit_anchors = FILE:/etc/pki/x.pem"),
		"includedir of nothing":     "includedir /nowhere\n" + realm(""),
		"equals signs":              with(" x = y=z"),
		"a star":                    "[realms]\n EXAMPLE.TEST* = {\n  kdc* = kdc.example.test\n  kdc = lost\n }\n",
		"kdc in a final section":    "[realms]*\n EXAMPLE.TEST = {\n  kdc = kdc.example.test\n }*\n[realms]\n EXAMPLE.TEST = {\n  kdc = lost\n }\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "krb5.conf")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			c, err := New(path)
			require.NoError(t, err)
			want := []string{"kdc.example.test:88"}
			if name == "realm twice" {
				want = append(want, want[0])
			}
			require.Equal(t, want, kdcs(t, c.settings))
		})
	}
}

func TestKDCAddress(t *testing.T) {
	for text, want := range map[string]string{
		"kdc.example.test": "kdc.example.test:88", "kdc:750": "kdc:750", "10.0.0.1": "10.0.0.1:88", "10.0.0.1:1": "10.0.0.1:1",
		"[2001:db8::1]": "[2001:db8::1]:88", "[2001:db8::1]:750": "[2001:db8::1]:750", "[kdc]:9": "kdc:9", "kdc.": "kdc.:88",
		"kdc\t# first": "kdc:88", "kdc:65535 ; x": "kdc:65535",
		"": "", ":88": "", "88": "", "kdc:": "", "kdc:0": "", "kdc:65536": "", "kdc:x": "", "kdc:-1": "", "kdc:+1": "",
		"[::1": "", "[]": "", "[::1]x": "", "[::1]88": "", "[::1]:": "", "]": "", "a[b": "", "[[::1]]": "", "::1": "", "2001:db8::1:88": "",
		"https://proxy/x": "", "/run/kdc.sock": "", "tcp/kdc": "", "http/kdc:80": "",
	} {
		got, err := kdcAddress(text)
		require.Equal(t, want, got, text)
		require.Equal(t, want == "", err != nil, text)
	}
}

// TestUnusableKDC: a kdc that cannot be used is named when its realm has no
// other, and with it its line.
func TestUnusableKDC(t *testing.T) {
	const bad = "[realms]\n EXAMPLE.TEST = {\n  kdc = https://proxy/KdcProxy\n  kdc = kdc:x\n"
	for text, words := range map[string][]string{
		bad + " }\n":                                                 {"krb5.conf:3", "HTTPS", "krb5.conf:4", "port"},
		bad + "  kdc = good\n }\n":                                   nil,
		"[realms]\n EXAMPLE.TEST = { kdc = x }\n":                    {"krb5.conf:2", "'{' must end"},
		"[realms]\n EXAMPLE.TEST = {\n }\n":                          nil, // the name service knows
		"[libdefaults]\n dns_lookup_kdc = off\n":                     {"EXAMPLE.TEST", "[realms]", "dns_lookup_kdc"},
		"[libdefaults]\n EXAMPLE.TEST = {\n dns_lookup_kdc = 0\n}\n": {"dns_lookup_kdc"},
	} {
		s, err := parse(text)
		require.NoError(t, err)
		c, err := s.forRealm("EXAMPLE.TEST")
		require.NoError(t, err)
		err = s.usable("EXAMPLE.TEST", c)
		if words == nil {
			require.NoError(t, err, text)
			continue
		}
		require.ErrorIs(t, err, ErrConfig, text)
		for _, w := range words {
			require.ErrorContains(t, err, w)
		}
	}
}

func TestBooleans(t *testing.T) {
	for _, c := range []struct {
		texts []string
		want  bool
	}{
		{[]string{"y", "yes", "true", "t", "1", "on", "YES", "True", "\"on\""}, true},
		{[]string{"n", "no", "false", "nil", "0", "off", "Off"}, false},
	} {
		for _, text := range c.texts {
			d, err := defaults(t, "dns_lookup_kdc = "+text+"\nforwardable = "+text+"\nnoaddresses = "+text)
			require.NoError(t, err)
			require.Equal(t, []bool{c.want, c.want, c.want}, []bool{d.DNSLookupKDC, d.Forwardable, d.NoAddresses}, text)
		}
	}
	for _, name := range []string{"dns_lookup_kdc", "forwardable", "proxiable", "canonicalize", "noaddresses"} {
		_, err := defaults(t, "# c\n"+name+" = fallback")
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, "krb5.conf:3: "+name+" = fallback")
	}
	d, err := defaults(t, "")
	require.NoError(t, err)
	require.True(t, d.DNSLookupKDC, "as in MIT's library")
}

func TestDurations(t *testing.T) {
	const h, m, s = time.Hour, time.Minute, time.Second
	for text, want := range map[string]time.Duration{
		"36000": 10 * h, "0": 0, "10h": 10 * h, "1d": 24 * h, "90m": 90 * m, "30s": 30 * s,
		"1d12h": 36 * h, "1d 12h": 36 * h, "1d1h1m1s": 25*h + m + s, "1d 1s": 24*h + s, "1h 30m 5s": h + 30*m + 5*s,
		"10:00": 10 * h, "10:30": 10*h + 30*m, "1:02:03": h + 2*m + 3*s, "1-02:03:04": 26*h + 3*m + 4*s, "100:00": 100 * h,
		"2147483647": 2147483647 * s,
	} {
		got, err := parseDuration(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		d, err := defaults(t, "ticket_lifetime = "+text+"\nclockskew = "+text+"\nrenew_lifetime = "+text)
		require.NoError(t, err)
		require.Equal(t, []time.Duration{want, want, want}, []time.Duration{d.TicketLifetime, d.Clockskew, d.RenewLifetime})
	}
	for _, text := range []string{"x", "10x", "h", "1h1d", "1h 30", "30 30", "1:60", "1:2:60", ":", "1:", "1:2:3:4", "1-2", "1-2:3", "-1", "-10h",
		"2147483648", "99999999999999999999", "99999d", "1.5h", "10 h x", "١h"} {
		_, err := parseDuration(text)
		require.Error(t, err, text)
		_, err = defaults(t, "clockskew = "+text)
		require.ErrorIs(t, err, ErrConfig, text)
	}
}

func TestUDPLimit(t *testing.T) {
	for text, want := range map[string]int{"1": 1, "0": 0, "1465": 1465, "32700": 32700, "65536": 32700, "-1": 1465} {
		d, err := defaults(t, "udp_preference_limit = "+text)
		require.NoError(t, err)
		require.Equal(t, want, d.UDPPreferenceLimit, text)
	}
	_, err := defaults(t, "udp_preference_limit = many")
	require.ErrorIs(t, err, ErrConfig)
}

func TestEnctypes(t *testing.T) {
	for lines, want := range map[string][2][]int32{ // TGS, AS
		"": {{18, 17, 20, 19}, {18, 17, 20, 19}},
		"permitted_enctypes = aes256-cts-hmac-sha1-96, aes128-cts":                                     {{18, 17}, {18, 17}},
		"permitted_enctypes = aes256-sha2 AES128-SHA2":                                                 {{20, 19}, {20, 19}},
		"default_tgs_enctypes = aes256-cts-hmac-sha384-192 aes256-sha1":                                {{20, 18}, {18, 17, 20, 19}},
		"default_tkt_enctypes = rc4-hmac aes128-cts-hmac-sha256-128":                                   {{18, 17, 20, 19}, {19}},
		"permitted_enctypes = aes -aes128-sha1":                                                        {{18, 20, 19}, {18, 20, 19}},
		"permitted_enctypes = DEFAULT -aes256-sha1 +rc4":                                               {{17, 20, 19}, {17, 20, 19}},
		"permitted_enctypes = aes256-cts aes256-cts":                                                   {{18}, {18}},
		"permitted_enctypes = aes256-sha1 aes128-sha1\ndefault_tgs_enctypes = aes128-sha1 aes256-sha2": {{17}, {18, 17}},
	} {
		d, err := defaults(t, lines)
		require.NoError(t, err, lines)
		require.Equal(t, want, [2][]int32{d.DefaultTGSEnctypeIDs, d.DefaultTktEnctypeIDs}, lines)
	}
	for _, lines := range []string{"permitted_enctypes = rc4", "default_tgs_enctypes = -aes", "default_tkt_enctypes = \"\"",
		"permitted_enctypes = aes256-sha1\ndefault_tgs_enctypes = aes128-sha1"} {
		_, err := defaults(t, lines)
		require.ErrorIs(t, err, ErrConfig, lines)
	}
}

// TestRealmsOwnSettings: a block named after the client's realm goes first, and a
// value in it that cannot be used is an error too.
func TestRealmsOwnSettings(t *testing.T) {
	text := "ticket_lifetime = 1h\nEXAMPLE.TEST = {\n ticket_lifetime = 2h\n}\nOTHER.TEST = {\n ticket_lifetime = 3h\n clockskew = %s\n}\n"
	d, err := defaults(t, fmt.Sprintf(text, "10"))
	require.NoError(t, err)
	require.Equal(t, 2*time.Hour, d.TicketLifetime)
	require.Equal(t, 5*time.Minute, d.Clockskew)
	_, err = defaults(t, fmt.Sprintf(text, "x"))
	require.ErrorIs(t, err, ErrConfig)
}

// TestConfigFiles: the files that KRB5_CONFIG names, and includes, are read.
func TestConfigFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	one := file("one", "[realms]\nEXAMPLE.TEST = {\n kdc = one\n}\n")
	two := file("two", "include "+file("inc", "[realms]\nEXAMPLE.TEST = {\n kdc = inc\n}\n")+"\n[realms]\nEXAMPLE.TEST = {\n kdc = two\n}\n")
	file("home", "[realms]\nEXAMPLE.TEST = {\n kdc = home\n}\n")
	t.Setenv("HOME", dir)
	for env, want := range map[string][]string{
		one: {"one:88"}, one + ":" + two: {"one:88", "inc:88", "two:88"}, two + ":" + one: {"inc:88", "two:88", "one:88"},
		dir + "/none:" + one: {"one:88"}, one + "::": {"one:88"}, "~/home:" + one: {"home:88", "one:88"},
	} {
		t.Setenv("KRB5_CONFIG", env)
		c, err := New("")
		require.NoError(t, err, env)
		require.Equal(t, want, kdcs(t, c.settings), env)
	}
	t.Setenv("KRB5_CONFIG", dir+"/none:"+dir+"/none2")
	_, err := New("")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, []string{"x:y"}, configFiles("x:y"), "a program's path is one path")
	t.Setenv("KRB5_CONFIG", "")
	require.Equal(t, []string{"/etc/krb5.conf"}, configFiles(""))
}

// TestForeignConfig: a krb5.conf that others can write, or own, does not count.
func TestForeignConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "krb5.conf")
	require.NoError(t, os.WriteFile(path, []byte("[realms]\n"), 0o644))
	_, err := New(path)
	require.NoError(t, err, "the control")
	require.NoError(t, os.Chmod(path, 0o664))
	_, err = New(path)
	require.ErrorIs(t, err, ownfile.ErrUntrusted)
	require.ErrorContains(t, err, path)
	require.NoError(t, os.Chmod(path, 0o644))
	if os.Geteuid() != 0 {
		return // TestStranger of package profile says that it is skipped
	}
	const stranger = 64991
	require.NoError(t, os.Chown(path, stranger, stranger))
	_, err = New(path)
	require.ErrorIs(t, err, ownfile.ErrUntrusted)
	_, err = New(path, stranger)
	require.NoError(t, err)
}

// FuzzConfig: any text is read or refused with an error that names its line, and
// what is read of it can be used.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		"", "\ufeff[libdefaults]\r\n default_realm = EXAMPLE.TEST\r\n", "include /x\nincludedir /y\nmodule z\n",
		"[realms]\n EXAMPLE.TEST = {\n  kdc = [::1]:88\n  kdc = kdc:1 # c\n  kdc* = x\n  auth_to_local_names = {\n   a = b\n  }\n }*\n",
		"[libdefaults]*\n ticket_lifetime = 1-02:03:04\n clockskew = 5m\n dns_lookup_kdc = on\n udp_preference_limit = 1\n permitted_enctypes = aes -aes256-sha1, rc4\n EXAMPLE.TEST = {\n renew_lifetime = 7d\n }\n",
		"[a]\nb =\n{\n}\n[b\n", "[a]\nx = \"\\n\\\"", "[realms]\nA = { kdc = b }\n", "[a]\nb = {\n[c]\n", "[a]\n}\n", "[a]\n\x00",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parse(text)
		if err != nil {
			require.Contains(t, err.Error(), "krb5.conf")
			return
		}
		for _, r := range s.realms {
			c, err := s.forRealm(r.Realm)
			require.NoError(t, err, "New reads each realm's settings")
			require.NotEmpty(t, c.LibDefaults.DefaultTGSEnctypeIDs)
			require.True(t, slices.IsSorted([]int{0, c.LibDefaults.UDPPreferenceLimit, maxUDP}))
			for _, d := range []time.Duration{c.LibDefaults.Clockskew, c.LibDefaults.TicketLifetime, c.LibDefaults.RenewLifetime} {
				require.GreaterOrEqual(t, d, time.Duration(0))
			}
			for _, address := range r.KDC {
				host, port, err := net.SplitHostPort(address)
				require.NoError(t, err)
				require.NotEmpty(t, host)
				require.NotEmpty(t, port)
			}
			if err := s.usable(r.Realm, c); err != nil {
				require.ErrorIs(t, err, ErrConfig)
			}
		}
	})
}
