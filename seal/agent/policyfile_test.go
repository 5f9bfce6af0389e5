package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tree makes directories, files and links for a policy, each with an owner and a mode.
type part struct {
	name string // below the test's directory; a directory ends in /
	link string // what a symbolic link says
	uid  int
	gid  int
	mode uint32
}

func plant(t *testing.T, parts []part) string {
	t.Helper()
	base := publicDir(t)
	for _, p := range parts {
		path := filepath.Join(base, p.name)
		switch {
		case p.link != "":
			require.NoError(t, os.Symlink(p.link, path))
		case p.name[len(p.name)-1] == '/':
			require.NoError(t, os.Mkdir(path, 0o700))
		default:
			require.NoError(t, os.WriteFile(path, []byte("allow everyone to user 4711\n"), 0o600))
		}
	}
	for _, p := range parts {
		path := filepath.Join(base, p.name)
		require.NoError(t, os.Lchown(path, p.uid, p.gid))
		if p.link == "" {
			require.NoError(t, unix.Chmod(path, p.mode))
		}
	}
	return base
}

// A policy counts if nobody but root and the agent's user can have a say in it: in the
// file, in a directory above, in a symbolic link or in a directory above one. The error
// says who can, of what, and what to do. Root.
func TestPolicyFile(t *testing.T) {
	needRoot(t)
	const agentUID = 4242
	for _, tt := range []struct {
		name  string
		parts []part
		at    string
		who   string // empty: it counts
		what  string // can be written
	}{
		{"root's", []part{{"p", "", 0, 0, 0o644}}, "p", "", ""},
		{"the agent's", []part{{"d/", "", agentUID, 1, 0o755}, {"d/p", "", agentUID, 1, 0o600}}, "d/p", "", ""},
		{"of a group that cannot write", []part{{"p", "", 0, otherUID, 0o640}}, "p", "", ""},
		{"in a sticky directory", []part{{"d/", "", 0, 0, 0o1777}, {"d/p", "", 0, 0, 0o644}}, "d/p", "", ""},
		{"through a link of root's", []part{{"d/", "", 0, 0, 0o755}, {"d/p", "", 0, 0, 0o644}, {"l", "d/../d/p", 0, 0, 0}}, "l", "", ""},

		{"mode 0666", []part{{"p", "", 0, 0, 0o666}}, "p", "every user", "/p"},
		{"mode 0646", []part{{"p", "", 0, 0, 0o646}}, "p", "every user", "/p"},
		{"mode 0664", []part{{"p", "", 0, otherUID, 0o664}}, "p", "group 61234", "/p"},
		{"another user's", []part{{"p", "", otherUID, 0, 0o644}}, "p", "user 61234", "/p"},
		{"another user's, read-only", []part{{"p", "", otherUID, 0, 0o444}}, "p", "user 61234", "/p"},
		{"another user's, in a sticky directory", []part{{"d/", "", 0, 0, 0o1777}, {"d/p", "", otherUID, 0, 0o644}}, "d/p", "user 61234", "/d/p"},
		{"a directory of another user", []part{{"d/", "", otherUID, 0, 0o755}, {"d/p", "", 0, 0, 0o644}}, "d/p", "user 61234", "/d"},
		{"a directory that all can write", []part{{"d/", "", 0, 0, 0o777}, {"d/p", "", 0, 0, 0o644}}, "d/p", "every user", "/d"},
		{"a directory that a group can write", []part{{"d/", "", 0, otherUID, 0o775}, {"d/p", "", 0, 0, 0o644}}, "d/p", "group 61234", "/d"},
		{"a directory further up", []part{{"d/", "", 0, 0, 0o777}, {"d/e/", "", 0, 0, 0o755}, {"d/e/p", "", 0, 0, 0o644}}, "d/e/p", "every user", "/d"},
		{"a link of another user", []part{{"p", "", 0, 0, 0o644}, {"l", "p", otherUID, 0, 0}}, "l", "user 61234", "/l"},
		{"a link to another user's file", []part{{"p", "", otherUID, 0, 0o644}, {"l", "p", 0, 0, 0}}, "l", "user 61234", "/p"},
		{"a link into another user's directory", []part{{"d/", "", otherUID, 0, 0o755}, {"d/p", "", 0, 0, 0o644}, {"l", "d/p", 0, 0, 0}}, "l", "user 61234", "/d"},
		{"a directory that is a link into another user's", []part{{"d/", "", otherUID, 0, 0o755}, {"d/e/", "", 0, 0, 0o755}, {"d/e/p", "", 0, 0, 0o644}, {"l", "d/e", 0, 0, 0}}, "l/p", "user 61234", "/d"},
		{"a link in a directory that all can write", []part{{"d/", "", 0, 0, 0o777}, {"d/l", "../p", 0, 0, 0}, {"p", "", 0, 0, 0o644}}, "d/l", "every user", "/d"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := plant(t, tt.parts)
			path := filepath.Join(base, tt.at)
			policy, err := ReadPolicy(path, agentUID)
			if tt.who == "" {
				require.NoError(t, err)
				require.True(t, policy.mayReserve(1, nil, who{kind: wordUser, id: 4711}), "it was read")
				return
			}
			require.ErrorIs(t, err, ErrPolicyFile)
			require.Nil(t, policy)
			require.ErrorContains(t, err, `"`+base+tt.what+`" can be written by `+tt.who)
			require.ErrorContains(t, err, "only root and the agent's user may: ch")
			// The control: what belongs to the agent's own user is its own to write.
			if tt.who == "user 61234" {
				_, err = ReadPolicy(path, otherUID)
				require.NoError(t, err)
			}
		})
	}
	l := plant(t, []part{{"a", "b", 0, 0, 0}, {"b", "a", 0, 0, 0}})
	_, err := ReadPolicy(l+"/a", agentUID)
	require.ErrorIs(t, err, unix.ELOOP)
	_, err = ReadPolicy(l, agentUID)
	require.ErrorIs(t, err, unix.EISDIR)
	_, err = ReadPolicy(l+"/absent", agentUID)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = ReadPolicy(plant(t, []part{{"p", "", 0, 0, 0o644}})+"/p/q", agentUID)
	require.ErrorIs(t, err, unix.ENOTDIR)
	_, err = ReadPolicy(os.DevNull, agentUID)
	require.ErrorContains(t, err, "no regular file")
}
