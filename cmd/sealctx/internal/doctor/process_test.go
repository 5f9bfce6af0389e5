package doctor

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What is seen of a process is what is so: this one changes before our eyes.
func TestLook(t *testing.T) {
	uid := uint32(os.Geteuid())
	p, err := look(os.Getpid(), uid)
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), p.PID)
	require.False(t, p.Manager)
	require.Equal(t, uid == 0, p.DumpUnknown)

	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit))
	if limit.Cur == unix.RLIM_INFINITY {
		require.Equal(t, -1, p.Limit)
	} else {
		require.EqualValues(t, limit.Cur>>10, p.Limit)
	}
	page := make([]byte, 2*os.Getpagesize())
	before := p.Locked
	require.NoError(t, unix.Mlock(page))
	p, err = look(os.Getpid(), uid)
	require.NoError(t, err)
	require.NoError(t, unix.Munlock(page))
	require.Greater(t, p.Locked, before)

	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	t.Cleanup(func() { require.NoError(t, unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(dumpable), 0, 0, 0)) })
	p, err = look(os.Getpid(), uid)
	require.NoError(t, err)
	require.Equal(t, uid != 0, p.Undumpable)

	p, err = look(1<<30, 0) // of another namespace, or hidden: no reason to say that it is not there
	require.NoError(t, err)
	require.True(t, p.Hidden)
}

func TestReadLimits(t *testing.T) {
	var p Process
	require.NoError(t, p.readLimits([]byte("Max locked memory         unlimited            unlimited            bytes\n")))
	require.Equal(t, -1, p.Limit)
	require.NoError(t, p.readLimits([]byte("Max locked memory         65536                unlimited            bytes\n")))
	require.Equal(t, 64, p.Limit)
	require.Error(t, p.readLimits([]byte("Max locked memory         much                 unlimited            bytes\n")))
	require.Error(t, p.readLimits(nil))
}

// The policy is the one that the agent's command line names.
func TestPolicyOf(t *testing.T) {
	for line, want := range map[string]string{
		"":                                 "",
		"sealctx\x00agent\x00":             "",
		"sealctx\x00agent\x00--policy\x00": "",
		"sealctx\x00agent\x00--policy\x00/p\x00--json\x00": "/p",
		"sealctx\x00agent\x00--policy=/p q\x00":            "/p q",
	} {
		require.Equal(t, want, policyOf([]byte(line)), "%q", line)
	}
}
