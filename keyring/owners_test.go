package keyring

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// helpWhere tells where the environment has this process look for its ring.
func helpWhere() error {
	r, err := Open("", nil)
	if err != nil {
		return err
	}
	fmt.Print(r.Dir())
	return r.Close()
}

// The users of these tests: who looks for a ring, and another.
const mallory, alice = 54321, 54322

// where runs a program as a user with variables, and returns where it looked or what
// it complained about.
func where(t *testing.T, program string, user uint32, env ...string) string {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(env, helperVariable+"=where")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return err.Error() + ": " + complaint.String()
	}
	return out.String()
}

// ownPlaces mounts /run and /dev/shm anew, and makes directories of some users in
// /run, of which it returns the path.
func ownPlaces(t *testing.T) (dir string) {
	t.Helper()
	for _, place := range []string{"/run", "/dev/shm"} {
		require.NoError(t, unix.Mount("tmpfs", place, "tmpfs", 0, "mode=1777"))
	}
	require.NoError(t, os.Chmod("/run", 0o755))
	for user, modes := range map[uint32]map[string]os.FileMode{
		0:       {"root": 0o755, "shared": 0o777 | os.ModeSticky, "open": 0o777, "group": 0o775},
		alice:   {"alice": 0o700, "alice-open": 0o777},
		mallory: {"mallory": 0o755},
	} {
		for name, mode := range modes {
			require.NoError(t, os.Mkdir("/run/"+name, 0o700))
			require.NoError(t, os.Chmod("/run/"+name, mode))
			require.NoError(t, os.Chown("/run/"+name, int(user), int(user)))
		}
	}
	for link, target := range map[string]string{
		"/run/mallory/link": "/run/root", "/run/mallory/link-alice": "/run/alice", "/run/shared/link": "../root", "/run/link": "root/../alice",
	} {
		require.NoError(t, os.Symlink(target, link))
		if strings.Contains(link, "mallory") || strings.Contains(link, "shared") {
			require.NoError(t, os.Lchown(link, mallory, mallory))
		}
	}
	for dir, user := range map[string]int{"/run/mallory/alice": alice, "/run/open/alice": alice, "/run/root/sealctx": alice, "/run/shared/alice": alice} {
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.Chown(dir, user, user))
	}
	return "/run"
}

// A variable counts for as much as the owner of the directory that it names.
func TestVariablesByOwner(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	run := ownPlaces(t)
	const self = "/proc/self/exe"
	const root, rootElse, aliceElse = 0, "/run/sealctx-root", "/dev/shm/sealctx-54322"
	for _, c := range []struct {
		user           uint32
		variable, name string
		want           string // a path, or part of an error
	}{
		// The control: directories of the user.
		{alice, "XDG_RUNTIME_DIR", "alice", "/run/alice/sealctx"},
		{alice, "XDG_RUNTIME_DIR", "link", "/run/link/sealctx"},
		{alice, "XDG_RUNTIME_DIR", "shared/alice", "/run/shared/alice/sealctx"},
		{alice, "RUNTIME_DIRECTORY", "alice", "/run/alice/sealctx"},
		{alice, "SEALCTX_DIR", "alice/own", "/run/alice/own"},
		{alice, "SEALCTX_DIR", "shared/alice", "/run/shared/alice"},

		{root, "XDG_RUNTIME_DIR", "alice", rootElse},
		{root, "RUNTIME_DIRECTORY", "alice", rootElse},
		{alice, "XDG_RUNTIME_DIR", "root", aliceElse},
		{alice, "XDG_RUNTIME_DIR", "mallory", aliceElse},
		{alice, "RUNTIME_DIRECTORY", "mallory", aliceElse},
		{alice, "RUNTIME_DIRECTORY", "root", "/run/root/sealctx"}, // a service manager keeps it

		// Somebody else decides where the path leads.
		{root, "XDG_RUNTIME_DIR", "mallory/link", rootElse},
		{root, "XDG_RUNTIME_DIR", "shared/link", rootElse},
		{alice, "XDG_RUNTIME_DIR", "mallory/link-alice", aliceElse},
		{alice, "XDG_RUNTIME_DIR", "mallory/alice", aliceElse},
		{alice, "RUNTIME_DIRECTORY", "open/alice", aliceElse},
		{alice, "XDG_RUNTIME_DIR", "alice-open", aliceElse},
		{alice, "SEALCTX_DIR", "mallory/alice", "/run/mallory belongs to user 54321"},
		{alice, "SEALCTX_DIR", "mallory/link-alice/own", "/run/mallory belongs to user 54321"},
		{root, "SEALCTX_DIR", "shared/link/own", "/run/shared/link belongs to user 54321"},
		{alice, "SEALCTX_DIR", "open/alice", "others can write /run/open (mode 0777)"},
		{root, "SEALCTX_DIR", "group/own", "others can write /run/group (mode 0775)"},
		{root, "SEALCTX_DIR", "alice/own", "/run/alice belongs to user 54322"},
	} {
		got := where(t, self, c.user, c.variable+"="+filepath.Join(run, c.name))
		if strings.HasPrefix(c.want, "/run") && !strings.Contains(c.want, " ") || c.want == aliceElse {
			require.Equal(t, c.want, got, "user %d, %s=%s", c.user, c.variable, c.name)
			continue
		}
		require.Contains(t, got, c.want, "user %d, %s=%s", c.user, c.variable, c.name)
		require.Contains(t, got, ErrUnsafeDir.Error())
	}
	require.NoDirExists(t, "/run/mallory/sealctx")
	list, err := os.ReadDir("/run/mallory/alice")
	require.NoError(t, err)
	require.Empty(t, list)
}

// The caller of a setuid program does not choose where its keys lie.
func TestSetuidProgram(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	ownPlaces(t)
	program := "/run/program"
	from, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer from.Close()
	to, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, err)
	require.NoError(t, to.Close())
	env := []string{"XDG_RUNTIME_DIR=/run/root", "RUNTIME_DIRECTORY=/run/root", "SEALCTX_DIR=/run/root/own"}
	require.NoError(t, os.Remove("/run/root/sealctx"))
	require.Equal(t, "/run/root/own", where(t, program, 0, env...), "the control")
	require.Equal(t, "/run/root/sealctx", where(t, program, 0, env[:2]...), "the control")
	require.NoError(t, os.Chmod(program, 0o755|os.ModeSetuid))
	require.Equal(t, "/run/sealctx-root", where(t, program, mallory, env...))
	require.Equal(t, "/run/sealctx-root", where(t, program, mallory, env[:2]...))
}

// In a user namespace that has no number for the owner of a directory above, as in a
// container without root, the directory of the user is found all the same.
func TestUnmappedOwner(t *testing.T) {
	apart.NeedRoot(t)
	dir := shmDir(t, false)
	require.NoError(t, os.Chown(dir, alice, alice))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{helperVariable + "=where", "XDG_RUNTIME_DIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: 0, Gid: 0},
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: alice, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: alice, Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, dir+"/sealctx", string(out))
}
