package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
)

// healthy are the facts of a host with nothing to find.
func healthy() *Facts {
	return &Facts{
		Memory:      memsafe.Status{Backing: "memfd_secret", Erasing: true, Limit: 8 << 20},
		PtraceScope: 1, LandlockABI: 7, Seccomp: true,
		Holder: "keyring /run/sealctx", Free: 1 << 30, Inodes: -1, Took: time.Millisecond,
		Keys: []seal.Key{{Seals: true, Outstanding: 1, Capacity: 100}},
	}
}

// behindAgent are those of one whose keys an agent holds.
func behindAgent() *Facts {
	f := healthy()
	f.Holder = "agent /run/sealctx/agent.sock"
	f.Agent = &Process{PID: 4711, UID: 998, NoNewPrivs: true, Seccomp: true, Undumpable: true, Locked: 1024, Limit: -1}
	return f
}

func TestHealthy(t *testing.T) {
	for name, f := range map[string]*Facts{"keyring": healthy(), "agent": behindAgent()} {
		list, worst := Findings(f)
		require.Equal(t, OK, worst, "%s: %+v", name, list)
		for _, x := range list {
			require.NotEmpty(t, x.Found, x.Check)
			require.NotEmpty(t, x.Means, x.Check)
			require.Empty(t, x.Remedy, "%s is well and needs none", x.Check)
		}
	}
}

// Each fault of a host is found, at its level, in its own line and no other, and
// what can be mended says how.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		check   string
		level   Level
		found   string
		lasting bool // nothing can be done about it
		facts   func() *Facts
		spoil   func(*Facts)
	}{
		{"seal and open", Failure, "register", false, healthy, func(f *Facts) { f.RoundTripErr = errors.New("register full") }},
		{"runtime directory", Warning, "100 KiB free", false, healthy, func(f *Facts) { f.Free = 100 << 10 }},
		{"runtime directory", Failure, "read-only", false, healthy, func(f *Facts) { f.DirErr = unix.EROFS }},
		{"runtime directory", Failure, "cannot be written", false, healthy, func(f *Facts) { f.DirErr = unix.EACCES }},
		{"runtime directory", Warning, "1 inodes free", false, healthy, func(f *Facts) { f.Inodes = 1 }},
		{"keys", Failure, "damaged", false, healthy, func(f *Facts) { f.KeysErr = keyring.ErrDamaged }},
		{"keys", Failure, "room for 0", false, healthy, func(f *Facts) { f.Keys[0].Seals = false }},
		{"keys", Warning, "outstanding: 80", false, healthy, func(f *Facts) { f.Keys[0].Outstanding = 80 }},
		{"keys", Warning, "alive: 13", false, healthy, func(f *Facts) { f.Keys = append(f.Keys, make([]seal.Key, 12)...) }},
		{"keys", Note, "only root", true, behindAgent, func(f *Facts) { f.KeysHidden = true }},
		{"policy", Failure, "group 4711", false, behindAgent, func(f *Facts) {
			f.Agent.Policy, f.PolicyErr = "/etc/sealctx/policy", fmt.Errorf("%w: group 4711", agent.ErrPolicyFile)
		}},
		{"policy", Warning, "no such file", false, behindAgent, func(f *Facts) { f.Agent.Policy, f.PolicyErr = "/etc/sealctx/policy", unix.ENOENT }},
		{"policy", Note, "working directory", false, behindAgent, func(f *Facts) { f.Agent.Policy = "policy" }},
		{"memory lock limit", Warning, "64 KiB", false, healthy, func(f *Facts) { f.Memory.Limit = 64 << 10 }},
		{"memory lock limit", Failure, "no memory", false, healthy, func(f *Facts) { f.Memory.Limit = 0 }},
		{"memory lock limit", Warning, "64 KiB for the agent", false, behindAgent, func(f *Facts) { f.Agent.Limit = 64 }},
		{"locked memory", Note, "memguard", false, healthy, func(f *Facts) { f.Memory.Backing = "memguard" }},
		{"locked memory", Failure, "no memory", false, healthy, func(f *Facts) { f.Memory.Backing = "none" }},
		{"swap", Warning, "reach the disk", false, healthy, func(f *Facts) { f.Memory.Swap = true }},
		{"core dumps", Warning, "core_pattern", false, healthy, func(f *Facts) { f.Memory.CorePiped = true }},
		{"core dumps", Note, "core_pattern", false, behindAgent, func(f *Facts) { f.Memory.CorePiped = true }},
		{"core dumps", Failure, "cannot switch", false, healthy, func(f *Facts) { f.Memory.Dumpable = true }},
		{"core dumps", Warning, "agent can be dumped", false, behindAgent, func(f *Facts) { f.Agent.Undumpable = false }},
		{"ptrace", Note, "no Yama", false, healthy, func(f *Facts) { f.PtraceScope = -1 }},
		{"ptrace", Note, "is 0", false, healthy, func(f *Facts) { f.PtraceScope = 0 }},
		{"sandbox", Note, "no Landlock", false, healthy, func(f *Facts) { f.LandlockABI = 0 }},
		{"sandbox", Note, "Landlock 2 and", false, healthy, func(f *Facts) { f.LandlockABI = 2 }},
		{"sandbox", Note, "no seccomp", false, healthy, func(f *Facts) { f.Seccomp = false }},
		{"sandbox", Warning, "not in force", false, behindAgent, func(f *Facts) { f.Agent.Seccomp = false }},
		{"sandbox", Warning, "not in force", false, behindAgent, func(f *Facts) { f.Agent.NoNewPrivs = false }},
		{"sandbox", Note, "not to be seen", false, behindAgent, func(f *Facts) { f.Agent.Manager = true }},
		{"sandbox", Note, "not to be seen from here", false, behindAgent, func(f *Facts) { *f.Agent = Process{PID: 7, UID: 8, Hidden: true} }},
		{"erased execution", Note, "", true, healthy, func(f *Facts) { f.Memory.Erasing = false }},
		{"time namespace", Failure, "unshared", false, healthy, func(f *Facts) { f.ClockErr = errors.New("unshared") }},
		{"time namespace", Note, "shifted by 1h0m0s", true, healthy, func(f *Facts) { f.ClockShift = time.Hour }},
	} {
		t.Run(c.check+" "+c.found, func(t *testing.T) {
			f := c.facts()
			c.spoil(f)
			list, worst := Findings(f)
			require.Equal(t, c.level, worst)
			for _, x := range list {
				if x.Check != c.check {
					require.Equal(t, OK, x.Level, "%s is not to blame", x.Check)
					continue
				}
				require.Equal(t, c.level, x.Level)
				require.Contains(t, x.Found, c.found)
				if !c.lasting {
					require.NotEmpty(t, x.Remedy)
				}
			}
		})
	}
}

