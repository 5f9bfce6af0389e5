package keyring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// ownMounts runs the calling test in a process whose mounts are its own.
func ownMounts(t *testing.T) bool {
	t.Helper()
	apart.NeedRoot(t)
	dir := os.Getenv(dirVariable)
	if dir == "" { // the child has one, and what it made could be mounted over
		dir = shmDir(t, false)
	}
	if !run(t, dir, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	}) {
		return false
	}
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	return true
}

// mountTmpfs mounts a small tmpfs over the test's directory.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := os.Getenv(dirVariable)
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,"+options))
	return dir
}

// A directory on a read-only mount gives an error; what is mapped already goes
// on until it is to be rotated.
func TestReadOnly(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	dir := mountTmpfs(t, "size=1m")
	outside := openRing(t, dir, nil)
	e := current(t, outside)
	view := t.TempDir()
	require.NoError(t, unix.Mount(dir, view, "", unix.MS_BIND, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(view, unix.MNT_DETACH)) })
	require.NoError(t, unix.Mount("", view, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	r := openRing(t, view, nil)
	_, err := r.Current()
	require.ErrorIs(t, err, unix.EROFS)
	require.NotErrorIs(t, err, ErrUnsafeDir)
	require.ErrorContains(t, err, view)
	require.ErrorContains(t, err, "remount,rw")
	_, err = r.Epoch(e.ID())
	require.ErrorIs(t, err, unix.EROFS)
	require.NoError(t, outside.Retire(e.ID()))
	_, err = r.Current()
	require.ErrorIs(t, err, unix.EROFS, "none can be made")
	require.Empty(t, files(t, dir))
}

// On a full filesystem there is an error, at once and not when a page is
// touched; nothing is left behind, and what was there goes on.
func TestFullFilesystem(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	for name, options := range map[string]string{"no space": "size=64k", "no inodes": "size=1m,nr_inodes=3"} {
		dir := mountTmpfs(t, options)
		used := func() uint64 {
			var st unix.Statfs_t
			require.NoError(t, unix.Statfs(dir, &st))
			return st.Blocks - st.Bfree
		}
		small := &Options{Capacity: 512}
		r := openRing(t, dir, small)
		if name == "no space" {
			_, err := openRing(t, dir, nil).Current() // 256 KiB
			require.ErrorIs(t, err, ErrNoSpace)
			require.Empty(t, files(t, dir))
			require.Zero(t, used())
		}
		e := current(t, r)
		l, err := e.Reserve(time.Minute)
		require.NoError(t, err)
		for err == nil {
			err = r.Rotate()
		}
		require.ErrorIs(t, err, ErrNoSpace, name)
		require.ErrorContains(t, err, dir)
		require.ErrorContains(t, err, "nr_inodes")
		n := len(files(t, dir))
		require.Greater(t, n, 1)
		require.ErrorIs(t, r.Rotate(), ErrNoSpace, name)
		require.Len(t, files(t, dir), n)
		if name == "no space" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "rest"), make([]byte, 4096*(16-used())), 0o600))
			require.EqualValues(t, 16, used(), "full to the last page")
		}
		for i := range 1024 { // every slot of the one that is there
			last := current(t, r)
			if _, err := last.Reserve(time.Minute); err != nil {
				require.ErrorIs(t, err, ErrFull)
				require.GreaterOrEqual(t, i, 512)
				break
			}
		}
		require.NoError(t, e.ClaimFresh(l.Slot))
		require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH))
	}
}

// A full directory does not take the epoch that seals, when its age is up: another
// process has it mapped, so that giving it up would make no room, or it would not be
// room enough.
func TestFullWhenAgeIsUp(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	for name, options := range map[string][2]*Options{
		"mapped elsewhere": {{Capacity: 512, Age: time.Second}, {Capacity: 512, Age: time.Second}},
		"a larger one":     {{Capacity: 512, Age: time.Second}, {Age: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mountTmpfs(t, "size=20k") // two would be 24
			other, r := openRing(t, dir, options[0]), openRing(t, dir, options[1])
			id := current(t, other).ID()
			old, err := r.Current()
			require.NoError(t, err)
			require.Equal(t, id, old.ID())
			old.makeOlder(time.Minute)
			old.Release()
			for range 3 {
				e, err := r.Current()
				require.NoError(t, err)
				require.Equal(t, id, e.ID())
				l, err := e.Reserve(time.Second)
				require.NoError(t, err)
				require.NoError(t, e.ClaimFresh(l.Slot))
				e.Release()
			}
			require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=1m"))
			e, err := r.Current()
			require.NoError(t, err)
			require.NotEqual(t, id, e.ID(), "the control: there is room now")
			e.Release()
		})
	}
}

