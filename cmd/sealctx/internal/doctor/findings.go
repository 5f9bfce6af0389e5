package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
	confine "github.com/sealctx/sealctx/seal/agent/sandbox"
)

// A Level says how bad a finding is.
type Level int

// The levels. A Note is a fact for the operator to decide about, not a fault.
const (
	OK Level = iota
	Note
	Warning
	Failure
)

func (l Level) String() string {
	return [...]string{"ok", "note", "warning", "failure"}[l]
}

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// A Finding is the outcome of one check.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Found  string `json:"found"`
	Means  string `json:"means"`            // for whoever does not know the check
	Remedy string `json:"remedy,omitempty"` // where something can be mended
}

// Thresholds, and why.
const (
	// smallLimit is where memsafe begins to make do with less memory than it
	// would like: half of the limit is a pool.
	smallLimit = 2 << 20

	// agentLimit is the same for an agent, which serves everybody.
	agentLimit = 8 << 20

	// littleSpace is room for two registers of the default capacity.
	littleSpace = 512 << 10

	// fewInodes is room for two epochs.
	fewInodes = 2

	// nearlyFull is the share of a limit, in percent, at which to look into it.
	nearlyFull = 80

	// manyEpochs leaves room for a few rotations by hand.
	manyEpochs = keyring.MaxEpochs - 4
)

// Findings judges the facts. The worst level is the host's.
func Findings(f *Facts) (list []Finding, worst Level) {
	list = []Finding{
		roundTrip(f), place(f), keys(f), memoryLock(f), lockedMemory(f), swap(f), coreDumps(f), ptrace(f), sandbox(f), erasure(f), clock(f), programs(f),
	}
	if f.WithAgent() {
		list = append(list, policy(f))
	}
	for _, x := range list {
		worst = max(worst, x.Level)
	}
	return list, worst
}

func roundTrip(f *Facts) Finding {
	x := Finding{Check: "seal and open", Means: "a token is sealed, opened, and found spent: what all the rest is for"}
	switch {
	case f.HolderErr != nil:
		x.Level, x.Found, x.Remedy = Failure, "could not be tried", seeBelow
	case f.RoundTripErr != nil:
		x.Level, x.Found, x.Remedy = Failure, f.RoundTripErr.Error(), toMend(f)
	default:
		x.Found = fmt.Sprintf("%d bytes in %v", probeSize, f.Took.Round(time.Microsecond))
	}
	return x
}

const seeBelow = "see the other lines"

// toMend is what to do about a round trip that failed. Nothing that costs tokens,
// where something else may help.
func toMend(f *Facts) string {
	switch err := f.RoundTripErr; {
	case errors.Is(err, agent.ErrQuota):
		return "find out which program of this user connects, or exports and is not imported, or raise its quota in the agent's policy and reload that"
	case errors.Is(err, keyring.ErrFull):
		return "find out who exports and is not imported, or shorten the lifetime of tokens"
	case errors.Is(err, seal.ErrDefective):
		return "try again; if it stays so the keys are damaged: retire them all, and with them every token under way (sealctx keyring retire --all)"
	case f.WithAgent():
		return seeBelow + "; if none is to blame, the agent's log says why (journalctl -u sealctx-agent)"
	}
	return seeBelow
}

