package interop

import (
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/go-krb5/krb5/crypto"
	"github.com/go-krb5/krb5/crypto/common"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
)

// perturb makes glibc overwrite what is freed: mallopt's M_PERTURB
// alone misses the chunks that the thread cache takes.
const perturb = "GLIBC_TUNABLES=glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"

// sessionKey names the needle of the key itself; others are derived from it.
const sessionKey = "session key"

// needles are the session key of an aes256-cts-hmac-sha1-96 context, and the
// keys for encryption and integrity that RFC 4121 derives from it (usages 22
// to 25), with their AES schedules.
func needles(t *testing.T, key []byte) *memscan.Set {
	t.Helper()
	set := new(memscan.Set)
	set.Bytes(sessionKey, key)
	etype, err := crypto.GetEtype(18)
	require.NoError(t, err)
	for usage := uint32(22); usage <= 25; usage++ {
		for kind, constant := range map[string][]byte{
			"Ke": common.GetUsageKe(usage), "Ki": common.GetUsageKi(usage), "Kc": common.GetUsageKc(usage),
		} {
			derived, err := etype.DeriveKey(key, constant)
			require.NoError(t, err)
			name := fmt.Sprintf("%s(%d)", kind, usage)
			set.Bytes(name, derived)
			if kind == "Ke" {
				set.AES(name+" schedule", derived)
			}
		}
	}
	require.NoError(t, set.Err())
	return set
}

// remainder is what a scan found.
type remainder struct {
	key, derived int // places in memory with 16 bytes or more of it
	registers    int // threads that have some of either in registers
	where        []memscan.Hit
}

func (r remainder) String() string {
	return fmt.Sprintf("session key in %d places, keys derived from it in %d, registers of %d threads", r.key, r.derived, r.registers)
}

func scan(t *testing.T, p *proc, set *memscan.Set) remainder {
	t.Helper()
	report, err := memscan.Scan(p.pid(), set)
	require.NoError(t, err)
	require.GreaterOrEqual(t, report.Coverage(), memscan.MinCoverage, "%s", report)
	found := remainder{where: report.Hits}
	threads := map[int]bool{}
	for _, h := range report.Hits {
		switch {
		case h.Kind == memscan.Registers:
			threads[h.Task] = true
		case h.Needle == sessionKey:
			found.key++
		default:
			found.derived++
		}
	}
	found.registers = len(threads)
	return found
}

// TestMemoryOfWrappedLibrary measures how much of a context a C library leaves
// in the exporting process. The C heap is the library's: sealctx promises
// nothing of it, and prints what it finds. Held to is this: with glibc's
// perturbation a sealed export leaves no session key in memory. What the
// library's memcpy last moved stands in registers that an idle thread keeps, and
// which those are depends on the processor. The live context is one control, a
// process that keeps a copy of the plain token is the other.
func TestMemoryOfWrappedLibrary(t *testing.T) {
	for _, library := range libraries {
		for _, sealed := range []bool{true, false} {
			for _, env := range []string{"", perturb} {
				name := fmt.Sprintf("library=%s/sealed=%t/perturbed=%t", library, sealed, env != "")
				t.Run(name, func(t *testing.T) {
					var args []string
					if !sealed {
						args = append(args, "-plain")
					}
					if !sealed || env == "" {
						leftAfter(t, library, env, args...)
						return
					}
					requireSomeRunClean(t, func() remainder { return leftAfter(t, library, env) })
					_, leaked := memoryAfterExport(t, library, env, "-leak")
					require.Positive(t, leaked.key, "one kept copy of the plain token was not found")
				})
			}
		}
	}
}

// leftAfter scans an exporter's memory once and prints what it finds.
func leftAfter(t *testing.T, library maker, env string, args ...string) remainder {
	t.Helper()
	live, left := memoryAfterExport(t, library, env, args...)
	require.Positive(t, live.key, "the live context's key was not found: the scan shows nothing")
	t.Logf("live: %v; after export: %v", live, left)
	return left
}

// requireSomeRunClean tells a copy that somebody keeps, which is there in every
// run, from registers that the Go runtime saved to its heap when it preempted a
// thread in the wrong moment, which is there in some.
func requireSomeRunClean(t *testing.T, run func() remainder) {
	t.Helper()
	var left remainder
	for range 4 {
		if left = run(); left.key == 0 {
			return
		}
	}
	require.Zero(t, left.key, "in each of 4 runs; in the last in %v", left.where)
}

// TestMemoryOfOwnMechanism shows that sealctx's own mechanism leaves nothing of
// an exported context, neither its session key nor a key derived from it. The
// live context's key may lie where the kernel lets nobody look, and does not
// travel; so the keys that are derived from it are one control, and a process
// that keeps a copy of the plain token is the other.
func TestMemoryOfOwnMechanism(t *testing.T) {
	live, left := memoryAfterExport(t, golang, "")
	require.Positive(t, live.derived, "the live context was not found: the scan shows nothing")
	t.Logf("live: %v; after export: %v", live, left)
	require.Empty(t, left.where)

	_, leaked := memoryAfterExport(t, golang, "", "-leak")
	require.Positive(t, leaked.key+leaked.derived, "one kept copy of the plain token was not found")
}

// memoryAfterExport scans a node that holds a context, and again after it has
// exported and collected garbage.
func memoryAfterExport(t *testing.T, library maker, tunables string, args ...string) (live, left remainder) {
	t.Helper()
	env := sealerEnv(t)
	if tunables != "" {
		env = append(env, tunables)
	}
	path := buildNode(t, library) // without the race detector, which keeps shadows
	a, b := node(t, path, "exporter", env, args...), node(t, path, "importer", env, args...)
	peer := cpeer(t, mit)
	establish(t, peer, a, "e18@localhost", allFlags)
	serve := func(holder *proc, first int) {
		t.Helper()
		const messages = 30
		streamed := peer.send("stream", first, messages, 4)
		holder.do("serve", first, messages)
		_, err := streamed()
		require.NoError(t, err)
	}
	serve(a, 0)
	key, err := hex.DecodeString(peer.do("key"))
	require.NoError(t, err)
	set := needles(t, key)
	live = scan(t, a, set)
	hand(t, a, b)
	a.do("collect")
	left = scan(t, a, set)
	serve(b, 30)
	now := scan(t, b, set)
	require.Positive(t, now.key+now.derived, "the importer holds the keys now")
	return live, left
}
