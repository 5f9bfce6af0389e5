package seal

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
)

// A wipe is one place of our own code that erases. The tests of this package are
// built from a copy of the source in which each such line can be told to do
// nothing, and then TestLeavesNothing must fail.
type wipe struct {
	file string // from the module's root
	line string // as it stands there, trimmed
	nth  int    // of those that are alike in the file, from zero
	test string // the case of TestLeavesNothing that misses it, "suite/case"
	find string // a part of the name of a needle that is found then

	// plain: only a plain build misses it. In one with
	// GOEXPERIMENT=runtimesecret the runtime erases the same bytes.
	plain bool

	// spare says why nothing is found without the line: which other code erases the
	// same bytes. A test, if one is named, passes without the line.
	spare string
}

const (
	gcm    = "AES-256-GCM/"
	chacha = "ChaCha20-Poly1305/"
)

// wipes are all lines that erase, in the packages that a sealed token goes
// through. TestEveryWipeListed holds the list to the source.
var wipes = []wipe{
	{file: "memsafe/do_plain.go", line: "scrubStack()", test: gcm + "seal", find: "K_enc", plain: true},
	{file: "memsafe/secret.go", line: "clear(b)", test: gcm + "open", find: "plain"},
	{file: "memsafe/secret.go", line: "Wipe(p.mem.bytes()[s.off : s.off+s.room])", test: chacha + "open", find: "plain"},
	{file: "memsafe/secret.go", line: "Wipe(b[n:])", test: gcm + "open and hold",
		spare: "what Host cuts off is padding; Secret.Wipe erases the whole room"},
	{file: "memsafe/pool.go", line: "Wipe(p.mem.bytes())", test: gcm + "closed",
		spare: "the pages are given back to the kernel, and memguard wipes its own"},
	{file: "memsafe/region.go", line: "Wipe(b)",
		spare: "takes every page of a new region, so that a lack of memory shows there; nothing is in it yet"},

	{file: "keyring/derive.go", line: "clear(inner[:])", test: gcm + "open",
		spare: "a variable inside memsafe.Do, which erases the stack"},
	{file: "keyring/derive.go", line: "clear(outer[:])", test: gcm + "open",
		spare: "a variable inside memsafe.Do, which erases the stack"},
	{file: "keyring/derive.go", line: "memsafe.Wipe(buf)", test: chacha + "cancel", find: "K_enc"},
	{file: "keyring/epoch.go", line: "memsafe.Wipe(e.record.key())", test: gcm + "retired under way", find: "host key"},
	{file: "keyring/file.go", line: "_ = guard(func() error { memsafe.Wipe(m.record().bytes()); return nil })",
		spare: "a file that got no name: its pages go with the mapping; nobody has sealed under the key"},
	{file: "keyring/held.go", line: "func (h held) free() error { h.secret.Wipe(); return nil }",
		spare: "retirement has zeroed the key before; gives the memory back"},
	{file: "keyring/held.go", line: "secret.Wipe()",
		spare: "an epoch that was not made: nobody has sealed under the key; gives the memory back"},

	{file: "seal/reserve.go", line: "key.Wipe()", test: gcm + "retired under way", find: "locked memory not given back"},
	{file: "seal/open.go", line: "plain.Wipe()", nth: 0, test: gcm + "open twice", find: "plain"},
	{file: "seal/open.go", line: "plain.Wipe()", nth: 1, test: chacha + "open altered body", find: "locked memory not given back"},
	{file: "seal/reservation.go", line: "r.grant.Key.Wipe()", test: gcm + "seal", find: "K_enc"},
	{file: "seal/status.go", line: "plain.Wipe()", test: gcm + "ask for the status", find: "plain"},

	{file: "internal/token/pad.go", line: "clear(body[n:])", spare: "writes the padding; erases nothing"},
	{file: "internal/token/crypt.go", line: "clear(in[:])", test: gcm + "open",
		spare: "a variable inside memsafe.Do, which erases the stack"},
	{file: "internal/token/crypt.go", line: "clear(com[:])", test: gcm + "cancel with altered header",
		spare: "a variable inside memsafe.Do, which erases the stack"},
	{file: "internal/token/crypt.go", line: "clear(sum[:])", test: gcm + "open",
		spare: "what stands in the token, and a variable inside memsafe.Do"},
	{file: "internal/token/crypt.go", line: "memsafe.Wipe(body)", test: chacha + "suite forbidden", find: "plain"},
	{file: "internal/token/crypt.go", line: "defer aead.Wipe()", nth: 0, test: gcm + "seal", find: "AES round keys", plain: true},
	{file: "internal/token/crypt.go", line: "defer aead.Wipe()", nth: 1, test: chacha + "open", find: "K_enc", plain: true},
	{file: "internal/token/crypt.go", line: "memsafe.Wipe(dst)", test: gcm + "open altered body",
		spare: "both AEADs zero what they do not authenticate, and Host wipes dst; what is left is an authentic body badly padded"},
	{file: "internal/suite/suite.go", line: "wipe.Object(block)",
		spare: "a cipher that AES-GCM refuses, which takes a library that changed under us"},
	{file: "internal/suite/suite.go", line: "wipe.Object(a.AEAD)", test: chacha + "seal", find: "K_enc", plain: true},
	{file: "internal/suite/suite.go", line: "wipe.Object(a.block)", test: gcm + "open", find: "AES round keys", plain: true},
	{file: "internal/wipe/wipe.go", line: "memsafe.Wipe(unsafe.Slice((*byte)(data), size))", test: gcm + "seal", find: "AES round keys", plain: true},
}