func place(f *Facts) Finding {
	if f.WithAgent() {
		return theAgent(f)
	}
	x := Finding{Check: "runtime directory", Found: f.Holder, Means: "host keys and registers are files of a tmpfs that only this user can reach"}
	switch {
	case errors.Is(f.HolderErr, keyring.ErrUnsafeDir), errors.Is(f.HolderErr, keyring.ErrNoDir):
		x.Level, x.Found = Failure, f.HolderErr.Error()
		x.Remedy = "make a directory of mode 0700 for this user on a tmpfs, and name it in " + keyring.DirVariable
	case f.HolderErr != nil: // what it is, and how to mend it, is in the error
		x.Level, x.Found, x.Remedy = Failure, f.HolderErr.Error(), seeBelow
	case errors.Is(f.KeysErr, keyring.ErrOtherBoot):
		x.Level, x.Found = Failure, f.KeysErr.Error()
		x.Remedy = otherBoot(strings.TrimPrefix(f.Holder, "keyring "))
	case errors.Is(f.DirErr, unix.EROFS):
		x.Level, x.Found = Failure, f.Holder+" is mounted read-only"
		x.Remedy = "remount it (mount -o remount,rw), or name another directory in " + keyring.DirVariable + ": without it no new keys can be made"
	case f.DirErr != nil:
		x.Level, x.Found = Failure, fmt.Sprintf("%s cannot be written: %v", f.Holder, f.DirErr)
		x.Remedy = "make its mode 0700: without it no new keys can be made"
	case f.Inodes >= 0 && f.Inodes < fewInodes:
		x.Level, x.Found = Warning, fmt.Sprintf("%s: %d inodes free", f.Holder, f.Inodes)
		x.Remedy = "give the tmpfs more (mount -o remount,nr_inodes=...), or remove files: without it no new keys can be made"
	case f.Free < littleSpace:
		x.Level, x.Found = Warning, fmt.Sprintf("%s: %d KiB free", f.Holder, f.Free>>10)
		x.Remedy = "give the tmpfs more room (mount -o remount,size=...): without it no new keys can be made"
	}
	return x
}

// otherBoot is what to do about a directory with epochs of another boot. Only the
// operator can tell whether a process still uses them.
func otherBoot(dir string) string {
	return "in a container that shows a boot id of its own (cat /proc/sys/kernel/random/boot_id, here and on the host): give this user a directory that the host does not share, and name it in " +
		keyring.DirVariable + "; if the host has booted since, and " + dir + " is not on tmpfs: make sure, as root on the host, that no process uses the files (fuser -v " +
		dir + "/epoch-*), then remove them (rm " + dir + "/epoch-*)"
}

func theAgent(f *Facts) Finding {
	x := Finding{Check: "agent", Means: "one process holds the keys, behind a socket that only it or root could have made"}
	switch {
	case f.HolderErr != nil:
		x.Level, x.Found, x.Remedy = Failure, f.HolderErr.Error(), toReach(f.HolderErr)
	case f.Agent.Manager:
		x.Found = f.Holder + ", started by the service manager when asked"
	case f.Agent.Hidden:
		x.Found = f.Holder + ", a process that cannot be seen from here"
	default:
		x.Found = fmt.Sprintf("%s, process %d of user %d, %d KiB locked", f.Holder, f.Agent.PID, f.Agent.UID, f.Agent.Locked)
	}
	return x
}

// toReach is what to do about an agent that cannot be asked.
func toReach(err error) string {
	switch {
	case errors.Is(err, agent.ErrImpostor):
		return "mend what is named, its owner or its mode, before the agent is used: who can write there can put a socket of his own in its place"
	case errors.Is(err, fs.ErrPermission):
		return "give the socket mode 0666 (SocketMode=0666 in its unit), and let everybody search the directories above it (chmod a+x)"
	case errors.Is(err, agent.ErrAway):
		return "start it (sealctx agent, or systemctl start sealctx-agent.socket), or give the path of its socket"
	}
	return seeBelow
}

func keys(f *Facts) Finding {
	x := Finding{Check: "keys", Means: "an epoch is a host key and its register of outstanding tokens"}
	if f.HolderErr != nil || f.KeysErr != nil {
		x.Level, x.Found, x.Remedy = Failure, "unknown", seeBelow
		if f.KeysErr != nil {
			x.Found = f.KeysErr.Error()
		}
		return x
	}
	if f.KeysHidden {
		x.Level, x.Found = Note, "the agent tells only root and its own user"
		return x
	}
	tokens, room, share := 0, 0, 0
	for _, e := range f.Keys {
		tokens += e.Outstanding
		if e.Seals {
			room += e.Capacity
			share = max(share, 100*e.Outstanding/e.Capacity)
		}
	}
	x.Found = fmt.Sprintf("epochs alive: %d; tokens outstanding: %d; room for %d", len(f.Keys), tokens, room)
	switch {
	case room == 0 && f.RoundTripErr != nil: // that would have made one
		x.Level, x.Remedy = Failure, seeBelow
	case room == 0:
		x.Level, x.Remedy = Failure, "no epoch seals; rotate (sealctx keyring rotate)"
	case share >= nearlyFull:
		x.Level = Warning
		x.Remedy = "find out who exports and is not imported, shorten the lifetime of tokens, or allow more to be outstanding"
	case len(f.Keys) > manyEpochs:
		x.Level = Warning
		x.Remedy = fmt.Sprintf("rotate more seldom: beyond %d epochs rotation is refused until one has ended", keyring.MaxEpochs)
	}
	return x
}

