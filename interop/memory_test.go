package interop

import (
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/crypto/common"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
)

// perturb makes glibc overwrite what is freed. FINDINGS: mallopt's M_PERTURB
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
	key, derived int            // places with 16 bytes or more of it
	where        []memscan.Kind // of the session key
}

func scan(t *testing.T, p *proc, set *memscan.Set) remainder {
	t.Helper()
	report, err := memscan.Scan(p.pid(), set)
	require.NoError(t, err)
	require.GreaterOrEqual(t, report.Coverage(), memscan.MinCoverage, "%s", report)
	keys := report.Of(sessionKey)
	r := remainder{key: len(keys), derived: len(report.Hits) - len(keys)}
	for _, h := range keys {
		r.where = append(r.where, h.Kind)
	}
	return r
}

// TestMemoryOfWrappedLibrary measures how much of a context a C library leaves
// in the exporting process. The C heap is the library's: sealctx promises
// nothing of it, and prints what it finds. Held to is this: with glibc's
// perturbation a sealed export leaves no session key. The scan of the live
// context is the control; the bare provider's export, which leaves the token
// to the collector, is another.
func TestMemoryOfWrappedLibrary(t *testing.T) {
	for _, library := range makers {
		for _, sealed := range []bool{true, false} {
			for _, env := range []string{"", perturb} {
				name := fmt.Sprintf("library=%s/sealed=%t/perturbed=%t", library, sealed, env != "")
				t.Run(name, func(t *testing.T) {
					live, left := memoryAfterExport(t, library, sealed, env)
					require.Positive(t, live.key, "the live context's key was not found: the scan shows nothing")
					t.Logf("live: %d places with the session key, %d with keys derived from it; after export: %d and %d",
						live.key, live.derived, left.key, left.derived)
					if sealed && env != "" {
						require.Zero(t, left.key, "in %v", left.where)
					}
				})
			}
		}
	}
}

// memoryAfterExport scans a node that holds a context, and again after it has
// exported and collected garbage.
func memoryAfterExport(t *testing.T, library maker, sealed bool, tunables string) (live, left remainder) {
	t.Helper()
	var args []string
	if !sealed {
		args = append(args, "-plain")
	}
	env := sealerEnv(t)
	if tunables != "" {
		env = append(env, tunables)
	}
	path := buildNode(t, library) // without the race detector, which keeps shadows
	a, b := node(t, path, "exporter", env, args...), node(t, path, "importer", env, args...)
	peer := cpeer(t, mit)
	establish(t, peer, a, "e18@localhost", allFlags)
	const messages = 30
	for i, holder := range []*proc{a, b} {
		streamed := peer.send("stream", i*messages, messages, 4)
		holder.do("serve", i*messages, messages)
		_, err := streamed()
		require.NoError(t, err)
		if i > 0 {
			break
		}
		key, err := hex.DecodeString(peer.do("key"))
		require.NoError(t, err)
		set := needles(t, key)
		live = scan(t, a, set)
		hand(t, a, b)
		a.do("collect")
		left = scan(t, a, set)
		require.Positive(t, scan(t, b, set).key, "the importer holds the key now")
	}
	return live, left
}