// errOtherBoot is what the keyring says of a directory with another boot's epochs.
var errOtherBoot = fmt.Errorf("seal: %w", keyring.ErrOtherBoot)

// What is advised is what helps: nobody is told to give up tokens, or to start
// what runs, for another's fault.
func TestRemedies(t *testing.T) {
	for _, c := range []struct {
		check string
		facts func() *Facts
		spoil func(*Facts)
		want  string
	}{
		{"seal and open", behindAgent, func(f *Facts) { f.RoundTripErr = fmt.Errorf("reserving: %w", agent.ErrQuota) }, "raise its quota"},
		{"seal and open", healthy, func(f *Facts) { f.RoundTripErr = keyring.ErrFull }, "not imported"},
		{"seal and open", behindAgent, func(f *Facts) { f.RoundTripErr = agent.ErrRefused }, "log says why"},
		{"seal and open", healthy, func(f *Facts) { f.RoundTripErr = unix.EIO }, seeBelow},
		{"seal and open", healthy, func(f *Facts) { f.RoundTripErr = seal.ErrDefective }, "retire them all"},
		{"agent", behindAgent, func(f *Facts) { f.HolderErr = agent.ErrImpostor }, "its owner or its mode"},
		{"agent", behindAgent, func(f *Facts) { f.HolderErr = fmt.Errorf("%w: %w", agent.ErrAway, unix.EACCES) }, "mode 0666"},
		{"agent", behindAgent, func(f *Facts) { f.HolderErr = &fs.PathError{Op: "lstat", Path: "/x", Err: unix.EACCES} }, "search the directories"},
		{"agent", behindAgent, func(f *Facts) { f.HolderErr = fmt.Errorf("%w: %w", agent.ErrAway, unix.ECONNREFUSED) }, "start it"},
		{"keys", healthy, func(f *Facts) { f.Keys = nil }, "rotate"},
		{"keys", healthy, func(f *Facts) { f.Keys, f.RoundTripErr = nil, keyring.ErrNoSpace }, seeBelow},
		{"runtime directory", healthy, func(f *Facts) { f.DirErr = unix.EROFS }, "remount,rw"},
		{"runtime directory", healthy, func(f *Facts) { f.DirErr = unix.EACCES }, "mode 0700"},
		{"runtime directory", healthy, func(f *Facts) { f.Inodes = 0 }, "nr_inodes"},
		{"runtime directory", healthy, func(f *Facts) { f.KeysErr = errOtherBoot }, "fuser -v /run/sealctx/epoch-*"},
		{"runtime directory", healthy, func(f *Facts) { f.KeysErr = errOtherBoot }, keyring.DirVariable},
		{"runtime directory", healthy, func(f *Facts) { f.Free = 0 }, "size="},
	} {
		f := c.facts()
		c.spoil(f)
		list, _ := Findings(f)
		for _, x := range list {
			if x.Check == c.check {
				require.Contains(t, x.Remedy, c.want, x.Found)
				require.Equal(t, c.want == "retire them all", strings.Contains(x.Remedy, "retire"), x.Found)
				require.Equal(t, c.want == "start it", strings.Contains(x.Remedy, "start"), x.Found)
			}
		}
	}
}