func memoryLock(f *Facts) Finding {
	x := Finding{Check: "memory lock limit", Means: "how much memory a process may keep from being swapped; secrets live in nothing else"}
	const remedy = "raise it: LimitMEMLOCK=8M in the unit, memlock in /etc/security/limits.conf, --ulimit memlock= for a container"
	switch m := f.Memory; {
	case f.MemoryErr != nil:
		x.Level, x.Found, x.Remedy = Failure, f.MemoryErr.Error(), "this kernel or its /proc cannot be read; sealctx needs Linux with /proc"
	case f.agentSeen() && f.Agent.Limit >= 0 && f.Agent.Limit < agentLimit>>10 && f.Agent.UID != 0:
		x.Level, x.Found, x.Remedy = Warning, fmt.Sprintf("%d KiB for the agent: few requests at a time", f.Agent.Limit), remedy
	case m.Unlimited || m.Limit == ^uint64(0):
		x.Found = "none for this process"
	case m.Limit == 0:
		x.Level, x.Found, x.Remedy = Failure, "no memory can be locked", remedy
	case m.Limit < smallLimit:
		x.Level, x.Found, x.Remedy = Warning, fmt.Sprintf("%d KiB: few secrets at a time", m.Limit>>10), remedy
	default:
		x.Found = fmt.Sprintf("%d KiB", m.Limit>>10)
	}
	return x
}

func lockedMemory(f *Facts) Finding {
	x := Finding{Check: "locked memory", Found: f.Memory.Backing, Means: "what keeps keys: memfd_secret cannot be read by any other process, root's among them; memguard is locked and guarded memory"}
	switch f.Memory.Backing {
	case "memfd_secret":
	case "memguard":
		x.Level = Note
		x.Remedy = "for memfd_secret: Linux 6.5, or 5.14 booted with secretmem.enable=1, and no seccomp filter of a container against it"
	default:
		x.Level, x.Found, x.Remedy = Failure, "no memory can be locked", "raise the memory lock limit"
	}
	return x
}

func swap(f *Facts) Finding {
	x := Finding{Check: "swap", Found: "none", Means: "an epoch's page of tmpfs can be swapped out while no process has it mapped; an agent's keys cannot"}
	switch {
	case f.MemoryErr != nil:
		x.Level, x.Found, x.Remedy = Note, "unknown", seeBelow
	case f.Memory.Swap && f.WithAgent():
		x.Found = "there is some; the agent's keys are locked"
	case f.Memory.Swap:
		x.Level, x.Found = Warning, "there is some: a host key can reach the disk"
		x.Remedy = "swapoff, encrypted swap, a runtime directory on a tmpfs mounted with noswap (Linux 6.4), or the agent"
	}
	return x
}

func coreDumps(f *Facts) Finding {
	x := Finding{Check: "core dumps", Found: "this process can switch them off", Means: "a dump of a process that holds a context has its keys"}
	const piped = "kernel.core_pattern hands dumps to a program, which no limit stops"
	switch {
	case f.MemoryErr != nil:
		x.Level, x.Found, x.Remedy = Note, "unknown", seeBelow
	case f.Memory.Dumpable:
		x.Level, x.Found = Failure, "this process cannot switch them off"
		x.Remedy = "allow prctl(PR_SET_DUMPABLE) in the seccomp filter that is in force"
	case f.agentSeen() && !f.Agent.DumpUnknown && !f.Agent.Undumpable:
		x.Level, x.Found, x.Remedy = Warning, "the agent can be dumped", "run sealctx agent, which switches that off"
	case f.Memory.CorePiped && f.WithAgent():
		x.Level, x.Found = Note, piped+"; the agent is not dumped"
		x.Remedy = "call memsafe.Harden in programs that hold contexts"
	case f.Memory.CorePiped:
		x.Level, x.Found = Warning, piped
		x.Remedy = "call memsafe.Harden in programs that hold contexts, or set kernel.core_pattern to a plain name"
	}
	return x
}

