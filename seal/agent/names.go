package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The files that policies look names up in. A name service's modules would run
// foreign code, and ask the network, in the process that holds the keys.
const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
)

// names is what those files say.
type names struct {
	users  map[string]userEntry
	groups map[string]groupEntry
}

type userEntry struct{ uid, gid uint32 }

type groupEntry struct {
	gid     uint32
	members []string
}

func readNames() (*names, error) {
	n := &names{users: map[string]userEntry{}, groups: map[string]groupEntry{}}
	err := readFile(passwdFile, n.readPasswd)
	if err == nil {
		err = readFile(groupFile, n.readGroup)
	}
	if err != nil {
		return nil, fmt.Errorf("agent: looking up names: %w", err)
	}
	return n, nil
}

// readFile reads a file that may be missing: numbers work without it.
func readFile(path string, read func(io.Reader) error) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return read(f)
}

// readPasswd reads NAME:x:UID:GID:... lines and passes others over, as the C
// library does; the first line of a name counts.
func (n *names) readPasswd(r io.Reader) error {
	return eachLine(r, func(f []string) {
		if len(f) < 4 {
			return
		}
		uid, err1 := parseID(f[2])
		gid, err2 := parseID(f[3])
		if _, twice := n.users[f[0]]; !twice && errors.Join(err1, err2) == nil {
			n.users[f[0]] = userEntry{uid, gid}
		}
	})
}

// readGroup reads NAME:x:GID:MEMBER,MEMBER lines.
func (n *names) readGroup(r io.Reader) error {
	return eachLine(r, func(f []string) {
		if len(f) < 4 {
			return
		}
		gid, err := parseID(f[2])
		if _, twice := n.groups[f[0]]; !twice && err == nil {
			n.groups[f[0]] = groupEntry{gid, strings.Split(f[3], ",")}
		}
	})
}

func eachLine(r io.Reader, line func(fields []string)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20) // a group can have many members
	for lines.Scan() {
		line(strings.Split(lines.Text(), ":"))
	}
	return lines.Err()
}

// parseID reads a number that can be a user or a group: not the one that means
// "none" to the kernel.
func parseID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id == math.MaxUint32 {
		return 0, fmt.Errorf("%q is not a number of a user or group", s)
	}
	return uint32(id), nil
}

func (n *names) user(s string) (uint32, error) {
	if u, ok := n.users[s]; ok {
		return u.uid, nil
	}
	id, err := parseID(s)
	if err != nil {
		return 0, fmt.Errorf("no user %q in %s", s, passwdFile)
	}
	return id, nil
}

func (n *names) group(s string) (uint32, error) {
	if g, ok := n.groups[s]; ok {
		return g.gid, nil
	}
	id, err := parseID(s)
	if err != nil {
		return 0, fmt.Errorf("no group %q in %s", s, groupFile)
	}
	return id, nil
}

// groupsOf returns the groups that a user logs in with, sorted.
func (n *names) groupsOf(uid uint32) []uint32 {
	var groups []uint32
	for name, u := range n.users {
		if u.uid != uid {
			continue
		}
		groups = append(groups, u.gid)
		for _, g := range n.groups {
			if slices.Contains(g.members, name) {
				groups = append(groups, g.gid)
			}
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

// userText is a user's number, and its name where it has one.
func (n *names) userText(uid uint32) string {
	var all []string
	for name, u := range n.users {
		if u.uid == uid {
			all = append(all, name)
		}
	}
	return withName(uid, all)
}

func (n *names) groupText(gid uint32) string {
	var all []string
	for name, g := range n.groups {
		if g.gid == gid {
			all = append(all, name)
		}
	}
	return withName(gid, all)
}

func withName(id uint32, all []string) string {
	if len(all) == 0 {
		return strconv.FormatUint(uint64(id), 10)
	}
	slices.Sort(all)
	return fmt.Sprintf("%d (%s)", id, strings.Join(all, ", "))
}
