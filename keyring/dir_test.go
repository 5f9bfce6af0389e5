package keyring

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestDirectoryMade(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	dir := filepath.Join(shmDir(t, false), "ring")
	r := openRing(t, dir, nil)
	require.Equal(t, dir, r.Dir())
	st, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), st.Mode().Perm())
	require.Empty(t, files(t, dir), "no epoch is made before one is asked for")
	e := current(t, r)
	st, err = os.Stat(epochFile(dir, e))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	require.EqualValues(t, e.fileSize(), st.Size())
	require.EqualValues(t, e.fileSize(), st.Sys().(*syscall.Stat_t).Blocks*512, "a sparse page would be a SIGBUS later")
}

// What a runtime directory must not be.
func TestDirectoryRules(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string) string
		err   error
		says  string
		root  bool
	}{
		{"group may write", mode(0o770), ErrUnsafeDir, "0770", false},
		{"group may read", mode(0o740), ErrUnsafeDir, "0740", false},
		{"others may enter", mode(0o701), ErrUnsafeDir, "0701", false},
		{"all may write, sticky", mode(0o777 | os.ModeSticky), ErrUnsafeDir, "1777", false},
		{"another's", func(t *testing.T, dir string) string {
			require.NoError(t, os.Chown(dir, apart.Nobody, 0))
			return dir
		}, ErrUnsafeDir, "belongs to user 65534", true},
		{"symbolic link", link(""), ErrUnsafeDir, "not a directory", false},
		{"symbolic link with a slash behind", link("/"), ErrUnsafeDir, "not a directory", false},
		{"symbolic link with a dot behind", link("/."), ErrUnsafeDir, "not a directory", false},
		{"dangling link", func(t *testing.T, dir string) string {
			require.NoError(t, os.Symlink("/nowhere", dir+"-link"))
			t.Cleanup(func() { _ = os.Remove(dir + "-link") })
			return dir + "-link"
		}, ErrUnsafeDir, "not a directory", false},
		{"file", func(t *testing.T, dir string) string {
			require.NoError(t, os.WriteFile(dir+"/file", nil, 0o600))
			return dir + "/file"
		}, ErrUnsafeDir, "not a directory", false},
		{"below nothing", func(t *testing.T, dir string) string { return dir + "/a/b" }, ErrNoDir, "no such file", false},
		{"not tmpfs", func(t *testing.T, _ string) string { return diskDir(t) }, ErrUnsafeDir, "not on tmpfs", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root {
				apart.NeedRoot(t)
			}
			dir := c.spoil(t, shmDir(t, false))
			_, err := Open(dir, nil)
			require.ErrorIs(t, err, c.err)
			require.ErrorContains(t, err, c.says)

			t.Setenv(DirVariable, dir)
			_, err = Open("", nil)
			require.ErrorIs(t, err, c.err, "through the environment")
		})
	}
}

// No directory is made where it would be refused, and none is removed.
func TestRefusedDirectoryNotMade(t *testing.T) {
	disk := diskDir(t)
	for range 2 {
		_, err := Open(disk+"/ring", nil)
		require.ErrorIs(t, err, ErrUnsafeDir)
		require.ErrorContains(t, err, "not on tmpfs")
		require.NoDirExists(t, disk+"/ring")
	}
	require.NoError(t, os.Mkdir(disk+"/ring", 0o700))
	_, err := Open(disk+"/ring", nil)
	require.ErrorIs(t, err, ErrUnsafeDir)
	require.DirExists(t, disk+"/ring")
}

func mode(m os.FileMode) func(*testing.T, string) string {
	return func(t *testing.T, dir string) string {
		require.NoError(t, os.Chmod(dir, m))
		return dir
	}
}

func link(behind string) func(*testing.T, string) string {
	return func(t *testing.T, dir string) string {
		require.NoError(t, os.Symlink(dir, dir+"-link"))
		t.Cleanup(func() { _ = os.Remove(dir + "-link") })
		return dir + "-link" + behind
	}
}

// diskDir is a fresh directory that is not on tmpfs.
func diskDir(t *testing.T) string {
	t.Helper()
	for _, place := range []string{os.TempDir(), "/var/tmp", "."} {
		if dir, err := os.MkdirTemp(place, "sealctx-test-"); err == nil {
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			if dir, err = filepath.Abs(dir); err == nil && !onTmpfs(dir) {
				return dir
			}
		}
	}
	t.Fatal("every directory that may be written is on tmpfs")
	return ""
}

func TestAnyFilesystem(t *testing.T) {
	dir := diskDir(t)
	r := openRing(t, dir, &Options{AnyFilesystem: true})
	e := current(t, r)
	require.Equal(t, mustDerive(t, e), mustDerive(t, current(t, openRing(t, dir, &Options{AnyFilesystem: true}))))
}