func ptrace(f *Facts) Finding {
	x := Finding{Check: "ptrace", Means: "who may attach to a process and read its memory, unless it has switched that off (memsafe.Harden, sealctx agent)"}
	switch {
	case f.PtraceScope < 0:
		x.Found = "any process of the same user (no Yama)"
	case f.PtraceScope == 0:
		x.Found = "any process of the same user (kernel.yama.ptrace_scope is 0)"
	case f.PtraceScope == 1:
		x.Found = "only a process's parents"
		return x
	default:
		x.Found = "no unprivileged process"
		return x
	}
	x.Level, x.Remedy = Note, "call memsafe.Harden in programs that hold contexts, or set kernel.yama.ptrace_scope to 1"
	return x
}

func sandbox(f *Facts) Finding {
	x := Finding{Check: "sandbox", Means: "the agent gives up what it does not need: privileges to gain, files, programs to run, the network"}
	offers := fmt.Sprintf("Landlock %d and seccomp", f.LandlockABI)
	switch {
	case f.LandlockABI == 0 && !f.Seccomp:
		offers = "neither Landlock nor seccomp"
	case f.LandlockABI == 0:
		offers = "seccomp and no Landlock"
	case !f.Seccomp:
		offers = fmt.Sprintf("Landlock %d and no seccomp", f.LandlockABI)
	}
	whole := f.LandlockABI >= confine.MinLandlock && f.Seccomp
	switch {
	case !f.WithAgent() && whole:
		x.Found = "for an agent this kernel has " + offers
	case !f.WithAgent():
		x.Level, x.Found = Note, "for an agent this kernel has "+offers
		x.Remedy = "a kernel from Linux 6.2 on with CONFIG_SECURITY_LANDLOCK and CONFIG_SECCOMP_FILTER"
	case f.HolderErr != nil:
		x.Level, x.Found = Note, "unknown without an agent"
	case f.Agent.Manager:
		x.Level, x.Found = Note, "not to be seen behind the service manager's socket"
		x.Remedy = "look at the agent's own process: grep -E 'NoNewPrivs|Seccomp' /proc/PID/status"
	case f.Agent.Hidden:
		x.Level, x.Found = Note, "not to be seen from here (hidepid, or another process namespace)"
		x.Remedy = "run sealctx doctor on the host, as root"
	case !f.Agent.NoNewPrivs || !f.Agent.Seccomp:
		x.Level, x.Found = Warning, fmt.Sprintf("not in force in process %d; this kernel has %s", f.Agent.PID, offers)
		x.Remedy = "run the agent with --require-sandbox, on a kernel that has both"
	default:
		x.Found = fmt.Sprintf("in force in process %d: no new privileges, a filter of system calls", f.Agent.PID)
	}
	return x
}

func erasure(f *Facts) Finding {
	x := Finding{Check: "erased execution", Found: "in this build", Means: "registers and freed memory are erased too; it is for each program to be built so"}
	switch {
	case f.Memory.Erasing:
	case runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64":
		x.Level, x.Found = Note, "Go has none for "+runtime.GOARCH
	default:
		x.Level, x.Found = Note, "not in this build"
		x.Remedy = "build with GOEXPERIMENT=runtimesecret"
	}
	return x
}

func clock(f *Facts) Finding {
	x := Finding{Check: "time namespace", Found: "the host's", Means: "lifetimes are measured since boot, on a clock that a time namespace shifts"}
	switch {
	case f.ClockErr != nil:
		x.Level, x.Found = Failure, f.ClockErr.Error()
		x.Remedy = "run in the host's time namespace"
	case f.ClockShift != 0:
		x.Level, x.Found = Note, fmt.Sprintf("shifted by %v, and corrected", f.ClockShift)
	}
	return x
}
