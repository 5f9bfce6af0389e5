package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/chacha20"
	"golang.org/x/sys/unix"
)

// schedules is for how many tokens of a victim the key's AES schedule is looked
// for: each is some hundred windows that take their time to make.
const schedules = 20

// keyOffset is where the host key stands in an epoch's file.
const keyOffset = 512

// A scanned is one victim, scanned at its end.
type scanned struct {
	*memscan.Report
	dir   string
	holds bool
	inUse uint64 // locked memory that was not given back
}

// keyPages are the addresses of the pages that may hold the host key: the first
// of an epoch's file.
func (s *scanned) keyPages() map[uint64]bool {
	pages := map[uint64]bool{}
	for _, h := range s.Hits {
		if strings.HasPrefix(h.Mapping.Name, s.dir) && h.Page() == h.Mapping.Start {
			pages[h.Page()] = true
		}
	}
	return pages
}

// leaks are the hits that break the promise.
func (s *scanned) leaks() []memscan.Hit {
	pages := s.keyPages()
	return s.Where(func(h memscan.Hit) bool {
		if s.holds && h.Needle == "plain" {
			return false
		}
		return h.Needle != "host key" || !pages[h.Page()] || h.Kind == memscan.Registers
	})
}

// victim runs a case over an epoch that the test knows the key of, and scans it
// for whatever the test can derive from that key.
func victim(t *testing.T, c *victimCase, st suite.Suite, ops int, o memscan.Options) *scanned {
	t.Helper()
	dir := shmDir(t) + "/ring"
	h := dirHost(t, dir, &keyring.Options{Suite: st})
	var set memscan.Set
	_ = current(t, h) // makes the epoch; the victim finds it by its name
	file, err := os.ReadFile(epochFiles(t, dir)[0])
	require.NoError(t, err)
	key := file[keyOffset : keyOffset+32]
	set.Bytes("host key", key)
	set.HMAC("host key", sha256.New, key)

	var tokens [][]byte
	if c.opens {
		for range ops {
			plain := randomBytes(victimPlain)
			set.Bytes("plain", plain)
			tokens = append(tokens, sealToken(t, h, testRequest, plain))
		}
	}
	path := filepath.Join(shmDir(t), "tokens")
	require.NoError(t, writeTokens(path, tokens))
	o.Env = append(o.Env, dirVar+"="+dir, tokensVar+"="+path, caseVar+"="+c.name, fmt.Sprintf("%s=%d", opsVar, ops))
	if c.env != "" {
		o.Env = append(o.Env, "GODEBUG=asyncpreemptoff=1,"+c.env)
	}
	tg := memscan.Start(t, "seal", &o)
	tg.At("done")
	for i, b := range tokens {
		if c.alter != nil {
			b = bytes.Clone(b)
			c.alter(b)
		}
		parsed, err := token.Parse(b)
		require.NoError(t, err)
		tokenNeedles(t, &set, st, i < schedules, key, parsed.Bound, parsed.Sealed[:token.NonceSize])
		if original := tokens[i][:len(parsed.Bound)]; !bytes.Equal(parsed.Bound, original) {
			// No token holds the commitment of this header.
			enc, err := hkdf.Expand(sha256.New, key, token.EncLabel+string(parsed.Bound), token.KeySize)
			require.NoError(t, err)
			com := sha256.Sum256(append([]byte(token.ComLabel), enc...))
			hashNeedles(&set, "K_com", com[:])
		}
	}
	for i, start := range handedOver(tg, "start", c.hands&handsStart != 0) {
		tokenNeedles(t, &set, st, i < schedules, key, start[:len(start)-token.CommitmentSize], nil)
	}
	for _, plain := range handedOver(tg, "plain", c.hands&handsPlain != 0) {
		set.Bytes("plain", plain)
	}
	if memsafe.Erasing {
		tg.Collect(1)
	}
	r := tg.Scan(&set)
	tg.Resume()
	tg.Wait()
	return &scanned{r, dir, c.holds, tg.Value("in use")}
}

// handedOver returns all needles that a victim has handed over under a name.
func handedOver(tg *memscan.Target, name string, any bool) (all [][]byte) {
	if !any {
		return nil
	}
	for i := range tg.Value(name) {
		all = append(all, tg.Secret(fmt.Sprint(name, i+1)))
	}
	return all
}