// As a plain user: a directory of root, and one of its own without the right to
// write.
func TestDirectoryAsPlainUser(t *testing.T) {
	dir := shmDir(t, true)
	root := shmDir(t, false)
	if !run(t, dir+":"+root, apart.PlainUser) {
		return
	}
	dir, root, _ = strings.Cut(os.Getenv(dirVariable), ":")
	st, err := os.Stat(root)
	require.NoError(t, err)
	if int(st.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() { // it was root's
		_, err := Open(root, nil)
		require.ErrorIs(t, err, ErrUnsafeDir)
		require.ErrorContains(t, err, "belongs to user 0 and this process runs as")
	}
	r := openRing(t, dir, nil)
	e := current(t, r)
	require.NoError(t, os.Chmod(dir, 0o500))
	defer os.Chmod(dir, 0o700)
	err = r.Rotate()
	require.ErrorIs(t, err, unix.EACCES)
	require.NotErrorIs(t, err, ErrUnsafeDir)
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, "make its mode 0700")
	require.Equal(t, e.ID(), current(t, r).ID())
	mustDerive(t, e)
	require.ErrorContains(t, r.Retire(e.ID()), "removing")
	_, err = derive(e)
	require.ErrorIs(t, err, ErrRetired, "the name could not be removed, the key could")
	_, err = r.Current()
	require.Error(t, err)
	require.NoError(t, os.Chmod(dir, 0o700))
	require.NotEqual(t, e.ID(), current(t, r).ID())
	require.Len(t, files(t, dir), 1, "the retirement was finished")
	require.NoError(t, os.Chmod(dir, 0))
	_, err = Open(dir, nil)
	require.ErrorIs(t, err, ErrUnsafeDir)
}

// Where a ring is looked for, by what the environment names.
func TestSearchOrder(t *testing.T) {
	shm := shmDir(t, false)
	for _, name := range []string{"own", "systemd", "xdg"} {
		require.NoError(t, os.Mkdir(filepath.Join(shm, name), 0o755)) // theirs may have a mode that suits them
	}
	require.NoError(t, os.Chmod(filepath.Join(shm, "own"), 0o700))
	own, systemd, xdg, disk := shm+"/own", shm+"/systemd", shm+"/xdg", diskDir(t)
	for _, c := range []struct {
		name               string
		own, systemd, user string
		any                bool
		want               string
	}{
		{"SEALCTX_DIR before all", own, systemd, xdg, false, own},
		{"SEALCTX_DIR with a slash behind", own + "/", systemd, xdg, false, own},
		{"systemd's before the user's", "", systemd, xdg, false, systemd + "/sealctx"},
		{"the first of systemd's", "", systemd + ":/elsewhere", xdg, false, systemd + "/sealctx"},
		{"the user's", "", "", xdg, false, xdg + "/sealctx"},
		{"systemd's is on a disk", "", disk, xdg, false, xdg + "/sealctx"},
		{"and that is allowed", "", disk, xdg, true, disk + "/sealctx"},
		{"systemd's is not there", "", shm + "/missing", xdg, false, xdg + "/sealctx"},
		{"a relative one is ignored", "", "systemd", xdg, false, xdg + "/sealctx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(DirVariable, c.own)
			t.Setenv("RUNTIME_DIRECTORY", c.systemd)
			t.Setenv("XDG_RUNTIME_DIR", c.user)
			r := openRing(t, "", &Options{AnyFilesystem: c.any})
			require.Equal(t, c.want, r.Dir())
			current(t, r)
		})
	}
	t.Setenv("RUNTIME_DIRECTORY", "")
	t.Setenv("XDG_RUNTIME_DIR", "relative")
	last := "/dev/shm/sealctx-" + strconv.Itoa(os.Geteuid())
	want := []string{last}
	if os.Geteuid() == 0 {
		want = []string{"/run/sealctx-root", last}
	}
	require.Equal(t, want, candidates())

	t.Setenv(DirVariable, "own")
	_, err := Open("", nil)
	require.ErrorIs(t, err, ErrNoDir)
	require.ErrorContains(t, err, "absolute")
}

// An unsafe place ends the search: two processes must not end up in two.
func TestSearchStopsAtUnsafe(t *testing.T) {
	first, second := shmDir(t, false), shmDir(t, false)
	t.Setenv(DirVariable, "")
	t.Setenv("RUNTIME_DIRECTORY", first)
	t.Setenv("XDG_RUNTIME_DIR", second)
	require.NoError(t, os.Mkdir(first+"/sealctx", 0o755))
	_, err := Open("", nil)
	require.ErrorIs(t, err, ErrUnsafeDir)
	require.Empty(t, files(t, second))
}

// A ring that is told its directory makes no other.
func TestGivenDirectoryOnly(t *testing.T) {
	dir := shmDir(t, false)
	t.Setenv(DirVariable, dir+"/default")
	r := openRing(t, dir+"/given", nil)
	require.NoError(t, os.RemoveAll(dir+"/given"))
	current(t, r)
	require.Equal(t, []string{"given"}, files(t, dir))
}

// A relative path stays what it was when the ring was opened.
func TestRelativeDirectory(t *testing.T) {
	dir := shmDir(t, false)
	if !run(t, dir, func(cmd *exec.Cmd) { cmd.Dir = dir }) {
		return
	}
	r := openRing(t, "ring", nil)
	require.NoError(t, os.Chdir("/"))
	require.NoError(t, os.RemoveAll(os.Getenv(dirVariable)+"/ring"))
	current(t, r)
	require.Equal(t, os.Getenv(dirVariable)+"/ring", r.Dir())
	require.Len(t, files(t, r.Dir()), 1)
}

