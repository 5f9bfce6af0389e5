package arch

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// arrows says for each tree of packages which other trees it may import, outside
// its tests. The longest tree that holds a package is its own. Within a tree
// everything may import everything.
var arrows = map[string][]string{
	"memsafe":            {}, // knows no cryptography and none of us
	"internal/boottime":  {},
	"internal/wipe":      {"memsafe"},
	"internal/suite":     {"internal/wipe"},
	"keyring":            {"memsafe", "internal/boottime", "internal/secureenv", "internal/suite"},
	"internal/token":     {"memsafe", "internal/suite"}, // bytes; neither keys nor registers
	"internal/pidfd":     {},
	"seal":               {"keyring", "memsafe", "internal/token", "internal/suite", "internal/pidfd"},
	"internal/unixsock":  {"internal/pidfd"},
	"internal/listen":    {},
	"seal/agent":         {"seal", "memsafe", "internal/token", "internal/suite", "internal/boottime", "internal/unixsock", "internal/listen", "internal/pidfd", "internal/secureenv"},
	"secctx":             {"seal", "memsafe", "secctx/internal/blind"},
	"internal/secureenv": {},
	"secctx/krb5":        {"memsafe", "internal/wipe", "internal/secureenv", "internal/boottime"}, // a mechanism like any other: it knows no sealing
	"handoff":            {"secctx", "seal", "internal/unixsock"},
	"cmd/sealctx":        {"handoff", "secctx", "secctx/krb5", "seal", "seal/agent", "keyring", "memsafe", "internal/boottime", "internal/unixsock", "internal/listen", "internal/secureenv", "internal/suite"},
	"examples":           {"handoff", "secctx", "secctx/krb5", "secctx/spnego", "negotiate", "seal", "seal/agent"},

	"secctx/internal/blind": {},
	"secctx/spnego":         {"seal", "memsafe", "secctx/internal/blind"}, // object identifiers, no mechanism
	"negotiate":             {"secctx/spnego", "seal"},                    // any provider

	// What serves tests and measurements only, and is imported by nothing else.
	"fuzz":             {},
	"internal/apart":   {},
	"internal/arch":    {},
	"internal/bench":   {},
	"internal/soak":    {},
	"internal/docs":    {},
	"internal/memscan": {},
	"internal/vectors": {},
}

// A library is code of others, and where it may be used, outside of tests.
type library struct {
	in  []string // trees; empty: everywhere
	why string
}

var libraries = map[string]library{
	"golang.org/x/crypto": {nil, "cryptobyte for hostile bytes, ChaCha20-Poly1305"},
	"golang.org/x/sys":    {nil, "the kernel"},
	"github.com/awnumar/memguard": {[]string{"memsafe"},
		"it panics and wipes everything where it cannot lock; memsafe keeps that in"},
	"github.com/golang-auth/go-gssapi/v3": {[]string{"secctx", "negotiate", "handoff", "cmd/sealctx", "examples", "internal/bench"},
		"sealing knows tokens and no contexts"},
	"github.com/go-krb5/krb5": {[]string{"secctx/krb5/kdc"},
		"a client that talks to a KDC; on a peer's bytes it panics, and it takes tickets of other realms"},
	"github.com/alecthomas/kong": {[]string{"cmd/sealctx"}, "the command line"},
	"github.com/prometheus/client_golang": {[]string{"seal/agent/metrics", "cmd/sealctx"},
		"a hundred packages that must not be in everybody's program"},
	"github.com/elastic/go-seccomp-bpf":   {[]string{"cmd/sealctx", "seal/agent"}, "the agent's filter"},
	"github.com/landlock-lsm/go-landlock": {[]string{"cmd/sealctx", "seal/agent"}, "the agent's filter"},
	"github.com/stretchr/testify": {[]string{"seal/internal/conformance", "secctx/krb5/internal/filetest", "internal/unixsock/linger"},
		"tests; what the tests of two packages share is outside a test file"},
	"github.com/rogpeppe/go-internal": {[]string{"fuzz"}, "tests of the command"},
}

// testOnly libraries are not for what is shipped, wherever it is.
var testOnly = []string{"github.com/stretchr/testify", "github.com/rogpeppe/go-internal"}