// growth is no wipe, but it stands for one: without it a stack that grows inside
// memsafe.Do leaves its first half where it was.
var growth = wipe{file: "memsafe/do_plain.go", line: "growStack(false)", test: gcm + "work in new goroutines", find: "plain", plain: true}

// A place is a line that erases, in the source.
type place struct {
	file, line string
	nth        int
}

func (w *wipe) place() place { return place{w.file, w.line, w.nth} }

// erasers matches the calls that erase.
var erasers = regexp.MustCompile(`\b(Wipe|wipe|wipe\.Object|clear|scrubStack)\(`)

// sources are the packages whose wipes are listed.
var sources = []string{"memsafe", "keyring", "seal", "internal/token", "internal/suite", "internal/wipe"}

// places finds the lines that erase in a source file.
func places(name, source string) map[place]bool {
	found := map[place]bool{}
	for line := range strings.Lines(source) {
		line = strings.TrimSpace(line)
		definition := strings.HasPrefix(line, "func ") && strings.HasSuffix(line, "{")
		if !erasers.MatchString(line) || strings.HasPrefix(line, "//") || definition {
			continue
		}
		p := place{file: name, line: line}
		for found[p] {
			p.nth++
		}
		found[p] = true
	}
	return found
}

// sourceFiles reads the files of the packages, without their tests.
func sourceFiles(t testing.TB) map[string]string {
	t.Helper()
	root := moduleRoot(t)
	files := map[string]string{}
	for _, dir := range sources {
		names, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, names)
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			b, err := os.ReadFile(name)
			require.NoError(t, err)
			short, err := filepath.Rel(root, name)
			require.NoError(t, err)
			files[short] = string(b)
		}
	}
	return files
}

