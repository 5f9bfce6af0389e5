package arch

import (
	"go/ast"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// unsafeFiles are the files that may use unsafe, and what for. Tests may use it
// where they look at memory.
var unsafeFiles = map[string]string{
	"memsafe/region.go":                  "maps memory",
	"memsafe/pool.go":                    "maps memory",
	"keyring/file.go":                    "the slots of a mapped register",
	"keyring/record.go":                  "the shared words of a mapped record",
	"keyring/fstat_raw.go":               "fstat at claims, without waking the scheduler",
	"internal/wipe/wipe.go":              "wipes ciphers of libraries",
	"internal/apart/apart.go":            "seccomp",
	"internal/memscan/stop.go":           "ptrace",
	"internal/memscan/stack.go":          "the stack below a function",
	"seal/agent/internal/peer/groups.go": "SO_PEERGROUPS",
	"internal/unixsock/message.go":       "recvmsg and sendmsg that do not wait, without waking the scheduler",
	"internal/pidfd/pidfd.go":            "ppoll that does not wait, at each request to the agent",
}

func TestUnsafe(t *testing.T) {
	used := map[string]bool{}
	for _, p := range packages(t) {
		for _, s := range files(t, p, false) {
			if s.imports()["unsafe"] {
				used[s.name] = true
				require.NotEmpty(t, unsafeFiles[s.name], "%s uses unsafe and has no reason", s.name)
			}
		}
	}
	for name := range unsafeFiles {
		require.True(t, used[name], "%s no longer uses unsafe", name)
	}
}

// silent packages print nothing: they return errors and log through log/slog.
var silent = []string{"memsafe", "keyring", "internal/wipe", "internal/token", "internal/boottime", "seal", "secctx", "negotiate", "handoff"}

// talkative are the packages below those that run by themselves.
var talkative = []string{"secctx/internal/gen"}

// formatting are the functions and methods whose arguments somebody may read.
var formatting = []string{"Print", "Printf", "Println", "Sprint", "Sprintf", "Sprintln", "Fprint", "Fprintf", "Fprintln",
	"Errorf", "Append", "Appendf", "Appendln", "Debug", "Info", "Warn", "Error", "Log", "LogAttrs", "String", "Any", "Panic", "Panicf", "Fatal", "Fatalf"}

// printing are the calls of a file that write to a standard stream.
func printing(s source) (at []string) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch f := call.Fun.(type) {
		case *ast.Ident:
			if f.Name == "print" || f.Name == "println" {
				at = append(at, s.at(n))
			}
		case *ast.SelectorExpr:
			if x, ok := f.X.(*ast.Ident); ok && x.Name == "fmt" && strings.HasPrefix(f.Sel.Name, "Print") {
				at = append(at, s.at(n))
			}
		}
		for _, arg := range call.Args {
			if sel, ok := arg.(*ast.SelectorExpr); ok && (sel.Sel.Name == "Stdout" || sel.Sel.Name == "Stderr") {
				at = append(at, s.at(n))
			}
		}
		return true
	})
	return at
}

// revealing are the calls of a file that format or log the bytes of a secret:
// something with Bytes(), as a memsafe.Secret has it, or what is called so.
func revealing(s source) (at []string) {
	secret := func(n ast.Node) bool {
		found := false
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				switch f := n.Fun.(type) {
				case *ast.Ident:
					if f.Name == "len" || f.Name == "cap" {
						return false // a length is none
					}
				case *ast.SelectorExpr:
					found = found || f.Sel.Name == "Bytes" && len(n.Args) == 0
				}
			case *ast.Ident:
				found = found || slices.Contains([]string{"plain", "key", "secret", "password", "plaintext"}, n.Name)
			}
			return !found
		})
		return found
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !slices.Contains(formatting, f.Sel.Name) {
			return true
		}
		switch x, _ := f.X.(*ast.Ident); {
		case x != nil && x.Name == "unsafe":
			return true // unsafe.String
		case f.Sel.Name == "Append" && (x == nil || x.Name != "fmt"):
			return true // of something else
		}
		if f.Sel.Name == "Error" && len(call.Args) == 0 {
			return true
		}
		for _, arg := range call.Args {
			if secret(arg) {
				at = append(at, s.at(n))
			}
		}
		return true
	})
	return at
}

func TestNothingPrints(t *testing.T) {
	checked := 0
	for _, p := range packages(t) {
		if !withinAny(p.path(), silent) || withinAny(p.path(), talkative) {
			continue
		}
		for _, s := range files(t, p, false) {
			checked++
			require.Empty(t, printing(s), "writes to a standard stream")
			require.Empty(t, revealing(s), "shows a secret to whoever reads errors and logs")
		}
	}
	require.Greater(t, checked, 40)

	bad := parse(t, "bad.go", `package bad
import ("fmt"; "log/slog"; "os")
func f(s S, key []byte) error {
	println(1)
	fmt.Println("x")
	fmt.Fprintf(os.Stderr, "x")
	slog.Info("opened", "token", s.Bytes())
	_ = fmt.Sprintf("%x", key)
	return fmt.Errorf("bad key %s", string(key))
}`)
	require.Len(t, printing(bad), 3)
	require.Len(t, revealing(bad), 3)
	good := parse(t, "good.go", `package good
import "fmt"
func f(s S, key []byte) error { return fmt.Errorf("key of %d bytes, secret of %d", len(key), len(s.Bytes())) }`)
	require.Empty(t, revealing(good))
}