// The directory goes away under way: what was in it is worth nothing, and the
// processes meet again in a new one.
func TestDirectoryDeleted(t *testing.T) {
	for name, remove := range map[string]func(dir string) error{
		"directory": os.RemoveAll,
		"files": func(dir string) error {
			names, err := filepath.Glob(dir + "/*")
			for _, name := range names {
				err = errors.Join(err, os.Remove(name))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shmDir(t, false) + "/ring"
			a, b := openRing(t, dir, nil), openRing(t, dir, nil)
			e := current(t, a)
			same := current(t, b)
			l, err := e.Reserve(time.Minute)
			require.NoError(t, err)
			require.NoError(t, remove(dir))
			require.ErrorIs(t, same.ClaimFresh(l.Slot), ErrRetired)
			require.ErrorIs(t, e.ClaimFresh(l.Slot), ErrRetired)
			time.Sleep(linkCheck)
			next := current(t, a)
			require.NotEqual(t, e.ID(), next.ID())
			require.Equal(t, next.ID(), current(t, b).ID())
			require.Equal(t, make([]byte, keySize), e.record.key())
			_, err = derive(same)
			require.ErrorIs(t, err, ErrRetired)
			l, err = next.Reserve(time.Minute)
			require.NoError(t, err)
			require.NoError(t, current(t, b).ClaimFresh(l.Slot))
		})
	}
	t.Run("with its parent", func(t *testing.T) {
		top := shmDir(t, false)
		require.NoError(t, os.Mkdir(top+"/up", 0o700))
		r := openRing(t, top+"/up/ring", nil)
		current(t, r)
		require.NoError(t, os.RemoveAll(top+"/up"))
		time.Sleep(linkCheck)
		_, err := r.Current()
		require.ErrorIs(t, err, ErrNoDir)
		require.NoError(t, os.Mkdir(top+"/up", 0o700))
		current(t, r)
	})
}

// Claims one right after the other look for the file now and then only, and by no more
// than that behind.
func TestClaimAt(t *testing.T) {
	dir := shmDir(t, false)
	r := openRing(t, dir, nil)
	e := current(t, r)
	var leases []Lease
	for range 4 {
		l, err := e.Reserve(time.Minute)
		require.NoError(t, err)
		leases = append(leases, l)
	}
	now, err := r.Now()
	require.NoError(t, err)
	now += time.Hour // later than everything that looked
	require.NoError(t, e.ClaimRecent(leases[0].Slot, now))
	require.ErrorIs(t, e.ClaimRecent(leases[0].Slot, now), ErrSpent)
	require.NoError(t, os.Remove(epochFile(dir, e)))
	require.NoError(t, e.ClaimRecent(leases[1].Slot, now+claimCheck-1))
	require.ErrorIs(t, e.ClaimRecent(leases[2].Slot, now+claimCheck), ErrRetired)
	require.ErrorIs(t, e.ClaimFresh(leases[3].Slot), ErrRetired)
	require.NoError(t, e.ClaimRecent(leases[2].Slot, now), "the control: it was not spent")
	require.NoError(t, e.retire())
	require.ErrorIs(t, e.ClaimRecent(leases[3].Slot, now), ErrRetired, "a retirement is seen at once")
}

// Reserve is for the epoch that seals, and for no longer than it allows.
func TestRingReserve(t *testing.T) {
	r := openRing(t, shmDir(t, false), &Options{MaxLifetime: time.Minute})
	e, l, err := r.Reserve(time.Hour) // makes the epoch
	require.NoError(t, err)
	require.Equal(t, time.Minute, l.Expires-l.Issued)
	require.GreaterOrEqual(t, l.Issued, e.birth)
	require.Equal(t, current(t, r).ID(), e.ID())
	require.NoError(t, e.ClaimFresh(l.Slot))
	refs := e.refs.Load()
	_, _, err = r.Reserve(0)
	require.Error(t, err)
	require.Equal(t, refs, e.refs.Load(), "a reference is left")
	e.Release()
	require.NoError(t, r.Close())
	_, _, err = r.Reserve(time.Second)
	require.ErrorIs(t, err, ErrClosed)
}

// A copy of the directory is no second register: its epochs are not accepted.
func TestDirectoryCopied(t *testing.T) {
	dir := shmDir(t, false)
	r := openRing(t, dir, nil)
	e := current(t, r)
	l, err := e.Reserve(time.Minute)
	require.NoError(t, err)
	other := shmDir(t, false)
	out, err := exec.Command("cp", "-a", dir+"/.", other).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Len(t, files(t, other), 1)

	copied := openRing(t, other, nil)
	_, err = copied.Epoch(e.ID())
	require.ErrorIs(t, err, ErrUnknown)
	fresh := current(t, copied)
	require.NotEqual(t, e.ID(), fresh.ID())
	require.Equal(t, e.seq+1, fresh.seq)
	require.NoError(t, e.ClaimFresh(l.Slot))
}