func moduleRoot(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// A wipe that is added gets a control, and one that is dropped loses it.
func TestEveryWipeListed(t *testing.T) {
	listed := map[place]bool{}
	for _, w := range wipes {
		require.False(t, listed[w.place()], "%+v is listed twice", w.place())
		listed[w.place()] = true
	}
	found := map[place]bool{}
	for name, source := range sourceFiles(t) {
		for p := range places(name, source) {
			found[p] = true
			if !listed[p] {
				t.Errorf("%s: %s (%d) has no entry in the list of wipes", p.file, p.line, p.nth)
			}
		}
	}
	for p := range listed {
		if !found[p] {
			t.Errorf("%s: %s (%d) is listed and not there", p.file, p.line, p.nth)
		}
	}
	// The control: the search sees calls that are not in the list.
	require.Len(t, places("x.go", "func f() {\n\tdefer key.Wipe()\n\t// Wipe(b)\n\tclear(b)\n\tclear(b)\n}\n"), 3)
}

// spareVar tells a build of sparing which line does nothing.
const spareVar = "SEALCTX_SEAL_TEST_SPARE"

// id names a wipe in that variable.
func (w *wipe) id() string { return fmt.Sprintf("%s:%s:%d", w.file, w.line, w.nth) }

// guarded is the source with each of the lines under a condition.
func guarded(name, source string) string {
	var out strings.Builder
	seen := map[string]int{}
	for line := range strings.Lines(source) {
		trimmed := strings.TrimSpace(line)
		for _, w := range append([]wipe{growth}, wipes...) {
			if w.test != "" && w.place() == (place{name, trimmed, seen[trimmed]}) {
				line = fmt.Sprintf("if !spared(%q) { %s }\n", w.id(), trimmed)
				if trimmed == "scrubStack()" {
					line = "scrubSome()\n"
				}
			}
		}
		seen[trimmed]++
		out.WriteString(line)
	}
	return out.String()
}

// sparing builds the tests of this package from guarded source. Its locked memory is
// memguard's, since no process can read memory of memfd_secret.
func sparing(t testing.TB) string {
	t.Helper()
	root, dir := moduleRoot(t), t.TempDir()
	replace := map[string]string{}
	put := func(name, source string) {
		path := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		require.NoError(t, os.WriteFile(path, []byte(source), 0o600))
		replace[filepath.Join(root, name)] = path
	}
	for name, source := range sourceFiles(t) {
		if changed := guarded(name, source); changed != source {
			put(name, changed)
		}
	}
	for _, pkg := range sources {
		put(pkg+"/spared.go", fmt.Sprintf(sparedSource, filepath.Base(pkg), spareVar))
	}
	put("memsafe/memfd.go", withoutSecretMemory)
	if !memsafe.Erasing {
		put("memsafe/scrub_spared.go", scrubSource())
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	put("overlay.json", string(list))
	binary := filepath.Join(dir, "seal.test")
	cmd := exec.Command("go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, "./seal")
	cmd.Dir = root
	if memsafe.Erasing {
		cmd.Env = append(os.Environ(), "GOEXPERIMENT=runtimesecret")
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return binary
}

const sparedSource = `package %s

import "os"

var spare = os.Getenv(%q)

func spared(id string) bool { return id == spare }
`

// scrubDepths are the bytes of stack that can be erased instead of scrubStack's;
// zero is none.
var scrubDepths = []int{0, 256, 512, 1024, 2048}

// scrubSource is scrubSome, which stands for scrubStack.
func scrubSource() string {
	var cases, functions strings.Builder
	for _, n := range scrubDepths {
		fmt.Fprintf(&cases, "case \"scrub %d\": scrub%d()\n", n, n)
		fmt.Fprintf(&functions, "//go:noinline\nfunc scrub%d() {\n\tvar frame [%d]byte\n\ttouch(frame[:])\n}\n\n", n, max(n, 1))
	}
	return "package memsafe\n\nfunc scrubSome() {\n\tswitch spare {\n" + cases.String() +
		"case " + strconv.Quote(wipes[0].id()) + ":\ndefault: scrubStack()\n\t}\n}\n\n" + functions.String()
}

const withoutSecretMemory = `package memsafe

import "golang.org/x/sys/unix"

func memfdSecret() (int, error) { return -1, unix.ENOSYS }
`

// leavesNothing runs cases of TestLeavesNothing, or all, without one wipe.
func leavesNothing(t testing.TB, binary, test, spare string) (out string, passed bool) {
	t.Helper()
	pattern := "^TestLeavesNothing$"
	for part := range strings.SplitSeq(test, "/") {
		if part != "" {
			pattern += "/^" + strings.ReplaceAll(part, " ", "_") + "$"
		}
	}
	cmd := exec.Command(binary, "-test.v", "-test.run", pattern)
	cmd.Env = append(os.Environ(), spareVar+"="+spare)
	b, err := cmd.CombinedOutput()
	out = string(b)
	require.Equal(t, err != nil, strings.Contains(out, "--- FAIL"), "%s", out)
	if test != "" {
		require.Contains(t, out, "=== RUN   TestLeavesNothing/"+strings.ReplaceAll(test, " ", "_"))
	}
	return out, err == nil
}

// The control of TestLeavesNothing: it fails without each wipe of our own code in turn.
// The wipes with a second line behind them are the exception.
func TestEveryWipeIsMissed(t *testing.T) {
	if underRace {
		return // what it builds is without the race detector either way
	}
	binary := sparing(t)
	out, passed := leavesNothing(t, binary, "", "none")
	require.True(t, passed, "with all wipes in place: %s", out)
	for _, w := range append([]wipe{growth}, wipes...) {
		if w.test == "" || w.file == growth.file && memsafe.Erasing {
			continue // not in this build
		}
		t.Run(w.id(), func(t *testing.T) {
			out, passed := leavesNothing(t, binary, w.test, w.id())
			if w.spare != "" || w.plain && memsafe.Erasing {
				require.True(t, passed, "%s", out)
				return
			}
			require.False(t, passed, "nobody misses it")
			require.Contains(t, out, w.find)
		})
	}
}

// How deep the secrets of sealing and opening reach below memsafe.Do, in a plain
// build: erasing half of what Do erases must be enough, and too little must not.
func TestScrubDepth(t *testing.T) {
	if memsafe.Erasing || underRace {
		return // Do is runtime/secret.Do, which erases what was used; or as above
	}
	binary := sparing(t)
	enough := map[int]bool{}
	for _, n := range scrubDepths {
		_, passed := leavesNothing(t, binary, "", fmt.Sprintf("scrub %d", n))
		enough[n] = passed
		t.Logf("erasing %d bytes of stack is enough: %t", n, passed)
	}
	require.False(t, enough[0])
	require.True(t, enough[2048])
}
