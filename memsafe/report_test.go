package memsafe

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// kernelFlags are the VmFlags of the mapping that holds b, from smaps.
func kernelFlags(t *testing.T, b []byte) []string {
	t.Helper()
	at := uint64(uintptr(unsafe.Pointer(&b[0])))
	f, err := os.Open("/proc/self/smaps")
	require.NoError(t, err)
	defer f.Close()
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uint64
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && inside {
			return strings.Fields(flags)
		}
	}
	t.Fatal("no mapping holds these bytes")
	return nil
}

func intersect(flags []string, of ...string) []string {
	return slices.DeleteFunc(of, func(f string) bool { return !slices.Contains(flags, f) })
}

// statusLine is a line of /proc/self/status, read another way than the package
// does.
func statusLine(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", fmt.Sprintf("sed -n 's/^%s:[[:space:]]*//p' /proc/%d/status", name, os.Getpid())).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

func TestReport(t *testing.T) {
	for name, setup := range map[string]func(*exec.Cmd){"this user": nil, "plain user": apart.PlainUser} {
		t.Run(name, func(t *testing.T) {
			if !apart.Run(t, setup) {
				return
			}
			const mine = 64 << 10
			before, err := Report()
			require.NoError(t, err)
			p, err := NewPool(mine)
			require.NoError(t, err)
			st, err := Report()
			require.NoError(t, err)

			require.Equal(t, before.Locked+mine, st.Locked)
			kib, err := strconv.Atoi(strings.TrimSuffix(statusLine(t, "VmLck"), " kB"))
			require.NoError(t, err)
			require.Equal(t, kib<<10, st.Locked)
			require.Equal(t, p.Backing(), st.Backing)
			require.Equal(t, Erasing, st.Erasing)
			require.True(t, st.Dumpable)

			var rl unix.Rlimit
			require.NoError(t, unix.Getrlimit(unix.RLIMIT_MEMLOCK, &rl))
			require.Equal(t, rl.Cur, st.Limit)
			caps, err := strconv.ParseUint(statusLine(t, "CapEff"), 16, 64)
			require.NoError(t, err)
			require.Equal(t, caps>>unix.CAP_IPC_LOCK&1 == 1, st.Unlimited)

			swaps, err := os.ReadFile("/proc/swaps")
			require.NoError(t, err)
			require.Equal(t, len(strings.Split(strings.TrimSpace(string(swaps)), "\n")) > 1, st.Swap)
			pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
			require.NoError(t, err)
			require.Equal(t, pattern[0] == '|', st.CorePiped)
			require.NoError(t, p.Close())
			after, err := Report()
			require.NoError(t, err)
			require.Equal(t, before, after, "a report leaves nothing behind")
		})
	}
}

func TestLimitText(t *testing.T) {
	require.Equal(t, "everything", limitText(unix.RLIM_INFINITY))
	require.Equal(t, "16 KiB", limitText(16<<10))
}

// A hardened process cannot be attached to by others of its user, and says so.
func TestHarden(t *testing.T) {
	if !apart.Run(t, apart.PlainUser) {
		return
	}
	attach := fmt.Sprintf("exec 3< /proc/%d/mem", os.Getpid())
	require.NoError(t, exec.Command("sh", "-c", attach).Run(), "the control: before, it can be")
	require.NoError(t, Harden())
	require.Error(t, exec.Command("sh", "-c", attach).Run())
	st, err := Report()
	require.NoError(t, err)
	require.False(t, st.Dumpable)
	var rl unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_CORE, &rl))
	require.Equal(t, unix.Rlimit{}, rl)
	_, err = NewPool(0)
	require.NoError(t, err, "a hardened process still reads its own /proc files")
}