// In a namespace whose /proc shows another boot id, as systemd-nspawn and LXC make
// it, a process leaves the epochs outside alone.
func TestBootIDOfNamespace(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	dir := mountTmpfs(t, "size=1m")
	first := openRing(t, dir, nil)
	e := current(t, first)
	l, err := e.Reserve(time.Minute)
	require.NoError(t, err)
	id := filepath.Join(t.TempDir(), "boot_id")
	require.NoError(t, os.WriteFile(id, []byte("01234567-89ab-cdef-0123-456789abcdef\n"), 0o444))
	const proc = "/proc/sys/kernel/random/boot_id"
	require.NoError(t, unix.Mount(id, proc, "", unix.MS_BIND, ""))
	second := openRing(t, dir, nil)
	_, err = second.Current()
	require.ErrorIs(t, err, ErrOtherBoot)
	require.Len(t, files(t, dir), 1)
	require.NoError(t, e.ClaimFresh(l.Slot))
	require.NoError(t, unix.Unmount(proc, 0))
	require.Equal(t, e.ID(), current(t, openRing(t, dir, nil)).ID(), "the control: it was the boot id")
}

// Without a tmpfs anywhere the error names what was tried and the remedy; with
// one at /run root's place is there.
func TestDefaultPlaces(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	t.Setenv(DirVariable, "")
	t.Setenv("RUNTIME_DIRECTORY", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	disk := diskDir(t)
	require.NoError(t, unix.Mount(disk, "/dev/shm", "", unix.MS_BIND, ""))
	require.NoError(t, unix.Mount(disk, "/run", "", unix.MS_BIND, ""))
	_, err := Open("", nil)
	require.ErrorIs(t, err, ErrNoDir)
	require.ErrorContains(t, err, "/run/sealctx-root, /dev/shm/sealctx-0")
	require.ErrorContains(t, err, DirVariable)
	require.Empty(t, files(t, disk))

	require.NoError(t, unix.Mount("tmpfs", "/dev/shm", "tmpfs", 0, ""))
	require.Equal(t, "/dev/shm/sealctx-0", openRing(t, "", nil).Dir())
	require.NoError(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	require.Equal(t, "/run/sealctx-root", openRing(t, "", nil).Dir())
}

// The shift of TestTimeNamespace, seconds.
const shift = 100_000

// helpTimeNamespace unshares its time namespace and executes the clock helper
// in it. Meanwhile it cannot know its own offset, and must say so.
func helpTimeNamespace() error {
	if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
		return err
	}
	offsets := fmt.Sprintf("boottime %d 0\nmonotonic %d 0\n", shift, 2*shift)
	if err := os.WriteFile("/proc/self/timens_offsets", []byte(offsets), 0); err != nil {
		return err
	}
	if _, err := boottime.New(); err == nil || !strings.Contains(err.Error(), "unshared") {
		return fmt.Errorf("the offset of another namespace was taken for its own: %w", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"=clock")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// clockReport is what a process in another time namespace finds.
type clockReport struct {
	Raw   time.Duration // CLOCK_BOOTTIME as it reads
	Now   time.Duration
	Lease Lease
	Valid bool // the lease that it was given is
	Late  bool // a lease that has expired is
	Over  bool // the epoch is
}

// helpClock is that process: it reads the clock, judges leases and makes one.
func helpClock() error {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return err
	}
	r, err := Open(os.Getenv(dirVariable), nil)
	if err != nil {
		return err
	}
	e, err := r.Current()
	if err != nil {
		return err
	}
	var given Lease
	if err := json.Unmarshal([]byte(os.Getenv("LEASE")), &given); err != nil {
		return err
	}
	out := clockReport{Raw: time.Duration(ts.Nano())}
	if out.Now, err = r.Now(); err != nil {
		return err
	}
	out.Valid = e.Valid(given.Expires) == nil
	out.Late = e.Valid(given.Issued) == nil
	out.Over = e.over(out.Now)
	if out.Lease, err = e.Reserve(time.Minute); err != nil {
		return err
	}
	return errors.Join(e.ClaimFresh(given.Slot), json.NewEncoder(os.Stdout).Encode(out))
}

// In a time namespace with a shifted clock lifetimes are what they are outside.
func TestTimeNamespace(t *testing.T) {
	apart.NeedRoot(t)
	dir := shmDir(t, false)
	r := openRing(t, dir, nil)
	e := current(t, r)
	l, err := e.Reserve(time.Minute)
	require.NoError(t, err)
	text, err := json.Marshal(l)
	require.NoError(t, err)
	before, err := r.Now()
	require.NoError(t, err)
	cmd := helper(t, "timens", dir, "LEASE="+string(text))
	var buf bytes.Buffer
	cmd.Stdout = &buf
	require.NoError(t, cmd.Start())
	wait(t, cmd)
	after, err := r.Now()
	require.NoError(t, err)

	var got clockReport
	require.NoError(t, json.Unmarshal(buf.Bytes(), &got))
	require.Greater(t, got.Raw, after+shift*time.Second/2, "the control: its clock is shifted")
	require.GreaterOrEqual(t, got.Now, before-time.Millisecond)
	require.LessOrEqual(t, got.Now, after+time.Millisecond)
	require.True(t, got.Valid)
	require.False(t, got.Late)
	require.False(t, got.Over)
	require.ErrorIs(t, e.ClaimFresh(l.Slot), ErrSpent, "it was claimed inside")
	require.InDelta(t, before, got.Lease.Issued, float64(time.Minute))
	require.NoError(t, e.Valid(got.Lease.Expires))
	n, err := e.Outstanding()
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, e.ClaimFresh(got.Lease.Slot))
}