// tokenNeedles adds what is made of the host key for one token: the key of its
// body in each form that SHA-256 has it in, the inner hashes, what the ciphers
// make of the key. Labels and information stand in clear.
func tokenNeedles(t *testing.T, set *memscan.Set, st suite.Suite, schedule bool, key, bound, nonce []byte) {
	enc, err := hkdf.Expand(sha256.New, key, token.EncLabel+string(bound), token.KeySize)
	require.NoError(t, err)
	hashNeedles(set, "K_enc", enc)
	pad := make([]byte, sha256.BlockSize)
	copy(pad, key)
	for i := range pad {
		pad[i] ^= 0x36
	}
	inner := sha256.Sum256(append(append(append(pad, token.EncLabel...), bound...), 1))
	hashNeedles(set, "HMAC inner hash", inner[:])
	if st == suite.AES256GCM && schedule {
		set.AES("K_enc", enc)
	}
	if st == suite.ChaCha20Poly1305 && nonce != nil {
		c, err := chacha20.NewUnauthenticatedCipher(enc, nonce)
		require.NoError(t, err)
		poly := make([]byte, 32)
		c.XORKeyStream(poly, poly)
		set.Bytes("Poly1305 key", poly)
	}
}

// hashNeedles adds a SHA-256 sum as it is, as words of this machine, and as the
// registers of the SHA instructions hold it.
func hashNeedles(set *memscan.Set, name string, sum []byte) {
	set.Bytes(name, sum)
	var words [8][]byte
	for i := range words {
		words[i] = binary.NativeEndian.AppendUint32(nil, binary.BigEndian.Uint32(sum[4*i:]))
	}
	join := func(order ...int) (b []byte) {
		for _, i := range order {
			b = append(b, words[i]...)
		}
		return b
	}
	set.Bytes(name+", words", join(0, 1, 2, 3, 4, 5, 6, 7))
	set.Bytes(name+", registers", join(5, 4, 1, 0))
	set.Bytes(name+", registers", join(7, 6, 3, 2))
}

// quiet is a process without the signals that the runtime sends itself: what is
// found in it is kept by our own objects, buffers and frames, and not by a
// register that a signal saved.
func quiet() memscan.Options {
	return memscan.Options{Env: []string{"GODEBUG=asyncpreemptoff=1"}}
}

// After each operation nothing of it is in the process outside the host key's
// own page. Idle; TestLeftUnderLoad has the other half.
func TestLeavesNothing(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		for i := range victimCases {
			c := &victimCases[i]
			if c.suite != 0 && c.suite != st {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				o := quiet()
				if memsafe.Erasing && c.env == "" {
					o.Env = nil // signals and all
				}
				s := victim(t, c, st, max(c.ops, 6), o)
				leaks := s.leaks()
				if !memsafe.Erasing {
					leaks = s.inMemory(leaks)
				}
				if c.leaks != nil {
					for _, name := range c.leaks {
						require.NotEmpty(t, s.Of(name), "the scanner must see a leaked %s", name)
					}
					return
				}
				require.Empty(t, leaks, "%v", s.Report)
				if !c.holds {
					require.Zero(t, s.inUse, "locked memory not given back")
				}
				// The host key is there to be found where it belongs: in one
				// page, or nowhere once its epoch is gone.
				if c.keyGone {
					require.Empty(t, s.keyPages(), "host key in a page of its epoch")
				} else {
					require.Len(t, s.keyPages(), 1)
				}
			})
		}
	})
}

// The same on processors without the instructions of this one, where other code
// of the standard library does the work. Options of GODEBUG that a processor or
// an architecture does not know change nothing.
func TestLeavesNothingElsewhere(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		for _, without := range []string{"cpu.sha=off", "cpu.sha=off,cpu.avx2=off", "cpu.aes=off,cpu.pclmulqdq=off", "cpu.all=off"} {
			for _, name := range []string{"seal", "open", "open altered body", "cancel"} {
				t.Run(without+" "+name, func(t *testing.T) {
					i := slices.IndexFunc(victimCases, func(c victimCase) bool { return c.name == name })
					c := victimCases[i]
					c.env = without
					s := victim(t, &c, st, 6, quiet())
					leaks := s.leaks()
					if !memsafe.Erasing {
						leaks = s.inMemory(leaks)
					}
					require.Empty(t, leaks, "%v", s.Report)
				})
			}
		}
	})
}

func (s *scanned) inMemory(hits []memscan.Hit) (in []memscan.Hit) {
	for _, h := range hits {
		if h.Kind != memscan.Registers {
			in = append(in, h)
		}
	}
	return in
}