// forbidden packages of the standard library, and where not.
var forbidden = []struct {
	path, why string
	not       []string // trees; empty: nowhere
	but       []string // trees
}{
	{"C", "the main module builds without cgo", nil, nil},
	{"log", "a global logger; log/slog is passed in", nil, []string{"internal", "secctx/internal/gen", "examples"}},
	{"math/rand", "math/rand/v2, or crypto/rand where it matters", nil, nil},
	{"testing", "for test files", nil, []string{"internal/apart", "internal/memscan", "seal/internal/conformance", "secctx/krb5/internal/filetest", "internal/unixsock/linger"}},
	{"expvar", "registers itself in http.DefaultServeMux", nil, nil},
	{"net/http/pprof", "registers itself in http.DefaultServeMux", nil, nil},
	{"encoding/gob", "reads types from hostile bytes", nil, nil},
	{"encoding/asn1", "slow and lax on hostile bytes; cryptobyte/asn1 does it", nil, nil},
	{"os/exec", "a library starts no programs", []string{"memsafe", "keyring", "internal/token", "seal", "secctx", "negotiate"}, nil},
	{"net/http", "no web server in a library", []string{"memsafe", "keyring", "internal/token", "seal", "secctx", "handoff"}, []string{"seal/agent/metrics"}},
	{"net", "embedded sealing is files and memory", []string{"memsafe", "keyring", "internal/token", "seal"}, []string{"seal/agent"}},
	{"encoding/json", "secrets and formats are written out by hand", []string{"memsafe", "keyring", "internal/token", "seal", "secctx", "negotiate"}, nil},
}

// tree returns the longest tree of the rules that holds a package.
func tree(path string) string {
	best := ""
	for t := range arrows {
		if within(path, t) && len(t) > len(best) {
			best = t
		}
	}
	return best
}

// wrongArrows are the imports of a package that the rules do not have.
func wrongArrows(path string, imports []string) (wrong []string) {
	own := tree(path)
	if own == "" {
		return []string{path + " is in no tree of the rules: a package is added for a concept that a user would name"}
	}
	for _, i := range imports {
		if !ours(i) {
			continue
		}
		target := tree(inModule(i))
		// krb5 is below secctx and knows nothing of it.
		if target != own && !slices.Contains(arrows[own], target) {
			wrong = append(wrong, path+" must not import "+inModule(i))
		}
	}
	return wrong
}

// unusedArrows are the rules' arrows that no package of its tree uses.
func unusedArrows(rules map[string][]string, used map[string][]string) (unused []string) {
	for from, targets := range rules {
		for _, to := range targets {
			if !slices.Contains(used[from], to) {
				unused = append(unused, from+" -> "+to)
			}
		}
	}
	slices.Sort(unused)
	return unused
}

func TestArrows(t *testing.T) {
	used := map[string][]string{}
	for _, p := range packages(t) {
		require.Empty(t, wrongArrows(p.path(), p.Imports))
		for _, i := range p.Imports {
			if ours(i) {
				used[tree(p.path())] = append(used[tree(p.path())], tree(inModule(i)))
			}
		}
	}
	require.Empty(t, unusedArrows(arrows, used), "nobody uses these: they leave the rules")
	// The controls.
	require.Equal(t, []string{"a -> c"}, unusedArrows(map[string][]string{"a": {"b", "c"}}, map[string][]string{"a": {"b"}, "b": {"c"}}))
	require.NotEmpty(t, wrongArrows("memsafe", []string{module + "/keyring"}))
	require.NotEmpty(t, wrongArrows("secctx/krb5", []string{module + "/secctx"}))
	require.NotEmpty(t, wrongArrows("secctx/krb5/internal/etype", []string{module + "/seal"}))
	require.NotEmpty(t, wrongArrows("seal", []string{module + "/seal/agent"}))
	require.NotEmpty(t, wrongArrows("keyring", []string{module + "/internal/memscan"}))
	require.NotEmpty(t, wrongArrows("memsafe", []string{module + "/internal/wipe"})) // of ciphers it knows nothing
	require.NotEmpty(t, wrongArrows("secctx/krb5/internal/etype", []string{module + "/internal/token"}))
	require.NotEmpty(t, wrongArrows("util", nil))
}

// libraryOf returns the rule for a package of others, if there is one.
func libraryOf(importPath string) (string, bool) {
	best := ""
	for name := range libraries {
		if within(importPath, name) && len(name) > len(best) {
			best = name
		}
	}
	return best, best != ""
}

