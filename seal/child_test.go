package seal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Variables of the children. None holds a secret.
const (
	dirVar   = "SEALCTX_SEAL_TEST_DIR"
	tokenVar = "SEALCTX_SEAL_TEST_TOKEN" // sealed, in hex
	limitVar = "SEALCTX_SEAL_TEST_LIMIT"
)

// child is a process of the test binary in one of its roles.
func child(t testing.TB, role string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	t.Cleanup(func() { _ = self.Close() })
	// By descriptor, since another user may not reach the path of the binary.
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{self}
	// Without this a child built with -race sleeps for a second as it exits.
	cmd.Env = append(append(os.Environ(), roleVar+"="+role, "GORACE=atexit_sleep_ms=0"), env...)
	cmd.Dir = "/"
	return cmd
}

// output runs a child to its end; it must end well.
func output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func childFailed(err error) {
	fmt.Println("child:", err)
	os.Exit(1)
}

func childCheck(err error) {
	if err != nil {
		childFailed(err)
	}
}

func childToken() []byte {
	b, err := hex.DecodeString(os.Getenv(tokenVar))
	childCheck(err)
	return b
}

// As a user who may lock only so much, each step either works or says that it
// may not, and what to do; nothing panics, and nothing stays reserved.
func TestMemlockLimit(t *testing.T) {
	worked := map[int]bool{}
	for _, limit := range []int{0, 4, 8, 12, 16, 64} {
		cmd := child(t, "limit", limitVar+"="+strconv.Itoa(limit<<10), dirVar+"="+shmDir(t))
		if os.Geteuid() == 0 { // the limit does not bind root
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			dir := "/dev/shm/sealctx-test-nobody-" + strconv.Itoa(os.Getpid())
			require.NoError(t, os.Mkdir(dir, 0o700))
			require.NoError(t, os.Chown(dir, 65534, 65534))
			defer func() { require.NoError(t, os.RemoveAll(dir)) }()
			cmd.Env = append(cmd.Env, dirVar+"="+dir)
		}
		began := time.Now()
		out, _, _ := strings.Cut(output(t, cmd), "\n") // what follows is of -cover
		t.Logf("%d KiB: %s (%v)", limit, out, time.Since(began).Round(time.Millisecond))
		worked[limit] = out == "works"
		if os.Geteuid() == 0 {
			require.NoError(t, os.RemoveAll("/dev/shm/sealctx-test-nobody-"+strconv.Itoa(os.Getpid())))
		}
	}
	require.False(t, worked[0])
	require.False(t, worked[4])
	require.True(t, worked[16], "16 KiB must do for one ring, one epoch and a pool")
	require.True(t, worked[64])
}

// limitChild lives under a limit. It prints "works", or which step ended with a
// proper error.
func limitChild() {
	limit, err := strconv.ParseUint(os.Getenv(limitVar), 10, 64)
	childCheck(err)
	childCheck(unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: limit, Max: limit}))
	proper := func(step string, err error, began time.Time) {
		switch {
		case !errors.Is(err, memsafe.ErrLimit):
			childFailed(fmt.Errorf("%s: %w", step, err))
		case !strings.Contains(err.Error(), "RLIMIT_MEMLOCK") || !strings.Contains(err.Error(), "ulimit -l"):
			childFailed(fmt.Errorf("%s: no limit or no remedy in: %w", step, err))
		case time.Since(began) > 500*time.Millisecond:
			childFailed(fmt.Errorf("%s: took %v", step, time.Since(began)))
		}
		fmt.Println("no", step)
		os.Exit(0)
	}
	began := time.Now()
	childCheck(os.Setenv(keyring.DirVariable, os.Getenv(dirVar)))
	h, err := OpenHost(nil)
	if err != nil {
		if !errors.Is(err, ErrUnavailable) {
			childFailed(err)
		}
		proper("host", err, began)
	}
	began = time.Now()
	r, err := h.Reserve(testRequest)
	if err != nil {
		if !errors.Is(err, ErrUnavailable) || h.pool.InUse() != 0 {
			childFailed(err)
		}
		proper("reservation", err, began)
	}
	sealed, err := r.Seal(make([]byte, 1165))
	childCheck(err)
	began = time.Now()
	s, err := h.Open(sealed, testFormat)
	if err != nil {
		proper("opening", err, began)
	}
	s.Wipe()
	fmt.Println("works")
}