// While others allocate, collect garbage and send signals: nothing in an erased
// build; in a plain one the rate at which pieces stay is measured and reported.
func TestLeftUnderLoad(t *testing.T) {
	runs := 5
	if underRace || testing.Short() {
		runs = 1
	}
	var report strings.Builder
	fmt.Fprintf(&report, "erased build: %t; victims that kept a piece, of %d each:\n", memsafe.Erasing, runs)
	suites(t, func(t *testing.T, st suite.Suite) {
		for _, i := range []int{0, 1} { // seal, open
			c := &victimCases[i]
			for _, load := range []struct {
				name string
				o    memscan.Options
			}{
				{"idle", memscan.Options{}},
				{"collecting, 5,000 signals a second", memscan.Options{Collectors: 2, Signal: syscall.SIGURG, Rate: 5000}},
			} {
				memory, registers, needles := 0, 0, map[string]int{}
				for run := range runs {
					t.Run(fmt.Sprintf("%s %s %d", c.name, load.name, run), func(t *testing.T) {
						s := victim(t, c, st, 100, load.o)
						leaks := s.leaks()
						in := s.inMemory(leaks)
						require.Zero(t, s.inUse, "locked memory not given back")
						memory += min(1, len(in))
						registers += min(1, len(leaks)-len(in))
						for _, h := range leaks {
							needles[h.Needle]++
						}
						if memsafe.Erasing {
							require.Empty(t, leaks, "%v", s.Report)
						}
					})
				}
				fmt.Fprintf(&report, "%-17v %-5s %-35s in memory %d, in registers %d %v\n", st, c.name, load.name, memory, registers, needles)
			}
		}
	})
	t.Log(report.String())
	require.NoError(t, os.WriteFile(filepath.Join(t.ArtifactDir(), "leak-rate.txt"), []byte(report.String()), 0o600))
}

// A core dump of everything that the kernel can be made to dump holds nothing of
// the host key: its page is marked to be left out. Where this process may raise
// the limit on dumps again, which memguard has set to zero, there is one to look
// through as well.
func TestCoreDump(t *testing.T) {
	dir := shmDir(t) + "/ring"
	h := dirHost(t, dir, nil)
	_ = current(t, h)
	file, err := os.ReadFile(epochFiles(t, dir)[0])
	require.NoError(t, err)
	path := filepath.Join(shmDir(t), "tokens")
	require.NoError(t, writeTokens(path, nil))
	o := quiet()
	o.DumpDir = t.TempDir()
	o.Env = append(o.Env, dirVar+"="+dir, tokensVar+"="+path, caseVar+"=control", opsVar+"=1")
	tg := memscan.Start(t, "seal", &o)
	tg.At("done")
	everything := []byte("0x1ff\n") // core(5): each kind of mapping, with a file behind it too
	require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/coredump_filter", tg.PID()), everything, 0))
	var set, control memscan.Set
	set.Bytes("host key", file[keyOffset:keyOffset+32])
	control.Bytes("plain", handedOver(tg, "plain", true)[0])

	hits := tg.Scan(&set).InMemory()
	require.NotEmpty(t, hits)
	for _, h := range hits {
		require.True(t, leftOut(t, tg.PID(), h.Addr), "%v", h)
	}
	hits = tg.Scan(&control).InMemory()
	require.NotEmpty(t, hits)
	for _, h := range hits {
		require.False(t, leftOut(t, tg.PID(), h.Addr), "the control is in ordinary memory: %v", h)
	}

	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(tg.PID(), unix.RLIMIT_CORE, &unlimited, nil); err != nil {
		t.Logf("no dump to look through: RLIMIT_CORE of the victim: %v", err)
		return
	}
	dump := tg.Dump()
	hits, err = memscan.File(dump, &set)
	require.NoError(t, err)
	require.Empty(t, hits)
	hits, err = memscan.File(dump, &control)
	require.NoError(t, err)
	require.NotEmpty(t, hits)
}

// leftOut reads the kernel's flags of the mapping that holds an address: "dd" is
// one that core dumps leave out.
func leftOut(t testing.TB, pid int, addr uint64) bool {
	t.Helper()
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	require.NoError(t, err)
	inside := false
	for line := range strings.Lines(string(smaps)) {
		var start, end uint64
		if n, _ := fmt.Sscanf(line, "%x-%x ", &start, &end); n == 2 {
			inside = start <= addr && addr < end
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return slices.Contains(strings.Fields(flags), "dd")
		}
	}
	t.Fatalf("no mapping of %#x", addr)
	return false
}
