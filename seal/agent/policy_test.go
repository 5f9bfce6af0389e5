package agent

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
)

const passwdText = `root:x:0:0:root:/root:/bin/sh
web:x:100:100::/:/bin/false
mail:x:101:101::/:/bin/false
2000:x:102:102:a user named like a number:/:/bin/false
broken:x:abc:1::/:/bin/false
none:x:4294967295:1::/:/bin/false
short:x
web:x:999:999:the second line of a name:/:/bin/false
`

const groupText = `root:x:0:
web:x:100:
mail:x:101:
spool:x:200:mail,web
empty:x:201:
`

func testNames(t testing.TB) *names {
	t.Helper()
	n := &names{users: map[string]userEntry{}, groups: map[string]groupEntry{}}
	require.NoError(t, n.readPasswd(strings.NewReader(passwdText)))
	require.NoError(t, n.readGroup(strings.NewReader(groupText)))
	return n
}

const policyText = `
# who may hand over to whom
allow user web to user mail          # and its processes
allow group spool to service queue
allow user 101 to group spool
allow everyone to service log
service queue is user mail group 300
service log is everyone

quota user web outstanding 5 requests 2 connections 3 token 1000
quota everyone outstanding 50
quota user root connections 7
`

func testPolicy(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := parsePolicy(strings.NewReader(text), testNames(t))
	require.NoError(t, err)
	return p
}

func TestPolicyDecides(t *testing.T) {
	p := testPolicy(t, policyText)
	const web, mail, other, spool = 100, 101, 500, 200
	none := []uint32(nil)

	require.True(t, p.mayReserve(web, none, who{kind: wordUser, id: web}), "for itself")
	require.True(t, p.mayReserve(web, none, who{kind: wordUser, id: mail}))
	require.False(t, p.mayReserve(mail, none, who{kind: wordUser, id: web}), "not the other way")
	require.False(t, p.mayReserve(other, none, who{kind: wordUser, id: mail}))
	require.False(t, p.mayReserve(0, none, who{kind: wordUser, id: mail}), "root is nobody special")
	require.False(t, p.mayReserve(web, none, who{kind: wordUser, id: spool}), "a group is no user")

	require.True(t, p.mayReserve(mail, none, who{kind: wordGroup, id: spool}))
	require.False(t, p.mayReserve(web, []uint32{spool}, who{kind: wordGroup, id: spool}), "to be in it is not to be allowed")
	require.False(t, p.mayReserve(web, none, who{kind: wordGroup, id: mail}), "a user is no group")

	require.True(t, p.mayReserve(other, []uint32{7, spool}, who{kind: wordService, name: "queue"}))
	require.False(t, p.mayReserve(other, []uint32{7}, who{kind: wordService, name: "queue"}))
	require.True(t, p.mayReserve(other, none, who{kind: wordService, name: "log"}))
	require.False(t, p.mayReserve(other, none, who{kind: wordService, name: "unknown"}))
	require.False(t, p.mayReserve(other, none, who{kind: wordService, name: ""}))

	require.Len(t, p.services, 2)
	require.Equal(t, []string{"log", "queue"}, p.servicesOf(mail, none))
	require.Equal(t, []string{"log", "queue"}, p.servicesOf(other, []uint32{300}))
	require.Equal(t, []string{"log"}, p.servicesOf(other, none))

	require.Equal(t, Quota{5, 2, 3, 1000}, p.quota(web))
	require.Equal(t, Quota{50, 256, 7, token.MaxToken}, p.quota(0))
	require.Equal(t, Quota{50, 256, 1024, token.MaxToken}, p.quota(other))
}

// Without a policy every user is there for itself, and so it is with an empty one.
func TestNoPolicy(t *testing.T) {
	for _, p := range []*Policy{nil, testPolicy(t, ""), testPolicy(t, " # nothing\n\n")} {
		require.True(t, p.mayReserve(5, nil, who{kind: wordUser, id: 5}))
		require.False(t, p.mayReserve(5, nil, who{kind: wordUser, id: 6}))
		require.False(t, p.mayReserve(5, []uint32{6}, who{kind: wordGroup, id: 6}))
		require.False(t, p.mayReserve(5, nil, who{kind: wordService, name: "x"}))
		require.Empty(t, p.servicesOf(5, nil))
		require.Equal(t, DefaultQuota(), p.quota(5))
	}
}