// A process in a time namespace whose clock is a day ahead neither refuses a
// token as expired nor opens one that is.
func TestTimeNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a time namespace")
	}
	dir := shmDir(t) + "/ring"
	h := dirHost(t, dir, nil)
	plain := randomBytes(100)
	sealed := sealToken(t, h, testRequest, plain)
	cmd := child(t, "timens", dirVar+"="+dir, tokenVar+"="+hex.EncodeToString(sealed))
	lines := strings.Fields(output(t, cmd))
	require.Len(t, lines, 3)
	require.Equal(t, hex.EncodeToString(plain), lines[0])
	requireRefused(t, h, sealed, ErrSpent)

	// The control: the child's own clock was a day ahead.
	ahead, err := time.ParseDuration(lines[1])
	require.NoError(t, err)
	var ts unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts))
	require.InDelta(t, 24*time.Hour, ahead-time.Duration(ts.Nano()), float64(time.Minute))

	// What the child sealed is on the host's clock.
	sealed, err = hex.DecodeString(lines[2])
	require.NoError(t, err)
	head, err := Inspect(sealed)
	require.NoError(t, err)
	now, err := h.ring.Now()
	require.NoError(t, err)
	require.InDelta(t, now, head.Issued, float64(time.Minute))
	requireOpens(t, h, sealed, plain)
}

// timensChild starts shiftedChild in a time namespace: that of the children of
// this thread.
func timensChild() {
	runtime.LockOSThread()
	childCheck(unix.Unshare(unix.CLONE_NEWTIME))
	offsets := fmt.Sprintf("/proc/%d/timens_offsets", unix.Gettid())
	childCheck(os.WriteFile(offsets, []byte("boottime 86400 0\n"), 0))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"=shifted")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	childCheck(cmd.Run())
}

func shiftedChild() {
	ring, err := keyring.Open(os.Getenv(dirVar), nil)
	childCheck(err)
	h, err := newHost(ring, nil)
	childCheck(err)
	s, err := h.Open(childToken(), testFormat)
	childCheck(err)
	var ts unix.Timespec
	childCheck(unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts))
	r, err := h.Reserve(testRequest)
	childCheck(err)
	sealed, err := r.Seal(s.Bytes())
	childCheck(err)
	fmt.Println(hex.EncodeToString(s.Bytes()), time.Duration(ts.Nano()), hex.EncodeToString(sealed))
}

// Under GODEBUG=fips140=only suite 1 does all its work, and suite 2 is an error
// of the surroundings: the token is as good as it was.
func TestFIPSOnly(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		dir := shmDir(t) + "/ring"
		h := dirHost(t, dir, &keyring.Options{Suite: st})
		plain := randomBytes(100)
		sealed := sealToken(t, h, testRequest, plain)
		out := output(t, child(t, "fips", dirVar+"="+dir, tokenVar+"="+hex.EncodeToString(sealed), "GODEBUG=fips140=only"))
		if st == suite.AES256GCM {
			require.Equal(t, "opened\nsealed\n", out)
			requireRefused(t, h, sealed, ErrSpent)
			return
		}
		require.Equal(t, "not opened\nnot sealed\n", out)
		require.Equal(t, 1, outstanding(t, h))
		requireOpens(t, h, sealed, plain)
	})
}

func fipsChild() {
	ring, err := keyring.Open(os.Getenv(dirVar), nil)
	childCheck(err)
	h, err := newHost(ring, nil)
	childCheck(err)
	say := func(done string, err error) {
		switch {
		case err == nil:
			fmt.Println(done)
		case errors.Is(err, ErrUnavailable):
			fmt.Println("not", done)
		default:
			childFailed(err)
		}
	}
	s, err := h.Open(childToken(), testFormat)
	say("opened", err)
	if err == nil {
		s.Wipe()
	}
	r, err := h.Reserve(testRequest)
	childCheck(err)
	sealed, err := r.Seal([]byte("plain"))
	say("sealed", err)
	if err == nil {
		s, err := h.Open(sealed, testFormat)
		childCheck(err)
		s.Wipe()
	}
	if n := h.pool.InUse(); n != 0 {
		childFailed(fmt.Errorf("%d bytes of locked memory not given back", n))
	}
}

// Without a free descriptor this process cannot tell who it is: a token for it
// does not open, is not spent, and opens once there is one again.
func TestNoDescriptors(t *testing.T) {
	require.Equal(t, "unavailable\nopened\n", output(t, child(t, "descriptors", dirVar+"="+shmDir(t)+"/ring")))
}

func descriptorsChild() {
	ring, err := keyring.Open(os.Getenv(dirVar), nil)
	childCheck(err)
	h, err := newHost(ring, nil)
	childCheck(err)
	req := testRequest
	req.Audience, err = Process(os.Getpid())
	childCheck(err)
	r, err := h.Reserve(req)
	childCheck(err)
	sealed, err := r.Seal([]byte("plain"))
	childCheck(err)
	var limit unix.Rlimit
	childCheck(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	childCheck(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}))
	_, err = h.Open(sealed, testFormat)
	childCheck(unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, unix.EMFILE) {
		childFailed(err)
	}
	fmt.Println("unavailable")
	s, err := h.Open(sealed, testFormat)
	childCheck(err)
	s.Wipe()
	fmt.Println("opened")
}