// environment are the functions that read the environment, by package. Temporary
// and home directories are variables too.
var environment = map[string][]string{
	"os":                    {"Getenv", "LookupEnv", "Environ", "ExpandEnv", "TempDir", "UserHomeDir", "UserConfigDir", "UserCacheDir"},
	"syscall":               {"Getenv", "Environ"},
	"golang.org/x/sys/unix": {"Getenv", "Environ"},
	"os/user":               {"Current"},
}

// mayReadEnvironment are the trees outside internal/secureenv whose code may read the
// environment, and why.
var mayReadEnvironment = map[string]string{
	"internal/secureenv":            "decides whether it counts",
	"internal/apart":                "tests: hands it to the process of a test",
	"internal/memscan":              "tests: hands it to the process of a test",
	"internal/bench":                "measurements: hands it to the programs that it measures",
	"cmd/sealctx/internal/cprogram": "hands it to the program that it starts",
	"examples/prefork":              "hands it to its workers, and reads nothing in it",
	"examples/negotiate":            "hands it to its workers, and reads nothing in it",
}

// readingEnvironment are the places of a file where it reads the environment without
// asking whether the environment counts: by a call, by a temporary file whose
// directory is not said, or by a field of a command line that a variable fills.
func readingEnvironment(s source) (at []string) {
	names := map[string][]string{} // by the name that the file gives the package
	for _, i := range s.file.Imports {
		path := strings.Trim(i.Path.Value, `"`)
		name := path[strings.LastIndex(path, "/")+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		names[name] = environment[path]
		if path == "os" {
			names[name] = append(slices.Clone(environment[path]), "MkdirTemp", "CreateTemp")
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr: // a temporary file with its directory
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if ok && (sel.Sel.Name == "MkdirTemp" || sel.Sel.Name == "CreateTemp") && len(n.Args) > 0 {
				if dir, ok := n.Args[0].(*ast.BasicLit); !ok || dir.Value != `""` {
					return false
				}
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && slices.Contains(names[x.Name], n.Sel.Name) {
				at = append(at, s.at(n))
			}
		case *ast.Field:
			if n.Tag != nil && strings.Contains(n.Tag.Value, `env:"`) {
				at = append(at, s.at(n))
			}
		}
		return true
	})
	return at
}

// The environment of a program with more rights than its caller's counts for
// nothing: what reads it asks internal/secureenv.
func TestEnvironment(t *testing.T) {
	used := map[string]bool{}
	checked := 0
	for _, p := range packages(t) {
		for _, s := range files(t, p, false) {
			checked++
			at := readingEnvironment(s)
			if mayReadEnvironment[p.path()] != "" {
				used[p.path()] = used[p.path()] || len(at) > 0
				continue
			}
			require.Empty(t, at, "reads the environment; use internal/secureenv")
		}
	}
	require.Greater(t, checked, 100)
	for path := range mayReadEnvironment {
		require.True(t, used[path], "%s no longer reads the environment", path)
	}

	bad := parse(t, "bad.go", `package bad
import ("os"; sys "syscall"; "os/user")
type c struct { A string `+"`env:\"AGENT\"`"+` }
func f() {
	_ = os.Getenv("A")
	_, _ = os.LookupEnv("A")
	g := os.Environ
	_, _ = sys.Getenv("A")
	_, _ = os.MkdirTemp("", "x")
	_, _ = os.CreateTemp("", "x")
	_ = os.TempDir()
	_, _ = user.Current()
}`)
	require.Len(t, readingEnvironment(bad), 9)
	require.Empty(t, readingEnvironment(parse(t, "good.go", `package good
import ("os"; "github.com/sealctx/sealctx/internal/secureenv")
func f() { _ = secureenv.Get("A"); _, _ = os.MkdirTemp("/run", "x"); _ = os.Unsetenv("A") }`)))
}

// Each package says what it is for, in a comment that begins as go doc wants it.
func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		require.True(t, strings.HasPrefix(p.Doc, want), "%s: its comment must begin with %q and begins with %q", p.path(), want, p.Doc)
	}
}

// initializers may run at import: providers of go-gssapi register that way.
var initializers = []string{"secctx/krb5"}

func TestNoInit(t *testing.T) {
	inits := func(s source) (n int) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				n++
			}
		}
		return n
	}
	for _, p := range packages(t) {
		if slices.Contains(initializers, p.path()) {
			continue
		}
		for _, s := range files(t, p, false) {
			require.Zero(t, inits(s), "%s works at import", s.name)
		}
	}
	require.Equal(t, 1, inits(parse(t, "bad.go", "package bad\nfunc init() {}\nfunc (x T) init() {}")))
}