// foreign reports whether a path is of another module: its first part is a host.
func foreign(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return strings.Contains(first, ".") && !ours(importPath)
}

func wrongLibraries(path string, imports []string) (wrong []string) {
	for _, i := range imports {
		name, known := libraryOf(i)
		switch {
		case !foreign(i):
		case !known:
			wrong = append(wrong, path+" imports "+i+", which no rule knows")
		case libraries[name].in != nil && !withinAny(path, libraries[name].in):
			wrong = append(wrong, path+" must not import "+i+": "+libraries[name].why)
		}
	}
	return wrong
}

func TestLibraries(t *testing.T) {
	for _, p := range packages(t) {
		require.Empty(t, wrongLibraries(p.path(), p.Imports))
		for _, dep := range p.Deps {
			if p.Name == "main" && slices.ContainsFunc(testOnly, func(lib string) bool { return within(dep, lib) }) && !within(p.path(), "internal") && !within(p.path(), "fuzz") {
				t.Errorf("%s is a program and depends on %s, which is for tests", p.path(), dep)
			}
		}
	}
	require.NotEmpty(t, wrongLibraries("seal", []string{"github.com/awnumar/memguard"}))
	require.NotEmpty(t, wrongLibraries("secctx/krb5", []string{"github.com/go-krb5/krb5/keytab"}))
	require.NotEmpty(t, wrongLibraries("cmd/sealctx", []string{"example.org/left-pad"}))
	require.Empty(t, wrongLibraries("secctx/krb5/kdc", []string{"github.com/go-krb5/krb5/client", "net"}))
}

// Each module that go.mod asks for by itself has a rule, and so a reason.
func TestEveryRequirementHasRule(t *testing.T) {
	b, err := os.ReadFile(root + "/go.mod")
	require.NoError(t, err)
	n := 0
	for _, m := range regexp.MustCompile(`(?m)^\s+(\S+\.\S+) v\S+$`).FindAllStringSubmatch(string(b), -1) {
		n++
		_, known := libraryOf(m[1])
		require.True(t, known, "%s has no rule", m[1])
	}
	require.Greater(t, n, 4)
}

func wrongStandard(path string, imports []string) (wrong []string) {
	for _, f := range forbidden {
		there := f.not == nil || withinAny(path, f.not)
		if there && !withinAny(path, f.but) && slices.Contains(imports, f.path) {
			wrong = append(wrong, path+" must not import "+f.path+": "+f.why)
		}
	}
	return wrong
}

func TestForbidden(t *testing.T) {
	for _, p := range packages(t) {
		require.Empty(t, wrongStandard(p.path(), p.Imports))
		require.Empty(t, p.CgoFiles)
	}
	require.NotEmpty(t, wrongStandard("seal", []string{"net"}))
	require.NotEmpty(t, wrongStandard("handoff", []string{"log"}))
	require.Empty(t, wrongStandard("seal/agent", []string{"net"}))
}

// What sealing pulls in, however far away.
func TestSealingIsSmall(t *testing.T) {
	heavy := []string{"net", "net/http", "os/exec", "encoding/gob", "text/template", "C"}
	checked := 0
	for _, p := range packages(t) {
		if !slices.Contains([]string{"memsafe", "keyring", "internal/wipe", "internal/suite", "internal/token", "seal"}, p.path()) {
			continue
		}
		checked++
		for _, dep := range p.Deps {
			require.NotContains(t, heavy, dep, p.path())
			if name, _ := libraryOf(dep); name != "" && libraries[name].in != nil {
				require.Equal(t, "github.com/awnumar/memguard", name, "%s depends on %s", p.path(), dep)
			}
		}
	}
	require.Equal(t, 6, checked)
}

// Code that only tests need stays out of what is shipped.
func TestShippedWithoutTests(t *testing.T) {
	forTests := []string{"internal/apart", "internal/memscan", "internal/vectors", "internal/arch", "internal/docs", "internal/bench", "internal/unixsock/linger", "seal/internal/conformance", "secctx/krb5/internal/filetest", "fuzz"}
	for _, p := range packages(t) {
		if withinAny(p.path(), forTests) {
			continue
		}
		for _, dep := range p.Deps {
			if ours(dep) {
				require.False(t, withinAny(inModule(dep), forTests), "%s depends on %s", p.path(), dep)
			}
		}
	}
}