// The runtime directory is looked at, and not only used: keys that are there hide
// that no others can be made.
func TestAskDir(t *testing.T) {
	dir := t.TempDir()
	var f Facts
	require.NoError(t, f.askDir(dir))
	require.NoError(t, f.DirErr)
	require.Positive(t, f.Free)
	require.ErrorIs(t, f.askDir(dir+"/none"), fs.ErrNotExist)
}

// Of a directory that this user cannot write, is mounted read-only, or has no
// inode left. Root, in mounts of its own.
func TestAskBadDir(t *testing.T) {
	apart.NeedRoot(t)
	if !apart.Run(t, func(cmd *exec.Cmd) { cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS} }) {
		return
	}
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount("tmpfs", "/mnt", "tmpfs", 0, "mode=0500,nr_inodes=2,size=1m"))
	var f Facts
	require.NoError(t, f.askDir("/mnt"))
	require.NoError(t, f.DirErr) // root can write it
	require.EqualValues(t, 1, f.Inodes)
	require.NoError(t, os.WriteFile("/mnt/file", nil, 0o600))
	require.NoError(t, f.askDir("/mnt"))
	require.Zero(t, f.Inodes)

	runtime.LockOSThread() // and do not unlock it: the thread ends with the test
	_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), apart.Nobody, ^uintptr(0))
	require.Zero(t, errno)
	require.NoError(t, f.askDir("/mnt"))
	require.ErrorIs(t, f.DirErr, unix.EACCES)
	_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
	require.Zero(t, errno)

	require.NoError(t, unix.Mount("", "/mnt", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	require.NoError(t, f.askDir("/mnt"))
	require.ErrorIs(t, f.DirErr, unix.EROFS)
}

// Without a holder nothing can be tried, and the line that says why is the
// failure; what does not hang on it is judged as ever.
func TestNoHolder(t *testing.T) {
	for check, f := range map[string]*Facts{"runtime directory": healthy(), "agent": behindAgent()} {
		f.HolderErr = fmt.Errorf("%w: not here", keyring.ErrNoDir)
		list, worst := Findings(f)
		require.Equal(t, Failure, worst)
		failed := []string{}
		for _, x := range list {
			if x.Level == Failure {
				failed = append(failed, x.Check)
				require.NotEmpty(t, x.Remedy)
			}
			if x.Check == check {
				require.Contains(t, x.Found, "not here")
			}
		}
		require.ElementsMatch(t, []string{"seal and open", check, "keys"}, failed)
	}
}

// What cannot be read is not called good.
func TestNoProc(t *testing.T) {
	f := healthy()
	f.MemoryErr = errors.New("no /proc")
	list, worst := Findings(f)
	require.Equal(t, Failure, worst)
	for _, x := range list {
		switch x.Check {
		case "memory lock limit":
			require.Equal(t, Failure, x.Level)
			require.Contains(t, x.Found, "no /proc")
			require.NotEmpty(t, x.Remedy)
		case "swap", "core dumps":
			require.Equal(t, Note, x.Level)
			require.Equal(t, "unknown", x.Found)
		}
	}
}

// Swap does not touch an agent's keys.
func TestAgentAndSwap(t *testing.T) {
	f := behindAgent()
	f.Memory.Swap = true
	_, worst := Findings(f)
	require.Equal(t, OK, worst)
}

func TestLevels(t *testing.T) {
	var names []string
	for l := OK; l <= Failure; l++ {
		b, err := l.MarshalText()
		require.NoError(t, err)
		names = append(names, string(b))
	}
	require.Equal(t, "ok note warning failure", strings.Join(names, " "))
}