// Each kind of party can be named by a line, but for a process, whose user is. What is
// no kind cannot.
func TestTargets(t *testing.T) {
	p := testPolicy(t, policyText)
	for k := range 256 {
		valid := false
		for n := range token.MaxAudience + 1 {
			var party seal.Party
			value := append([]byte{byte(k)}, bytes.Repeat([]byte("a"), n)...)
			if k == 0 || party.UnmarshalBinary(value) != nil {
				continue
			}
			valid = true
			if named := targets[byte(k)]; named != nil {
				target := named(p, value[1:])
				require.NotEmpty(t, target.kind)
				require.True(t, strings.HasPrefix(party.String(), target.kind+" "), "%v is %v", party, target)
			}
		}
		require.Equal(t, valid && k != token.KindProcess, targets[byte(k)] != nil, "kind %d", k)
	}
}

func TestPolicyFaults(t *testing.T) {
	for text, want := range map[string]string{
		"permit user web to user mail":                   `line 1: unknown word "permit"`,
		"\n\nallow usr web to user mail":                 `line 3: "usr" where user, group or everyone should be`,
		"allow user nobodyhere to user mail":             `no user "nobodyhere" in /etc/passwd`,
		"allow user broken to user mail":                 `no user "broken"`,
		"allow user none to user mail":                   `no user "none"`,
		"allow user 4294967295 to user mail":             `no user "4294967295"`,
		"allow user -1 to user mail":                     `no user "-1"`,
		"allow group staff to user mail":                 `no group "staff" in /etc/group`,
		"allow user web":                                 `"" where "to" should be`,
		"allow user web for user mail":                   `"for" where "to" should be`,
		"allow user web to everyone":                     `not for everyone`,
		"allow user web to service queue":                `line 1: no line says who service "queue" is`,
		"allow user web to service":                      `no line says who service "" is`,
		"allow user web to user mail too":                `"too" is too much`,
		"allow user web to":                              `"" where user, group or everyone should be`,
		"service a/b is everyone":                        `is not the name of a service`,
		"service":                                        `is not the name of a service`,
		"service a are everyone":                         `"are" where "is" should be`,
		"service a is":                                   `"" where user, group or everyone should be`,
		"service a is user web\nservice a is user mail":  `line 2: service a is there already`,
		"import user web user mail":                      `"user" where "from" should be`,
		"import user web from":                           `"" where user, group or everyone should be`,
		"import user web from everyone":                  `what everyone exported is what no line forbids`,
		"import user web from user mail and":             `"and" where user, group or everyone should be`,
		"import service queue from user mail":            `line 1: no line says who service "queue" is`,
		"import user web from user mail service queue":   `line 1: no line says who service "queue" is`,
		"import nobody from user mail":                   `"nobody" where user, group or everyone should be`,
		"quota user web":                                 `"" where outstanding, requests`,
		"quota user web speed 5":                         `"speed" where outstanding, requests`,
		"quota user web token":                           `token "" is not a number`,
		"quota user web token 99999999":                  `token "99999999" is not a number from 0 to`,
		"quota user web requests -1":                     `requests "-1" is not a number`,
		"quota user web requests 1 requests 2":           `requests is said twice`,
		"quota group web requests 1":                     `quotas are by user`,
		"quota user web token 1\nquota user 100 token 2": `line 2: the quota of user 100 is there already`,
		"quota everyone token 1\nquota everyone token 2": `line 2: the quota of everyone is there already`,
		"allow user " + strings.Repeat("x", 5000):        `line 1: it is longer than 4096 bytes`,
	} {
		p, err := parsePolicy(strings.NewReader(text), testNames(t))
		require.ErrorIs(t, err, ErrPolicy, text)
		require.ErrorContains(t, err, want, text)
		require.Nil(t, p)
	}
	_, err := parsePolicy(strings.NewReader("one\ntwo\nallow everyone to user web\nfour"), testNames(t))
	for _, line := range []string{"line 1:", "line 2:", "line 4:"} {
		require.ErrorContains(t, err, line) // all of them at once
	}
	require.NotContains(t, err.Error(), "line 3:")
}

// A name that looks like a number is a name first; the first line of a name
// counts.
func TestNames(t *testing.T) {
	n := testNames(t)
	for s, want := range map[string]uint32{"web": 100, "2000": 102, "2001": 2001} {
		uid, err := n.user(s)
		require.NoError(t, err)
		require.Equal(t, want, uid)
	}
	require.Equal(t, []uint32{100, 200}, n.groupsOf(100))
	require.Empty(t, n.groupsOf(12345))
	_, err := ParsePolicy(strings.NewReader("allow user root to group root"))
	require.NoError(t, err)
}

func TestExplain(t *testing.T) {
	p := testPolicy(t, policyText)
	text, err := p.Explain("mail")
	require.NoError(t, err)
	require.Equal(t, `user 101 (mail)
  is in group 101 (mail)
  is in group 200 (spool)
may reserve tokens for
  itself and its processes
  service queue (line 4)
  group spool (line 5)
  service log (line 6)
may open tokens for
  user 101 (mail)
  group 101 (mail)
  group 200 (spool)
  service log
  service queue
may have at a time
  50 tokens outstanding
  256 requests under way
  1024 connections
  tokens of 49497 bytes
`, text)
	imports := testPolicy(t, policyText+"import group spool from user web service log\nimport user root from user web\n")
	text, err = imports.Explain("mail")
	require.NoError(t, err)
	require.Contains(t, text, "opens only what was exported by\n  user web or service log (line 13)\nmay have")
	text, err = p.Explain("100")
	require.NoError(t, err)
	require.Contains(t, text, "  user mail and its processes (line 3)\n")
	_, err = p.Explain("nobodyhere")
	require.Error(t, err)
	text, err = (*Policy)(nil).Explain("0")
	require.NoError(t, err)
	require.Contains(t, text, "user 0 (root)\n")
}

// A bad policy changes nothing and says so.
func TestReload(t *testing.T) {
	in := serveHere(t, nil)
	c := in.dial(t)
	other := seal.User(uint32(selfUID) + 1)
	req := testRequest
	req.Audience = other
	_, err := c.Reserve(req)
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorIs(t, err, seal.ErrUnauthorized)

	require.NoError(t, reload(in, "allow everyone to user "+strings.TrimPrefix(other.String(), "user ")))
	reserve(t, c, other)
	before := in.policy.Load()
	require.ErrorIs(t, reload(in, "allow everyone to nobody"), ErrPolicy)
	require.Same(t, before, in.policy.Load())
	reserve(t, c, other)
	in.SetPolicy(nil)
	_, err = c.Reserve(req)
	require.ErrorIs(t, err, ErrRefused)
}

// reload puts a policy in force as the command does on SIGHUP.
func reload(in *instance, text string) error {
	p, err := ParsePolicy(strings.NewReader(text))
	if err == nil {
		in.SetPolicy(p)
	}
	return err
}

// Whatever is in a policy, parsing it ends, and says where the fault is.
func FuzzPolicy(f *testing.F) {
	f.Add(policyText)
	f.Add("service a is everyone\nallow user 5 to service a")
	f.Add("import user 5 from group 6\n service a is user 7\nimport service a from service a user 9")
	f.Add("quota everyone token 5\n quota user 7 requests 0")
	n := testNames(f)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePolicy(strings.NewReader(text), n)
		if err != nil {
			require.ErrorIs(t, err, ErrPolicy)
			require.Regexp(t, `line \d+: `, err.Error())
			return
		}
		p.mayReserve(1, []uint32{1}, who{kind: wordUser, id: 2})
		p.servicesOf(1, []uint32{1})
		if p.limitsImports() {
			_ = p.mayImport(1, []uint32{1}, 2, []uint32{2})
		}
		_, err = p.Explain("1")
		require.NoError(t, err)
	})
}
